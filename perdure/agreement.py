"""Whether a plan, a base and a concept are those that a lineage was made with; the first difference in words.

Settings are compared key by key. A key that a lineage of an older version lacks counts as the key's own default (not
that of a base, in defaults.yaml): a new key is a new possibility, and by default does what was done before.
Fingerprints are labels of what a version understood, and are not compared: they change with every key that is added.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from perdure import files, mistakes
from perdure.errors import LineageError
from perdure.plan import TOYBOX, Concept, Plan, describe, fingerprint, portable

if TYPE_CHECKING:
    from perdure.lineage import Lineage


def record(path: Path, format: int, plan: Plan, base_identity: str, versions: dict[str, str]) -> None:
    """Write down what a lineage is made with, its lineage.json."""
    settings = plan.settings()
    facts = {"format": format, "name": plan.name, "settings": settings, "base_identity": base_identity}
    facts |= {"fingerprint": fingerprint(portable(settings)), "versions": versions}
    files.write_json(path, facts)


def on_plan(lineage: "Lineage", plan: Plan) -> None:
    """Refuse a plan that did not make this lineage; one with more concepts continues it. Raises LineageError."""
    on_settings(lineage, plan)
    names = [concept.name for concept in plan.sequence]
    planned = [set(names)] if plan.joint else [{name} for name in names]
    if [set(row.concepts) for row in lineage.lessons] != planned[: len(lineage.lessons)]:
        raise LineageError(
            f"{lineage.folder} has learnt {', '.join(lineage.concepts)}, "
            f"which is not how the plan begins: {', '.join(names)}; give another --out folder, or delete this one"
        )
    for concept in plan.sequence:
        if concept.name in lineage.concepts:
            on_concept(lineage.folder, lineage.concept_facts(concept.name)["described"], concept)


def on_settings(lineage: "Lineage", plan: Plan) -> None:
    """Refuse a plan that would teach otherwise; concepts and order do not count. Raises LineageError."""
    mine, theirs = portable(completed(lineage)), portable(plan.settings())
    if mine != theirs:
        raise LineageError(
            f"{lineage.folder} was made by another plan: {difference(mine, theirs)}; "
            "give another --out folder, or delete this one"
        )


def completed(lineage: "Lineage") -> dict[str, Any]:
    """The settings of a lineage, with the defaults of keys that it lacks. Raises LineageError for unknown ones."""
    with mistakes.understood(lineage.folder / "lineage.json", Plan):
        return Plan.model_validate(_understood(lineage.settings)).settings()


def _understood(settings: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings in today's terms: the empty negative prompt of the embedded base is its pipeline's default."""
    sampling = settings["sampling"]
    if settings["base"] != TOYBOX or sampling.get("negative_prompt") != "":
        return settings
    return {**settings, "sampling": {**sampling, "negative_prompt": None}}


def on_base(lineage: "Lineage", identity: str) -> None:
    """Refuse other weights than the lineage was begun on. Raises LineageError."""
    base = lineage.settings["base"]
    if os.path.isabs(base) and not os.path.isdir(base):
        raise LineageError(
            f"{lineage.folder} was made on a base that is no longer in {base}; put it back, or write where it is now "
            f"into {lineage.folder / 'lineage.json'} (settings, base)"
        )
    if identity != lineage.facts["base_identity"]:
        raise LineageError(f"{lineage.folder} was made on other weights of base {base!r}; the base has changed since")


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


def difference(mine: Any, theirs: Any, at: str = "") -> str:
    """The first key in which two nested values differ, in words."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in [*mine, *(k for k in theirs if k not in mine)]:
            if mine.get(key) != theirs.get(key):
                return difference(mine.get(key), theirs.get(key), f"{at}.{key}".lstrip("."))
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for position, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            if one != other:
                return difference(one, other, f"{at}.{position}")
    return f"{at} is {mine!r} there and {theirs!r} in the plan"
