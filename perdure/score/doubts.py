"""Why a score proves nothing, read from a cell's record: a measure gives a number to any picture, murk included."""

from collections.abc import Mapping
from typing import Any, NamedTuple

EMBEDDED = ("clip", "csd", "dino")
"""What records call the scorers of the embedded base: the names of their folders."""
ALIKE = 0.25
"""Pictures are all alike where they differ among themselves by less than this share of what references do (taste)."""
MOST = 0.5
"""Share of a cell's pictures beyond which what is said of them is said of the cell."""


class Doubt(NamedTuple):
    """`kind`: foreign, above, alike, outside or confused; `told`: a clause about the score or its pictures."""

    kind: str
    told: str

    @property
    def murk(self) -> bool:
        """Whether the score itself means nothing; a concept taken for another has a score, and is lost."""
        return self.kind != "confused"


def _foreign(record: Mapping[str, Any], measure: str, settings: Mapping[str, Any], concept: Mapping[str, Any]) -> bool:
    """Whether photos are scored by an embedded measure, which was made for drawings of its own world."""
    own = settings["base"] == "toybox" and measure not in settings["scoring"].get("models", {})
    return own and record["measures"][measure].get("model") in EMBEDDED and concept.get("drawn") is None


def of(
    record: Mapping[str, Any], measure: str, settings: Mapping[str, Any], concept: Mapping[str, Any]
) -> tuple[Doubt, ...]:
    """Why a cell's score by a measure proves nothing; empty where nothing speaks against it.

    settings: the model's. concept: as in its plan. Records of older versions hold less, and less is told of them.
    """
    if measure not in record["scores"]:
        return ()
    found = []
    if _foreign(record, measure, settings, concept):
        found.append(Doubt("foreign", f"{measure} was made for drawings of the embedded world, and these are photos"))
    sign = -1.0 if record["measures"][measure]["direction"] == "lower" else 1.0
    score, ceiling = record["scores"][measure], record.get("ceiling", {}).get(measure)
    seen = record.get("alike", {}).get(measure) or {}
    if ceiling is not None and sign * score > sign * (best := seen.get("best", ceiling)):
        found.append(Doubt("above", f"{score:.3f} is above what its own references reach ({best:.3f})"))
    among = seen.get("among")
    if among is not None and ceiling is not None and sign > 0 and 1 - among < ALIKE * (1 - ceiling):
        told = f"its pictures are nearly one and the same ({among:.2f} alike, the references {ceiling:.2f})"
        found.append(Doubt("alike", told))
    return (*found, *_seen(record))


def _seen(record: Mapping[str, Any]) -> list[Doubt]:
    """What is wrong with a cell's pictures, whatever the measure."""
    found, count = [], len(record["images"])
    beyond, mistaken = record.get("outside"), record.get("confusion")
    if beyond and beyond["share"] > MOST:
        told = f"{round(beyond['share'] * count)} of {count} pictures look like none of the base's or the concept's"
        found.append(Doubt("outside", f"{told} ({', '.join(beyond['how'])})"))
    if mistaken and mistaken["share"] > max(MOST, mistaken["real"] or 0.0):
        other = max(mistaken["taken_for"], key=mistaken["taken_for"].__getitem__)
        found.append(
            Doubt("confused", f"{round(mistaken['share'] * count)} of {count} pictures look more like {other}")
        )
    return found
