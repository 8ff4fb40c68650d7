"""The charts of a study: stability against plasticity, curves with bands, fronts of score against cost."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from perdure import wording
from perdure.compare.gathering import Entry
from perdure.compare.statistics import Difference
from perdure.compare.study import COST, Study
from perdure.report import summary
from perdure.report.charts import (
    Chart,
    Look,
    blank,
    inline,
    look_of,
    margin,
    name_at_the_right,
    room,
    ruled,
    stroke,
    styled,
    tip,
)
from perdure.report.palette import METHODS, PANEL, RULE, SOFT
from perdure.report.reading import Run
from perdure.report.trends import means
from perdure.wording import short_number

ARROWS = {"higher": "higher is better", "lower": "lower is better"}
LOG_FROM = 20.0
"""Ratio of the largest to the smallest amount (bytes, seconds) from which an axis is logarithmic."""


@dataclass(frozen=True)
class KeyedChart(Chart):
    """A chart of one measure. `key`: its name among them."""

    key: str


def looks(study: Study) -> dict[str, Look]:
    """Row -> how it is drawn."""
    return {row: look_of(number, hollow=row in study.bounds) for number, row in enumerate(study.rows)}


@styled
def trade_off(study: Study, measure: str) -> KeyedChart | None:
    """Learning against forgetting: a small mark a run, a large one the row's mean. None without two lessons."""
    look, points = looks(study), _points(study, (measure, "learning"), (measure, "forgetting"))
    if not points:
        return None
    figure, axes = _framed(f"learning, {ARROWS[study.directions[measure]]}", "forgetting, lower is better", points)
    for row, found in reversed(points.items()):  # the best on top
        centre = np.mean(found, axis=0)
        for a, b in found if len(found) > 1 else ():
            _mark(axes, a, b, look[row], 7, f"{row}: {a:.3f}, {b:.3f}", faint=True)
        told = f"{row}: learning {centre[0]:.3f}, forgetting {centre[1]:.3f}, mean of {len(found)}"
        _mark(axes, centre[0], centre[1], look[row], 13, told)
    axes.margins(0.08)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: short_number(value)))
    _finished(axes, [(row, look[row], float(np.mean(found, axis=0)[1])) for row, found in points.items()])
    note = "A small mark is a run (one order, one seed), a large one a method's mean."
    return KeyedChart(f"Stability against plasticity by {measure}", note, figure, "trade-off")


def curves(study: Study, measure: str) -> list[KeyedChart]:
    """The mean of the concepts learnt so far, and the first concept's score, lesson by lesson, mean ± deviation."""
    entries = [e for e in study.entries if not e.run.joint and measure in e.run.scores]
    if not entries:
        return []
    so_far = "Mean score of the concepts learnt so far"
    first = "Score of the first concept"
    taught = "" if len(study.orders) == 1 else " Every order has a first concept of its own."
    spread = "Line: mean over runs; band: one standard deviation (ddof = 1) up and down."
    found = (
        ("mean", so_far, spread, lambda run: means(run, measure)),
        ("first", first, spread + taught, lambda run: _first(run, measure)),
    )
    drawn = ((key, title, note, _banded(study, entries, measure, of)) for key, title, note, of in found)
    return [KeyedChart(f"{title}: {measure} after each lesson", note, figure, key) for key, title, note, figure in drawn
            if figure is not None]  # fmt: skip


def fronts(study: Study, measure: str) -> list[KeyedChart]:
    """Average score against bytes carried and against seconds; the line joins what no other contender beats at both."""
    shown: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("carried", "bytes carried after the last lesson", wording.size),
        ("seconds", "seconds of training per lesson", summary.seconds),
    )
    charts = [_front(study, measure, *one) for one in shown]
    return [chart for chart in charts if chart is not None]


@styled
def forest(about: str, difference: Difference, reach: float, better: str) -> Markup:
    """One difference as a small picture: its interval as a bar, its mean as a dot, zero as a line."""
    if not math.isfinite(difference.mean) or not reach > 0:
        return Markup("")
    figure = blank(190, 22)
    axes = room(figure, 8, 8, 0, 0)
    axes.set(xlim=(-reach, reach), ylim=(-1, 1), xticks=[], yticks=[])
    colour = {"better": METHODS[2], "worse": METHODS[1]}.get(difference.verdict, SOFT)
    axes.axvline(0, color=SOFT, linewidth=1)
    if math.isfinite(difference.low):
        axes.plot([difference.low, difference.high], [0, 0], color=colour, linewidth=3.4, alpha=0.45, clip_on=False)
    axes.plot([difference.mean], [0], "o", color=colour, markersize=8.4, markeredgewidth=0, clip_on=False)
    return inline(figure, f"{about}: {difference.mean:+.3f}, {better} is better")


@styled
def effects_bar(about: str, parts: Sequence[float]) -> Markup:
    """Shares of order, seed and rest as one bar."""
    if not all(map(math.isfinite, parts)):
        return Markup("")
    figure, start = blank(190, 14), 0.0
    axes = room(figure, 0, 0, 0, 0)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    for share, colour in zip(parts, (METHODS[0], METHODS[4], RULE), strict=True):
        axes.add_patch(Rectangle((start, 0), share, 1, facecolor=colour, edgecolor=PANEL, linewidth=1))
        start += share
    told = ", ".join(f"{name} {100 * part:.0f} %" for name, part in zip(("order", "seed", "rest"), parts, strict=True))
    return inline(figure, f"Shares of the variance, {about}: {told}")


def _framed(across: str, up: str, names: Iterable[str]) -> tuple[Figure, Axes]:
    """A chart with room for names at the right; what its axes show."""
    beside = max(168, margin(names))
    figure = blank(492 + beside, 360)
    axes = room(figure, 58, beside, 34, 52)
    axes.set_xlabel(across, fontsize=12.5)
    axes.annotate(up, (0, 1), (-46, 20), xycoords="axes fraction", textcoords="offset points", fontsize=12.5)
    axes.spines["bottom"].set(visible=True, color=RULE)
    axes.tick_params(axis="x", length=5)
    return figure, axes


def _finished(axes: Axes, names: Sequence[tuple[str, Look, float]]) -> None:
    """Rules at round values of what is shown, and names at the right."""
    ruled(axes, short_number)
    name_at_the_right(axes, names)


def _mark(axes: Axes, x: float, y: float, look: Look, size: float, told: str, faint: bool = False) -> None:
    """A mark in a row's look; it tells its numbers."""
    (mark,) = axes.plot([x], [y], **{**stroke(look), "markersize": size}, alpha=0.45 if faint else 1)
    mark.set_gid(tip(told))


def _points(study: Study, x: tuple[str, str], y: tuple[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Row -> (x, y) of its runs in which both are finite; rows without one are left out."""
    found = {row: [(a, study.values[y][row][pair]) for pair, a in study.values[x][row].items()] for row in study.rows}
    finite = {row: [p for p in points if all(map(math.isfinite, p))] for row, points in found.items()}
    return {row: points for row, points in finite.items() if points}


def _first(run: Run, measure: str) -> list[float]:
    """Scores of the first taught concept that the measure was taken of."""
    name = next((n for n in run.concepts if run.has(measure, n)), None)
    return [run.score(measure, i, name) for i in range(len(run.rows))] if name else [math.nan] * len(run.rows)


@styled
def _banded(study: Study, entries: Sequence[Entry], measure: str, of: Callable[[Run], list[float]]) -> Figure | None:
    look = looks(study)
    rows = {row: np.array([of(e.run) for e in entries if e.row == row]) for row in study.rows}
    middles = {row: _mean(table) for row, table in rows.items() if table.size and np.isfinite(table).any()}
    if not middles:
        return None
    figure, axes = _framed(
        "lessons (0: the untouched base)", f"{measure}, {ARROWS[study.directions[measure]]}", middles
    )
    ends = []
    for row, middle in middles.items():
        spread, own = np.nan_to_num(_deviation(rows[row])), look[row]
        axes.fill_between(
            range(len(middle)), middle - spread, middle + spread, color=own.colour, alpha=0.13, linewidth=0
        )
        axes.plot(range(len(middle)), middle, **{**stroke(own), "markersize": 7}, clip_on=False)
        ends.append((row, own, float(middle[np.flatnonzero(np.isfinite(middle))[-1]])))
    last = max(map(len, middles.values())) - 1
    start = min(int(np.flatnonzero(np.isfinite(middle))[0]) for middle in middles.values())
    axes.set_xlim(min(start, last - 1), last)
    axes.xaxis.set_major_locator(MaxNLocator(11, integer=True))
    _finished(axes, ends)
    return figure


@styled
def _front(study: Study, measure: str, cost: str, name: str, show: Callable[[float], str]) -> KeyedChart | None:
    points = _points(study, (COST, cost), (measure, "average"))
    if not points:
        return None
    look, better = looks(study), study.directions[measure]
    centres = {row: np.mean(found, axis=0) for row, found in points.items()}
    best = pareto({row: (c[0], c[1]) for row, c in centres.items() if row not in study.bounds}, better)
    figure, axes = _framed(f"{name}, lower is better", f"average {measure}, {ARROWS[better]}", points)
    costs = [float(centre[0]) for centre in centres.values()]
    if min(costs) > 0 and max(costs) / min(costs) >= LOG_FROM:
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 1.6, max(costs) * 1.6)
    else:
        axes.set_xlim(0, max(costs) * 1.08 or 1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: show(value)))
    if len(best) > 1:
        axes.plot(*zip(*(centres[row] for row in best), strict=True), color=SOFT, linestyle=(0, (1, 2)), linewidth=2)
    for row, centre in reversed(centres.items()):
        if math.isfinite(std := study.spread(measure, "average", row).std):
            axes.errorbar(centre[0], centre[1], yerr=std, color=look[row].colour, elinewidth=1.4, alpha=0.7)
        _mark(axes, centre[0], centre[1], look[row], 11, f"{row}: {centre[1]:.3f} at {show(float(centre[0]))}")
    axes.margins(y=0.08)
    _finished(axes, [(row, look[row], float(centre[1])) for row, centre in centres.items()])
    note = f"Bars: one standard deviation. Beaten by no other at both: {', '.join(best)}." if best else ""
    return KeyedChart(f"Average {measure} against {name}", note, figure, cost)


def pareto(points: dict[str, tuple[float, float]], better: str) -> list[str]:
    """Rows that no other row beats at both cost (less is better) and score, from cheap to dear; equal ones all stay."""
    sign = 1.0 if better == "higher" else -1.0
    at = {row: (cost, -sign * score) for row, (cost, score) in points.items()}

    def beaten(row: str) -> bool:
        return any(o[0] <= at[row][0] and o[1] <= at[row][1] and o != at[row] for o in at.values())

    return sorted((row for row in at if not beaten(row)), key=lambda row: at[row])


def _mean(table: np.ndarray) -> np.ndarray:
    """Mean over runs of each lesson, NaN where no run has a value; (runs, lessons + 1) -> (lessons + 1,)."""
    count = np.isfinite(table).sum(axis=0)
    mean: np.ndarray = np.where(count > 0, np.nansum(table, axis=0) / np.maximum(count, 1), np.nan)
    return mean


def _deviation(table: np.ndarray) -> np.ndarray:
    """Standard deviation (ddof = 1) over runs of each lesson; NaN below two values."""
    count, gaps = np.isfinite(table).sum(axis=0), table - _mean(table)
    squares = np.nansum(np.square(gaps), axis=0)
    std: np.ndarray = np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
    return std
