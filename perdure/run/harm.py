"""What a lesson cost the older concepts, beside the spread of their own pictures; and the gate."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from perdure import images
from perdure.compare.statistics import LEVEL, t_interval
from perdure.drawing.judging import kept_features, told
from perdure.drawing.tools import Tools
from perdure.lineage import Lineage
from perdure.lineage.rows import Cell, Row
from perdure.score import doubts


def noted(tools: Tools, lineage: Lineage, staged: Row, gate: float | None) -> dict[str, Any]:
    """What a finished lesson's record says of harm: its `cost`, and a `refusal` where its gate does not allow it."""
    cost = costs(tools, lineage, lineage.rows[-1], staged) if lineage.lessons else {}
    over = {name: lost for name, lost in cost.items() if gate is not None and lost["drop"] > gate}
    fallen = [_fell(lineage, staged, name, lost) for name, lost in over.items()]
    return {"cost": cost} | ({"refusal": {"gate": gate, "told": fallen}} if fallen else {})


def _fell(lineage: Lineage, staged: Row, name: str, lost: dict[str, Any]) -> str:
    """How far a concept fell, and why the scores that say so prove nothing, where something speaks against them."""
    taught, cells = lineage.concept_facts(name)["concept"], (lineage.rows[-1].cell(name), staged.cell(name))
    found = [doubts.of(cell.record, lost["measure"], lineage.settings, taught) for cell in cells if cell is not None]
    against = dict.fromkeys(doubt.told for some in found for doubt in some if doubt.murk)
    told = f"{name} fell from {lost['before']:.3f} to {lost['after']:.3f} ({lost['measure']})"
    return f"{told}, which proves nothing: {', '.join(against)}" if against else told


def costs(tools: Tools, lineage: Lineage, before: Row, after: Row) -> dict[str, dict[str, Any]]:
    """Concept -> what the first measure of it lost from one row to the next, of all older concepts that both drew.

    `measure`, `before`, `after`; `drop`: above 0 is harm, whichever way the measure is better; `low`, `high`: its t
    interval over the pairs of pictures of one prompt and noise, at 95 % for all concepts together (Bonferroni), None
    for one pair or a measure that scores no single pictures; `pictures`: how many pairs.
    """
    pairs = [(name, before.cell(name), after.cell(name)) for name in lineage.concepts]
    both = [
        (name, old, new)
        for name, old, new in pairs
        if old is not None and new is not None and old.scores and new.scores
    ]
    return {name: _cost(tools, lineage, name, old, new, len(both)) for name, old, new in both}


def _cost(tools: Tools, lineage: Lineage, name: str, old: Cell, new: Cell, concepts: int) -> dict[str, Any]:
    measure = next(iter(old.scores))
    sign = -1 if old.record["measures"][measure]["direction"] == "lower" else 1
    was, now = (_each(tools, lineage, name, measure, cell) for cell in (old, new))
    low: float | None = None
    high: float | None = None
    if len(was) == len(now) > 1:
        low, high, _ = t_interval(sign * (np.array(was) - np.array(now)), 1 - (1 - LEVEL) / concepts)
    scores = {"before": old.scores[measure], "after": new.scores[measure]}
    drop = sign * (scores["before"] - scores["after"])
    return {"measure": measure, **scores, "drop": drop, "low": low, "high": high, "pictures": len(now)}


def _each(tools: Tools, lineage: Lineage, name: str, measure: str, cell: Cell) -> Sequence[float]:
    """The score of each picture of a cell: as recorded, or taken again where an older version drew it."""
    known: list[float] | None = cell.record.get("each", {}).get(measure)
    if known is None:
        concept, scorer = lineage.concept(name), tools.measure(measure)
        features = scorer.features([images.read_image(path) for path in cell.images])
        prompts = told(concept, scorer, [image["prompt"] for image in cell.record["images"]])
        known = scorer.each(features, prompts, kept_features(tools, lineage, concept, scorer, "references"))
    return known
