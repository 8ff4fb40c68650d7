"""Whether a plan, a base and a concept are those that a lineage was made with; the first difference in words."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.errors import LineageError
from perdure.plan import Concept, Plan, describe, fingerprint, portable

if TYPE_CHECKING:
    from perdure.lineage import Lineage


def on_plan(lineage: "Lineage", plan: Plan) -> None:
    """Refuse a plan that did not make this lineage; one with more concepts continues it. Raises LineageError."""
    if fingerprint(portable(plan.settings())) != lineage.facts["fingerprint"]:
        where = difference(portable(lineage.settings), portable(plan.settings()))
        raise LineageError(
            f"{lineage.folder} was made by another plan: {where}; give another --out folder, or delete this one"
        )
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


def on_base(lineage: "Lineage", identity: str) -> None:
    """Refuse other weights than the lineage was begun on. Raises LineageError."""
    if identity != lineage.facts["base_identity"]:
        base = lineage.settings["base"]
        raise LineageError(f"{lineage.folder} was made on other weights of base {base!r}; the base has changed since")


def on_concept(folder: Path, known: dict[str, Any], concept: Concept) -> None:
    """Refuse a concept of other settings than the recorded ones. Raises LineageError."""
    if known != describe(concept):
        where = difference(known, describe(concept))
        raise LineageError(
            f"{folder}: concept {concept.name!r} was taught with other settings: {where}; "
            "give another --out folder, or delete this one"
        )


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
