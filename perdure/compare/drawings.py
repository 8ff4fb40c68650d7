"""The charts of a study: stability against plasticity, curves with bands, fronts of score against cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from perdure import wording
from perdure.compare import plot
from perdure.compare.gathering import Entry
from perdure.compare.plot import Axis, Name
from perdure.compare.statistics import Difference
from perdure.compare.study import COST, Study
from perdure.report import lines, summary
from perdure.report.reading import Run
from perdure.report.svg import frame, short_number

MARKS = 8
"""Shapes and colours that can be told apart; further rows combine them anew."""
ARROWS = {"higher": "higher is better", "lower": "lower is better"}


@dataclass(frozen=True)
class Look:
    """How a row is drawn everywhere: classes of the page, number of its marker."""

    css: str
    marker: int


@dataclass(frozen=True)
class Chart:
    """A chart, and what it shows. `key`: its name among the charts of one measure."""

    key: str
    title: str
    note: str
    svg: Markup


def looks(study: Study) -> dict[str, Look]:
    """Row -> how it is drawn."""
    rows = enumerate(study.rows)
    return {
        row: Look(f"m{k % MARKS}{' hollow' if row in study.bounds else ''}", (k + k // MARKS) % MARKS)
        for k, row in rows
    }


def trade_off(study: Study, measure: str) -> Chart | None:
    """Learning against forgetting: a small mark a run, a large one the row's mean. None without two lessons."""
    look, points = looks(study), _points(study, (measure, "learning"), (measure, "forgetting"))
    if not points:
        return None
    title = f"Stability against plasticity by {measure}"
    x = plot.axis([p[0] for found in points.values() for p in found], f"learning, {ARROWS[study.directions[measure]]}",
                  short_number)  # fmt: skip
    y = plot.axis([p[1] for found in points.values() for p in found], "forgetting, lower is better", short_number)
    parts, names = [], []
    for row, found in reversed(points.items()):  # the best on top
        own, centre = look[row], np.mean(found, axis=0)
        told = f"{row}: learning {centre[0]:.3f}, forgetting {centre[1]:.3f}, mean of {len(found)}"
        for a, b in found if len(found) > 1 else ():
            place = (plot.x_of(x, a), plot.y_of(y, b))
            parts.append(plot.mark(*place, f"{own.css} faint", own.marker, 3.4, f"{row}: {a:.3f}, {b:.3f}"))
        at = plot.y_of(y, centre[1])
        parts.append(plot.mark(plot.x_of(x, centre[0]), at, own.css, own.marker, 7.5, told))
        names.append(Name(row, own.css, own.marker, at))
    note = "A small mark is a run (one order, one seed), a large one a method's mean."
    return Chart("trade-off", title, note, plot.chart(x, y, parts, names, title))


def curves(study: Study, measure: str) -> list[Chart]:
    """The mean of the concepts learnt so far, and the first concept's score, lesson by lesson, mean ± deviation."""
    entries = [e for e in study.entries if not e.run.joint and measure in e.run.scores]
    if not entries:
        return []
    so_far = "Mean score of the concepts learnt so far"
    first = "Score of the first concept"
    taught = "" if len(study.orders) == 1 else " Every order has a first concept of its own."
    spread = "Line: mean over runs; band: one standard deviation (ddof = 1) up and down."
    found = (
        ("mean", so_far, spread, lambda run: lines.means(run, measure)),
        ("first", first, spread + taught, lambda run: _first(run, measure)),
    )
    return [Chart(key, f"{title}: {measure} after each lesson", note, _banded(study, entries, measure, of, title))
            for key, title, note, of in found]  # fmt: skip


def fronts(study: Study, measure: str) -> list[Chart]:
    """Average score against bytes carried and against seconds; the line joins what no other contender beats at both."""
    shown: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("carried", "bytes carried after the last lesson", wording.size),
        ("seconds", "seconds of training per lesson", summary.seconds),
    )
    charts = [_front(study, measure, *one) for one in shown]
    return [chart for chart in charts if chart is not None]


def forest(difference: Difference, reach: float, better: str) -> Markup:
    """One difference as a small picture: its interval as a bar, its mean as a dot, zero as a line."""
    if not math.isfinite(difference.mean) or not reach > 0:
        return Markup("")
    width, height = 190, 22

    def at(value: float) -> float:
        return width / 2 + (width / 2 - 8) * value / reach

    tone = {"better": "good", "worse": "bad"}.get(difference.verdict, "open")
    parts = [Markup('<path class="zero" d="M{:.1f} 1V{}"/>').format(width / 2, height - 1)]
    if math.isfinite(difference.low):
        parts.append(
            Markup('<path class="whisker" d="M{:.1f} 11H{:.1f}"/>').format(at(difference.low), at(difference.high))
        )
    parts.append(Markup('<circle cx="{:.1f}" cy="11" r="4.2"/>').format(at(difference.mean)))
    title = f"Difference {difference.mean:+.3f}, {better} is better"
    return frame(width, height, title, parts, f"forest {tone}")


def shares(parts: Sequence[float]) -> Markup:
    """Shares of order, seed and rest as one bar."""
    if not all(map(math.isfinite, parts)):
        return Markup("")
    width, height, x, drawn = 190, 14, 0.0, []
    for share, css in zip(parts, ("order", "seed", "rest"), strict=True):
        drawn.append(
            Markup('<rect class="{}" x="{:.1f}" y="0" width="{:.1f}" height="{}"/>').format(
                css, x, share * width, height
            )
        )
        x += share * width
    told = ", ".join(f"{name} {100 * part:.0f} %" for name, part in zip(("order", "seed", "rest"), parts, strict=True))
    return frame(width, height, f"Shares of the variance: {told}", drawn, "shares")


def _points(study: Study, x: tuple[str, str], y: tuple[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Row -> (x, y) of its runs in which both are finite; rows without one are left out."""
    found = {row: [(a, study.values[y][row][pair]) for pair, a in study.values[x][row].items()] for row in study.rows}
    finite = {row: [p for p in points if all(map(math.isfinite, p))] for row, points in found.items()}
    return {row: points for row, points in finite.items() if points}


def _first(run: Run, measure: str) -> list[float]:
    """Scores of the first taught concept that the measure was taken of."""
    name = next((n for n in run.concepts if run.has(measure, n)), None)
    return [run.score(measure, i, name) for i in range(len(run.rows))] if name else [math.nan] * len(run.rows)


def _banded(
    study: Study, entries: Sequence[Entry], measure: str, of: Callable[[Run], list[float]], title: str
) -> Markup:
    look = looks(study)
    rows = {row: np.array([of(e.run) for e in entries if e.row == row]) for row in study.rows}
    middles = {row: _mean(table) for row, table in rows.items() if table.size}
    spreads = {row: np.nan_to_num(_deviation(rows[row])) for row in middles}
    ends = [v for row in middles for v in (*(middles[row] - spreads[row]), *(middles[row] + spreads[row]))]
    if not np.isfinite(ends).any():
        return Markup("")
    last = max(len(middle) for middle in middles.values()) - 1
    start = min(int(np.flatnonzero(np.isfinite(middle))[0]) for middle in middles.values() if np.isfinite(middle).any())
    x = Axis(float(min(start, last - 1)), float(last), "lessons (0: the untouched base)", "{:.0f}".format, whole=True)
    y = plot.axis(ends, f"{measure}, {ARROWS[study.directions[measure]]}", short_number)
    bands, strokes, names = [], [], []
    for row, middle in middles.items():
        own, kept = look[row], np.flatnonzero(np.isfinite(middle))
        if not kept.size:
            continue
        above, centre, below = (
            [(plot.x_of(x, float(k)), plot.y_of(y, middle[k] + sign * spreads[row][k])) for k in kept]
            for sign in (1, 0, -1)
        )
        bands.append(plot.band(above, below, own.css))
        strokes.append(plot.line(centre, own.css))
        strokes += [plot.mark(*place, own.css, own.marker, 3.6) for place in centre]
        names.append(Name(row, own.css, own.marker, centre[-1][1]))
    return plot.chart(x, y, [*bands, *strokes], names, f"{title}: {measure} after each lesson")


def _front(study: Study, measure: str, cost: str, name: str, show: Callable[[float], str]) -> Chart | None:
    points = _points(study, (COST, cost), (measure, "average"))
    if not points:
        return None
    look, better = looks(study), study.directions[measure]
    title = f"Average {measure} against {name}"
    centres = {
        row: (np.mean(found, axis=0), study.spread(measure, "average", row).std) for row, found in points.items()
    }
    reach = [c[1] + k * (0.0 if math.isnan(d) else d) for c, d in centres.values() for k in (-1, 1)]
    x = plot.axis([c[0] for c, _ in centres.values()], f"{name}, lower is better", show, amounts=True)
    y = plot.axis(reach, f"average {measure}, {ARROWS[better]}", short_number)
    best = pareto({row: (c[0], c[1]) for row, (c, _) in centres.items() if row not in study.bounds}, better)
    places = {row: (plot.x_of(x, c[0]), plot.y_of(y, c[1])) for row, (c, _) in centres.items()}
    parts = [plot.line([places[row] for row in best], "front")] if len(best) > 1 else []
    for row, (centre, std) in reversed(centres.items()):
        if math.isfinite(std):
            tops = [(places[row][0], plot.y_of(y, centre[1] + k * std)) for k in (-1, 1)]
            parts.append(plot.line(tops, f"{look[row].css} bar"))
        told = f"{row}: {centre[1]:.3f} at {show(float(centre[0]))}"
        parts.append(plot.mark(*places[row], look[row].css, look[row].marker, 6.5, told))
    names = [Name(row, look[row].css, look[row].marker, place[1]) for row, place in places.items()]
    told = ", ".join(best)
    note = f"Bars: one standard deviation. Beaten by no other at both: {told}." if best else ""
    return Chart(cost, title, note, plot.chart(x, y, parts, names, title))


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
