"""Other ways to fail than forgetting, after the last lesson: confusion, copying, drift."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perdure.lineage.rows import Cell
from perdure.report.reading import Run
from perdure.report.summary import plain

HEADINGS = (
    ("Taken for another ↓", "share of pictures that look most like another concept of the same kind"),
    ("Real ones taken so", "the same share among the references themselves"),
    ("Nearest training picture", "likeness of each picture to the training picture most like it"),
    ("Real to real", "the same of real pictures that were not trained on: above it is copying"),
    ("Drift: likeness ↑", "of pictures that mention no concept to the base's, same prompt and noise"),
    ("Drift: pixels ↓", "mean absolute difference of these pictures, from 0 to 1"),
)


@dataclass(frozen=True)
class Failings:
    """A line of the table, and in words what was taken for what."""

    run: Run
    entries: tuple[str, ...]
    mistaken: tuple[str, ...]


def table(runs: Sequence[Run]) -> tuple[Failings, ...]:
    """A line for each run of which something of the kind was measured."""
    return tuple(_line(run) for run in runs if any(map(math.isfinite, figures(run).values())))


def figures(run: Run) -> dict[str, float]:
    """After the last lesson: `confusion`, `confusion_real`, `nearest`, `nearest_real`, `copying` (nearest less real),
    means over concepts; `drift` (1 - likeness), `drift_pixels`. NaN where not measured, as in older lineages.
    """
    confused = [cell.record["confusion"] for cell in _last(run) if "confusion" in cell.record]
    copied = [cell.record["copying"] for cell in _last(run) if "copying" in cell.record]
    moved = run.rows[-1].drift
    against = [one for one in copied if one["real"] is not None]
    return {
        "confusion": _mean([one["share"] for one in confused]),
        "confusion_real": _mean([one["real"] for one in confused if one["real"] is not None]),
        "nearest": _mean([one["nearest"] for one in copied]),
        "nearest_real": _mean([one["real"] for one in against]),
        "copying": _mean([one["nearest"] - one["real"] for one in against]),
        "drift": 1 - float(moved.get("likeness", math.nan)),
        "drift_pixels": float(moved.get("pixels", math.nan)),
    }


def _line(run: Run) -> Failings:
    found = figures(run)
    shown = ("confusion", "confusion_real", "nearest", "nearest_real")
    entries = (*(plain(found[key]) for key in shown), plain(1 - found["drift"]), plain(found["drift_pixels"]))
    mistaken = tuple(
        f"{cell.record['concept']} for {other} ({count} of {len(cell.record['images'])})"
        for cell in _last(run)
        for other, count in cell.record.get("confusion", {}).get("taken_for", {}).items()
    )
    return Failings(run, entries, mistaken)


def _last(run: Run) -> list[Cell]:
    return [cell for (row, _), cell in run.cells.items() if row == run.lessons and run.lessons]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
