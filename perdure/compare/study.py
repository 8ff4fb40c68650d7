"""Runs -> values by measure, figure, row and pair; means, differences and ranks of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from perdure import wording
from perdure.compare import gathering, statistics
from perdure.compare.gathering import Entry
from perdure.compare.statistics import Difference, Effects, Pair, Spread
from perdure.errors import PlanError, did_you_mean
from perdure.plan import fingerprint
from perdure.report import reading, scenes, summary, tables
from perdure.report.reading import Run
from perdure.report.summary import Figure
from perdure.score import accuracy, matrix
from perdure.score.matrix import Direction

_OF_RUN = {figure.key: figure for figure in summary.FIGURES}
FIGURES = (
    *map(_OF_RUN.__getitem__, ("average", "forgetting", "forgetting_reference", "shift", "learning", "gain_over_base")),
    *map(_OF_RUN.__getitem__, ("backward_transfer", "forward_transfer")),
    Figure("running_average", "Average along the way", "mean over lessons of the mean score so far", summary.plain),
    Figure("retention", "Retention", "last score divided by the score right after learning", summary.plain),
)
CLASS_FIGURES = (
    Figure("forgetting_per_step", "Forgetting a step", "mean drop from one task to the next, as CODA-Prompt counts",
           summary.signed),
    Figure("forgetting_own", "Forgetting (own)", "accuracy right after the own task minus last", summary.signed),
)  # fmt: skip
"""Further ones of accuracies."""
COSTS = (
    *summary.COSTS,
    Figure("fusing", "Fusing", "seconds of consolidating the last lesson", summary.seconds),
    Figure(
        "fusing_memory", "Memory of fusing", "main and device memory that this took beyond what was held", wording.size
    ),
)
FAILINGS = (
    Figure("confusion", "Taken for another", "share of pictures most like another concept of the kind", summary.plain),
    Figure("copying", "Copying", "likeness to the nearest training picture, less real pictures'", summary.signed),
    Figure("drift", "Drift", "1 − likeness to the base's pictures of prompts that mention no concept", summary.plain),
    Figure("drift_pixels", "Drift in pixels", "mean absolute difference of these pictures, 0 to 1", summary.plain),
)
"""Other ways to fail than forgetting, after the last lesson."""
SCENES = tuple(
    Figure(f"{title}, {how}", f"{title}, {how}", meaning, summary.plain)
    for how in scenes.HOWS
    for title, meaning in scenes.HEADINGS
    if title != "By chance"
)
"""Several concepts in one picture, after the last lesson."""
COMPARED = ("average", "forgetting", "learning")
"""Figures that methods are compared by in pairs; the others are these shifted, scaled or close to them."""
BASE = "base"
"""The row of the untouched base."""
COST = "cost"
FAILING = "failings"
SCENE = "scenes"
"""Stand for the measure where a figure is none of a measure."""

Key = tuple[str, str]
"""(measure, figure)."""


def figures_of(measure: str) -> tuple[Figure, ...]:
    """The figures of a measure, or of what stands for one."""
    if measure in accuracy.MEASURES:
        return (*FIGURES, *CLASS_FIGURES)
    return {COST: COSTS, FAILING: FAILINGS, SCENE: SCENES}.get(measure, FIGURES)


@dataclass(frozen=True)
class Study:
    """All that is compared. `rows`: contenders, best first, then bounds; `measures`: each kind's first in front."""

    entries: tuple[Entry, ...]
    unfinished: tuple[str, ...]
    measures: tuple[str, ...]
    primaries: tuple[str, ...]
    values: dict[Key, dict[str, dict[Pair, float]]]
    bases: dict[str, dict[str, float]]
    """Name -> measure -> mean score of the untouched base: one, or one a variant where it is asked otherwise."""
    directions: dict[str, Direction]
    seed: int = 0
    """Of sign flips and resamples."""

    @cached_property
    def bounds(self) -> tuple[str, ...]:
        """Rows that mark what is attainable at any price: never best, never ranked."""
        return tuple(sorted({entry.row for entry in self.entries if entry.run.bound}))

    @cached_property
    def contenders(self) -> tuple[str, ...]:
        """Rows that compete, best mean average by the first measure first."""
        names = sorted({entry.row for entry in self.entries} - set(self.bounds))
        if not self.measures:
            return tuple(names)
        key = (self.measures[0], "average")
        sign = -1.0 if self.better(*key) == "higher" else 1.0
        means = {name: sign * self.spread(*key, name).mean for name in names}
        return tuple(sorted(names, key=lambda name: (math.isnan(means[name]), means[name])))

    @cached_property
    def murky(self) -> tuple[str, ...]:
        """Contenders some of whose last scores mean nothing."""
        return tuple(row for row in self.contenders if any(entry.run.murky for entry in self.of(row)))

    @property
    def rows(self) -> tuple[str, ...]:
        """Contenders, then bounds."""
        return (*self.contenders, *self.bounds)

    @cached_property
    def orders(self) -> tuple[tuple[str, ...], ...]:
        """The orders of concepts that occur."""
        return tuple(dict.fromkeys(entry.order for entry in self.entries))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that occur."""
        return tuple(sorted({entry.seed for entry in self.entries}))

    def of(self, row: str) -> tuple[Entry, ...]:
        """The runs of one row."""
        return tuple(entry for entry in self.entries if entry.row == row)

    def better(self, measure: str, figure: str) -> Direction:
        """Which way a figure is better: means follow their measure, differences are turned to read as ever."""
        if measure == SCENE:
            return "lower" if figure.startswith(scenes.LOWER) else "higher"
        if measure in (COST, FAILING):
            return "lower"
        follows = ("average", "learning", "running_average")
        formulas = accuracy.FORMULAS | matrix.FORMULAS
        return self.directions[measure] if figure in follows else formulas[figure].direction

    def spread(self, measure: str, figure: str, row: str) -> Spread:
        """Mean and deviations of one row."""
        return statistics.spread(self.values[measure, figure][row])

    def effects(self, measure: str, figure: str, row: str) -> Effects | None:
        """Effect of order against effect of seed; None where the grid of (order, seed) has holes or one line."""
        return statistics.effects(self.values[measure, figure][row])

    @cached_property
    def _tested(self) -> dict[Key, dict[tuple[str, str], Difference]]:
        """Every two contenders by every figure, the better mean first; corrected within the figure."""
        found = {}
        for measure, figure in self.values:
            rows = {row: self.values[measure, figure][row] for row in self.ranked(measure, figure)}
            found[measure, figure] = statistics.differences(rows, self.better(measure, figure), self.seed)
        return found

    def differences(self, measure: str, figure: str) -> list[tuple[str, str, Difference]]:
        """Every two contenders, the better mean first, corrected for their number."""
        return [(a, b, d) for (a, b), d in self._tested[measure, figure].items()]

    def tiers(self, measure: str, figure: str, rows: Sequence[str] | None = None) -> list[list[str]]:
        """Contenders (or some of them), best mean first, parted only where all above are settled to beat all below."""
        ranked = [row for row in self.ranked(measure, figure) if rows is None or row in rows]
        found, tiers = self._tested[measure, figure], [ranked[:1]]
        for k, row in enumerate(ranked[1:], start=1):
            if all(found[a, b].verdict == "better" for a in ranked[:k] for b in ranked[k:]):
                tiers.append([])
            tiers[-1].append(row)
        return tiers

    def best(self, measure: str, figure: str) -> str | None:
        """The contender that is settled to be better than each other; None without one, or where scores do not hold."""
        if self.murky:
            return None
        first, *others = self.tiers(measure, figure)
        return first[0] if others and len(first) == 1 else None

    def ranked(self, measure: str, figure: str) -> list[str]:
        """Contenders with a value, best mean first."""
        means = {row: self.spread(measure, figure, row).mean for row in self.contenders}
        sign = -1.0 if self.better(measure, figure) == "higher" else 1.0
        return sorted((row for row in means if math.isfinite(means[row])), key=lambda row: sign * means[row])

    def standing(self, measure: str, figure: str) -> "Standing":
        """Mean ranks and chances of being best over the orders that all contenders with a value share."""
        rows = self.ranked(measure, figure)
        if not rows:
            return Standing(0, {}, {})
        orders, table = statistics.common([self.values[measure, figure][row] for row in rows])
        if not orders:
            return Standing(0, {}, {})
        better = self.better(measure, figure)
        ranks = statistics.ranks(table, better).mean(axis=0)
        best = statistics.probability_best(table, better, seed=self.seed)
        return Standing(len(orders), dict(zip(rows, map(float, ranks), strict=True)),
                        dict(zip(rows, map(float, best), strict=True)))  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """Row -> mean rank (1 is best) and share of bootstrap resamples in which it is best, over n common orders."""

    n: int
    rank: dict[str, float]
    best: dict[str, float]


def of(folders: Sequence[Path], measure: str | None = None) -> Study:
    """The study of all finished runs in some folders; of one measure only, if asked. Raises PerdureError."""
    found = gathering.gather(folders)
    runs = [entry.run for entry in found.entries]
    measures, first = reading.measures_of(runs), reading.primaries(runs)
    if measure is not None:
        if measure not in measures:
            raise PlanError(f"measure {measure!r} was not taken in these runs{did_you_mean(measure, measures)}")
        measures, first = [measure], [measure]
    directions = {m: next(run.direction(m) for run in runs if m in run.scores) for m in measures}
    return Study(
        found.entries, found.unfinished, tuple(measures), tuple(first), _values(found.entries, measures),
        _bases(found.entries, measures), directions,
    )  # fmt: skip


def _values(entries: Sequence[Entry], measures: Sequence[str]) -> dict[Key, dict[str, dict[Pair, float]]]:
    keys = [*((m, f.key) for m in measures for f in figures_of(m)), *((COST, f.key) for f in COSTS)]
    keys += [(FAILING, f.key) for f in FAILINGS]
    keys += [(SCENE, f.key) for f in SCENES if any(entry.run.scenes for entry in entries)]
    values: dict[Key, dict[str, dict[Pair, float]]] = {key: {entry.row: {} for entry in entries} for key in keys}
    for entry in entries:
        found = {m: _figures(entry.run, m) for m in measures} | {
            COST: summary.costs(entry.run),
            FAILING: tables.failing_figures(entry.run),
            SCENE: {f"{t}, {how}": v for how in scenes.HOWS for t, v in scenes.figures(entry.run, how).items()},
        }
        for measure, figure in keys:
            values[measure, figure][entry.row][entry.pair] = found[measure][figure]
    return values


def _figures(run: Run, measure: str) -> dict[str, float]:
    """`reading.figures`; NaN where the last lesson was not measured, lest an earlier one stand for it."""
    S = run.scores.get(measure)
    if S is None or not np.isfinite(S[-1]).any():
        return dict.fromkeys((*matrix.FORMULAS, *accuracy.FORMULAS), math.nan)
    return reading.figures(run, measure)


def _bases(entries: Sequence[Entry], measures: Sequence[str]) -> dict[str, dict[str, float]]:
    """One base for all, unless variants of the runs (other evaluation prompts, say) ask it for other pictures."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(fingerprint(entry.ground), []).append(entry)
    found = {}
    for group in groups.values():
        variants = dict.fromkeys(" ".join(entry.variant) for entry in group)
        name = gathering.SEPARATOR.join((BASE, ", ".join(variants))) if len(groups) > 1 else BASE
        found[name] = {measure: _base(group, measure) for measure in measures}
    return found


def _base(entries: Sequence[Entry], measure: str) -> float:
    """Mean over runs of the base's mean score of the concepts that the measure was taken of."""
    rows = [entry.run.scores[measure][0] for entry in entries if measure in entry.run.scores]
    means = [float(np.nanmean(row)) for row in rows if np.isfinite(row).any()]
    return float(np.mean(means)) if means else math.nan
