"""Two states of a model side by side: every concept drawn by both from the same prompts and the same noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perdure.lineage import Lineage
from perdure.lineage.rows import Cell, Row
from perdure.report.palette import fraction_of
from perdure.report.samples import Column, Line, Sample, Sheet, State

FILE = "sheet.png"
"""The sheet of a refused lesson, in its folder."""
PROMPTS = 3
"""Of a concept that a sheet shows at most."""


@dataclass(frozen=True)
class Pair:
    """One concept on both sides; None where a side did not draw it. `new`: the right side has just learnt it."""

    name: str
    kind: str
    reference: Path | None
    left: Cell | None
    right: Cell | None
    new: bool = False


def of_lesson(lineage: Lineage, before: Row, after: Row) -> Sheet:
    """Every concept before and after a lesson; what is new there was drawn before by the base."""
    names = [*(name for name in lineage.concepts if name not in after.concepts), *after.concepts]
    pairs = [
        pair(lineage, name, before.cell(name) or lineage.base_row.cell(name), after.cell(name), name in after.concepts)
        for name in names
    ]
    return sheet(after.title, pairs, ("before", "after"))


def pair(lineage: Lineage, name: str, left: Cell | None, right: Cell | None, new: bool = False) -> Pair:
    """One concept of a lineage, with its reference picture."""
    folder, kind = lineage.concept_folder(name), lineage.concept_facts(name)["concept"]["kind"]
    real = next((p for p in (folder / "ref-0.png", folder / "train-0.png") if p.is_file() and not p.is_symlink()), None)
    return Pair(name, kind, real, left, right, new)


def sheet(label: str, pairs: Sequence[Pair], heads: tuple[str, str]) -> Sheet:
    """A line a concept: a reference, then the first picture of up to three prompts, left and right side by side."""
    most = min(PROMPTS, max((len(_prompts(one)) for one in pairs), default=0))
    columns = [Column(head, f"prompt {k}" if most > 1 else "") for k in range(1, most + 1) for head in heads]
    lines = tuple(_line(one, most, heads) for one in pairs)
    return Sheet(label, (Column("reference", "the real thing"), *columns), lines, "")


def _prompts(pair: Pair) -> dict[str, tuple[int | None, int | None]]:
    """Prompt -> the number of its first picture on each side, for the prompts of either."""
    sides = [
        {image["prompt"]: k for k, image in reversed([*enumerate(cell.record["images"])])} if cell else {}
        for cell in (pair.left, pair.right)
    ]
    left, right = sides
    prompts = sorted({**right, **left}, key=lambda prompt: right.get(prompt, left.get(prompt, 0)))
    return {prompt: (left.get(prompt), right.get(prompt)) for prompt in prompts}


def _line(pair: Pair, most: int, heads: tuple[str, str]) -> Line:
    nothing = float("nan")
    measure = next((next(iter(cell.scores), "") for cell in (pair.right, pair.left) if cell), "")
    chosen = list(_prompts(pair).items())[:most]
    states: tuple[State, State] = ("base", "own") if pair.new else ("after", "after")
    places = [
        _place(cell, number, measure, state, f"{pair.name}, {head}")
        for _, numbers in chosen
        for cell, number, state, head in zip((pair.left, pair.right), numbers, states, heads, strict=True)
    ]
    scores = sorted(place.score for place in places if place.score == place.score)
    better = next(
        (c.record["measures"][measure]["direction"] for c in (pair.right, pair.left) if c and measure), "higher"
    )
    scaled = [replace(p, fraction=fraction_of(p.score, scores[0], scores[-1], better)) if scores else p for p in places]
    empty = [Sample("empty", None, nothing, 0.0, f"{pair.name}: not drawn")] * (2 * most - len(places))
    real = Sample("reference", pair.reference, nothing, 0.0, f"{pair.name}, a real picture")
    return Line(pair.name, pair.kind, chosen[0][0] if chosen else "", measure, (real, *scaled, *empty))


def _place(cell: Cell | None, number: int | None, measure: str, state: State, alt: str) -> Sample:
    """A picture with its own score, or where single pictures have none with that of all like it."""
    if cell is None or number is None:
        return Sample("empty", None, float("nan"), 0.0, f"{alt}: not drawn")
    each = cell.record.get("each", {}).get(measure)
    score = each[number] if each else cell.scores.get(measure, float("nan"))
    return Sample(state, cell.images[number], score, 0.0, alt)
