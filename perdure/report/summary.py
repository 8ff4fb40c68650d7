"""The table of figures: a row a run, a column a figure, the best marked."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from perdure import wording
from perdure.report.reading import Run, figures
from perdure.score import accuracy
from perdure.score.matrix import FORMULAS, Formula

ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Heading:
    """A column: what it is called, which way is better, and where it comes from."""

    title: str
    arrow: str
    formula: str
    source: str
    meaning: str


@dataclass(frozen=True)
class Entry:
    """One number, as shown."""

    text: str
    best: bool


@dataclass(frozen=True)
class Table:
    """The figures of one measure. `rows`: (run, its entries)."""

    measure: str
    direction: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Run, tuple[Entry, ...]], ...]
    partial: bool
    """Whether the measure was taken of some of the concepts only."""

    @property
    def marked(self) -> bool:
        """Whether a value is marked as the best."""
        return any(entry.best for _, entries in self.rows for entry in entries)


@dataclass(frozen=True)
class Figure:
    """A column: how it is called, what it says, how a value is written, and which way is better if always the same."""

    key: str
    title: str
    meaning: str
    show: Callable[[float], str]
    better: str = ""


def plain(value: float) -> str:
    """A score."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def signed(value: float) -> str:
    """A difference."""
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "–"


def seconds(value: float) -> str:
    """A span of time for people."""
    if not math.isfinite(value):
        return "–"
    if value < 99.5:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


FIGURES = (
    Figure("average", "Average", "mean score of all concepts after the last lesson", plain),
    Figure(
        "forgetting", "Forgetting", "best score since its own lesson minus last, over the T − 1 earlier concepts", plain
    ),
    Figure(
        "forgetting_reference",
        "Forgetting (T)",
        "the same, divided by all T concepts, as the published code does",
        plain,
    ),
    Figure("backward_transfer", "Backward transfer", "last score minus the score right after learning", signed),
    Figure("shift", "Shift", "distance from what was drawn right after its own lesson, earlier concepts", plain),
    Figure("learning", "Learning", "mean score right after each concept's own lesson", plain),
    Figure("forward_transfer", "Forward transfer", "score just before its lesson minus the base's", signed),
    Figure("gain_over_base", "Gain over base", "last score minus the untouched base's", signed),
)
CLASS_FIGURES = (
    Figure("average", "A_N", "accuracy over all test pictures after the last task", plain),
    Figure("running_average", "Average incremental", "mean over tasks of the accuracy over all classes so far", plain),
    Figure("forgetting", "F_N, best", "best accuracy since its own task minus last, earlier tasks", plain),
    Figure("forgetting_own", "F_N, own", "accuracy right after its own task minus last, mean of earlier tasks", signed),
    Figure("forgetting_per_step", "F_N, a step", "drop from one task to the next, earlier tasks", signed),
    Figure("backward_transfer", "Backward transfer", "last accuracy minus that right after its own task", signed),
    Figure("learning", "Learning", "mean accuracy right after each task's own lesson", plain),
    Figure("gain_over_base", "Gain over base", "last accuracy minus the base's by nearest class means", signed),
)
"""Of a classifier: F_N in three readings, of which only figures of the same one can be compared."""
COSTS = (
    Figure(
        "carried",
        "Carried",
        "bytes that the next lesson needs of all earlier ones, at the end",
        wording.size,
        "lower",
    ),
    Figure("stored", "Stored", "bytes of tensors that the whole lineage keeps on disk", wording.size, "lower"),
    Figure("seconds", "Per lesson", "seconds of training per lesson", seconds, "lower"),
)


def table(runs: Sequence[Run], measure: str) -> Table:
    """All figures of one measure. Best: among runs that are not bounds, if they have as many lessons each."""
    runs = [run for run in runs if measure in run.scores]
    direction = next((run.direction(measure) for run in runs), "higher")
    values = [{**figures(run, measure), **costs(run)} for run in runs]
    own = CLASS_FIGURES if measure in accuracy.MEASURES else FIGURES
    shown = [f for f in (*own, *COSTS) if f.key not in ("forward_transfer", "shift") or _any(values, f.key)]
    formulas = FORMULAS | accuracy.FORMULAS if own is CLASS_FIGURES else FORMULAS
    better = {f.key: f.better or _better(f.key, direction, formulas) for f in shown}
    headings = tuple(_heading(f, better[f.key], formulas) for f in shown)
    best = {f.key: _best(runs, values, f, better[f.key]) for f in shown}
    rows = tuple(
        (
            run,
            tuple(Entry(f.show(v[f.key]), not run.bound and f.show(v[f.key]) == best[f.key]) for f in shown),
        )
        for run, v in zip(runs, values, strict=True)
    )
    partial = any(not run.has(measure, name) for run in runs for name in run.concepts)
    return Table(measure, direction, headings, rows, partial)


def costs(run: Run) -> dict[str, float]:
    """Bytes carried at the end, bytes stored, mean seconds of training per lesson, and what the last fusing took."""
    lessons = [row.record for row in run.rows[1:]]
    nothing = float("nan")
    trained = [float(r["seconds"]["train"]) for r in lessons if "seconds" in r]
    fusing = lessons[-1].get("fusing", {}) if lessons else {}
    return {
        "fusing": float(fusing.get("seconds", nothing)),
        "fusing_memory": float(fusing.get("memory", nothing)) + float(fusing.get("device_memory", 0)),
        "carried": float(lessons[-1].get("bytes", {}).get("carried", nothing)) if lessons else nothing,
        "stored": float(run.lineage.nbytes) if lessons else nothing,
        "seconds": sum(trained) / len(trained) if trained else nothing,
    }


def contenders(runs: Sequence[Run]) -> list[Run]:
    """Runs that may be compared for the best: no bounds, equally many lessons, two at least, sound last scores."""
    found = [run for run in runs if not run.bound]
    if any(run.murky for run in found):
        return []
    return found if len(found) > 1 and len({run.lessons for run in found}) == 1 else []


def _best(runs: Sequence[Run], values: Sequence[Mapping[str, float]], figure: Figure, better: str) -> str | None:
    """The best value as shown; None where there is no comparison, or all are equal."""
    labels = {run.label for run in contenders(runs)}
    found = [v[figure.key] for run, v in zip(runs, values, strict=True) if run.label in labels]
    found = [value for value in found if math.isfinite(value)]
    if len(found) < 2 or len({figure.show(value) for value in found}) == 1:
        return None
    return figure.show(max(found) if better == "higher" else min(found))


def _better(key: str, direction: str, formulas: Mapping[str, Formula]) -> str:
    """Differences are turned by `summary` to read as ever; means keep the measure's direction."""
    return direction if key in ("average", "learning") else formulas[key].direction


def _heading(figure: Figure, better: str, formulas: Mapping[str, Formula]) -> Heading:
    known = formulas.get(figure.key)
    formula, source = (known.formula, known.source) if known else ("", "")
    return Heading(figure.title, ARROWS[better], formula, source, figure.meaning)


def _any(values: Sequence[Mapping[str, float]], key: str) -> bool:
    return any(math.isfinite(v[key]) for v in values)
