"""The section on how the lessons' updates meet in the weights: heat maps of pairs, sizes, kinds of layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup

from perdure.analysis.record import ALL, KINDS, PAIR_FIGURES, Analysis
from perdure.report import heat, samples
from perdure.report.charts import Chart, Series, inline, line_chart, look_of
from perdure.report.palette import DIVERGING, SCALE, Rgb
from perdure.report.reading import Run

SHOWN = 12
"""Lessons shown at most in a map of pairs."""
FOREMOST = ("sign conflict", "cosine", "input overlap")
"""Measures shown at once; the others fold away."""


@dataclass(frozen=True)
class Maps:
    """One measure of pairs: a map for each run on one scale, and below them its means over kinds of layers."""

    measure: str
    meaning: str
    formula: str
    chance: str
    legend: Markup
    maps: tuple[tuple[Run, Markup], ...]
    kinds: Markup


@dataclass(frozen=True)
class Weights:
    """The whole section."""

    maps: tuple[Maps, ...]
    more: tuple[Maps, ...]
    sizes: tuple[Chart, ...]
    places: tuple[tuple[Run, Markup], ...]
    places_legend: Markup
    selections: tuple[tuple[Run, tuple[tuple[str, ...], ...]], ...]
    note: str


def section(runs: Sequence[Run], colours: dict[str, int]) -> Weights | None:
    """The section for the runs that have an analysis of several lessons; None where there is none."""
    known = {run.label: run.analysis for run in runs if run.analysis is not None and len(run.analysis.lessons) > 1}
    chosen = [run for run in runs if run.label in known]
    if not chosen:
        return None
    maps = [found for measure in PAIR_FIGURES if (found := _maps(chosen, known, measure)) is not None]
    placed = [run for run in chosen if len(known[run.label].parts) > 1]
    bounds = _place_limits([_places(known[run.label]) for run in placed])
    longest = max(len(found.lessons) for found in known.values())
    return Weights(
        maps=tuple(m for m in maps if m.measure in FOREMOST),
        more=tuple(m for m in maps if m.measure not in FOREMOST),
        sizes=_sizes(chosen, known, colours),
        places=tuple((run, _place_map(run, known[run.label], bounds)) for run in placed),
        places_legend=heat.bar(bounds, "size per weight"),
        selections=tuple((run, rows) for run in chosen if (rows := _selection(known[run.label]))),
        note=f"Maps show {SHOWN} of {longest} lessons, evenly spread." if longest > SHOWN else "",
    )


def _maps(runs: Sequence[Run], known: dict[str, Analysis], measure: str) -> Maps | None:
    """None where no run has values, or the measure says nothing: entries are always shared where all are moved."""
    runs = [run for run in runs if measure in known[run.label].telling]
    if not runs:
        return None
    found = [known[run.label].parts[ALL].off_diagonal(measure) for run in runs]
    bounds = float(np.nanmin(np.concatenate(found))), float(np.nanmax(np.concatenate(found)))
    about = PAIR_FIGURES[measure]
    if about.signed:
        bounds = (-max(map(abs, bounds)), max(map(abs, bounds)))
    scale = DIVERGING if about.signed else SCALE
    expected = [known[run.label].chance[measure] for run in runs if measure in known[run.label].chance]
    values = list(dict.fromkeys(f"{value:.2f}" for value in sorted(expected)))
    chance = f"{' to '.join([values[0], *values[1:][-1:]])} by chance" if values else ""
    maps = tuple((run, _map(run, known[run.label], measure, bounds, scale)) for run in runs)
    source = f" ({about.source})" if about.source else ""
    return Maps(
        measure, about.meaning, f"{about.formula}{source}", chance, heat.bar(bounds, measure, scale=scale), maps,
        _kinds_map(runs, known, measure, bounds, scale),
    )  # fmt: skip


def _map(run: Run, found: Analysis, measure: str, bounds: tuple[float, float], scale: Sequence[Rgb]) -> Markup:
    """Rows: the later lesson; columns: the earlier. Where the order counts otherwise, all lessons on both sides."""
    kept = samples.pick(len(found.lessons), SHOWN)
    matrix = found.parts[ALL].pairs[measure][np.ix_(kept, kept)]
    names = [f"{k + 1} {found.lessons[k]}" for k in kept]
    if measure == "shared entries":
        shown, rows, columns = np.where(np.eye(len(kept), dtype=bool), np.nan, matrix), names, names
        title = f"{measure} of {run.label}: of what the row's lesson moved, the column's moved this share"
    else:
        earlier_first = np.where(np.tri(len(kept), k=-1, dtype=bool), matrix.T, np.nan)
        shown, rows, columns = earlier_first[1:, :-1], names[1:], names[:-1]
        title = f"{measure} of {run.label}: rows are the later lesson, columns the earlier"
    return inline(heat.heat_map(shown, rows, columns, bounds, scale=scale), title)


def _kinds_map(
    runs: Sequence[Run], known: dict[str, Analysis], measure: str, bounds: tuple[float, float], scale: Sequence[Rgb]
) -> Markup:
    """Means over pairs: a row a kind of layer, a column a run."""
    kinds = [kind for kind in (ALL, *KINDS) if any(kind in known[run.label].parts for run in runs)]
    values = [
        [parts[kind].between(measure) if kind in (parts := known[run.label].parts) else np.nan for run in runs]
        for kind in kinds
    ]
    title = f"{measure}, mean over pairs of lessons: rows are kinds of layers, columns the runs"
    rows = ["all layers" if kind == ALL else kind for kind in kinds]
    return inline(heat.heat_map(np.array(values), rows, [r.label for r in runs], bounds, scale=scale), title)


def _sizes(runs: Sequence[Run], known: dict[str, Analysis], colours: dict[str, int]) -> tuple[Chart, ...]:
    """Norms of the updates over lessons; where some run chooses its weights, the share that it moved, too."""
    longest = max((known[run.label] for run in runs), key=lambda found: len(found.lessons))
    ticks = [f"{k} {name}" for k, name in enumerate(longest.lessons, 1)]

    def chart(title: str, note: str, chosen: Sequence[Run], part: Literal["norms", "moved"]) -> Chart:
        series = []
        for run in chosen:
            whole = known[run.label].parts[ALL]
            values = whole.norms if part == "norms" else whole.moved
            series.append(Series(run.label, tuple(values.tolist()), look_of(colours[run.label])))
        return Chart(title, note, line_chart(series, ticks, "{:.3g}".format, from_zero=True))

    charts = [chart("Size of each lesson's update", "Frobenius norm over all layers.", runs, "norms")]
    choosing = [run for run in runs if known[run.label].selective]
    if choosing:
        note = "Share of the weights of the layers that the method may move."
        charts.append(chart("Weights moved by each lesson", note, choosing, "moved"))
    return tuple(charts)


def _places(found: Analysis) -> np.ndarray:
    """Size per weight of each update in each kind of layer, over that of the whole update: (lessons, kinds)."""
    whole = found.parts[ALL].rms
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: np.ndarray = np.stack([part.rms / whole for kind, part in found.parts.items() if kind != ALL], axis=1)
    return shares


def _place_limits(matrices: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([np.zeros(0), *(m[np.isfinite(m)] for m in matrices)])
    return (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)


def _place_map(run: Run, found: Analysis, bounds: tuple[float, float]) -> Markup:
    kept = samples.pick(len(found.lessons), SHOWN)
    rows = [f"{k + 1} {found.lessons[k]}" for k in kept]
    kinds = [kind for kind in found.parts if kind != ALL]
    title = f"Size per weight of the updates of {run.label}: rows are lessons, columns kinds of layers"
    return inline(heat.heat_map(_places(found)[kept], rows, kinds, bounds), title)


def _selection(found: Analysis) -> tuple[tuple[str, ...], ...]:
    """The concept, and in percent what the method noted of its choice."""
    noted = ("density", "general", "moved before", "moved of all")
    return tuple((concept, *(_percent(facts.get(n)) for n in noted)) for concept, facts in found.selection.items())


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g} %"
