"""Whether a concept is the one that a model was taught; the first difference in words."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from perdure.errors import LineageError
from perdure.plan import Concept, describe


def on_concept(folder: Path, known: dict[str, Any], concept: Concept) -> None:
    """Refuse a concept of other settings than the recorded ones. Raises LineageError."""
    if not alike(known, concept):
        where = difference(_described(known), describe(concept))
        raise LineageError(
            f"{folder}: concept {concept.name!r} was taught with other settings: {where}; "
            "give another --out folder, or delete this one"
        )


def alike(known: dict[str, Any], concept: Concept) -> bool:
    """Whether a concept is the one recorded, keys that the record lacks being at their defaults."""
    return _described(known) == describe(concept)


def _described(known: dict[str, Any]) -> dict[str, Any]:
    """A recorded description with the defaults of keys that it lacks; as it is where this version cannot read it."""
    pictures = {} if known.get("drawn") else {"images": "."}
    try:
        return describe(Concept.model_validate({**known, **pictures}))
    except ValidationError:
        return known


PLACES = ("there", "in the plan")


def difference(mine: Any, theirs: Any, at: str = "", places: tuple[str, str] = PLACES) -> str:
    """The first key in which two nested values differ, in words; `places`: where each stands."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in [*mine, *(k for k in theirs if k not in mine)]:
            if mine.get(key) != theirs.get(key):
                return difference(mine.get(key), theirs.get(key), f"{at}.{key}".lstrip("."), places)
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for position, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            if one != other:
                return difference(one, other, f"{at}.{position}", places)
    return f"{at} is {mine!r} {places[0]} and {theirs!r} {places[1]}"
