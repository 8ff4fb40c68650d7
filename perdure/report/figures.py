"""Figures for papers, drawn with matplotlib: PNG or PDF by the path's suffix. Same lineages, same bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perdure.lineage import Lineage
from perdure.report import lines, plotting, reading
from perdure.report.colours import MARKERS, METHODS, ink_on, sequential, share_of
from perdure.report.reading import Run
from perdure.report.svg import short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERS_UP_TO = 16
"""Concepts up to which a heat map's cells carry their numbers."""


def heatmap(lineage: Lineage, measure: str, path: Path) -> Path:
    """The score matrix of one lineage: rows the base and the lessons, columns the concepts it was taken of.

    Raises ValueError where the measure was not taken.
    """
    run = reading.read([lineage])[0]
    _check([run], measure)
    shown = [name for name in run.concepts if run.has(measure, name)]
    S = run.scores[measure][:, [run.concepts.index(name) for name in shown]]
    cell = 0.55 if len(shown) <= NUMBERS_UP_TO else 0.2
    figure = plotting.figure(1.9 + cell * S.shape[1], 1.3 + cell * 0.75 * S.shape[0])
    axes = figure.add_subplot()
    low, high = float(np.nanmin(S)), float(np.nanmax(S))
    image = axes.imshow(S, cmap=plotting.colour_map(run.direction(measure)), vmin=low, vmax=high, aspect="auto")
    axes.set_facecolor("#eeeae0")
    axes.set_xticks(range(len(shown)), shown, rotation=40, ha="right", fontsize=8)
    rows = ["base", *(f"{i} {lines.taught(row.concepts)}" for i, row in enumerate(run.rows[1:], 1))]
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    if len(shown) <= NUMBERS_UP_TO:
        for i, j in zip(*np.nonzero(np.isfinite(S)), strict=True):
            ink = ink_on(sequential(share_of(S[i, j], low, high, run.direction(measure))))
            axes.text(j, i, short_number(float(S[i, j])), ha="center", va="center", fontsize=7, color=ink)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.04)
    bar.set_label(measure, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return plotting.save(figure, path)


def curves(lineages: Sequence[Lineage], measure: str, path: Path) -> Path:
    """The first concept's score after each lesson, the mean of all seen so far, and each concept after its own lesson.

    Raises ValueError where the measure was not taken.
    """
    runs = [run for run in reading.read(lineages) if measure in run.scores and run.lessons]
    _check(runs, measure)
    longest = max(runs, key=lambda run: run.lessons)
    first = next(name for name in longest.concepts if longest.has(measure, name))
    figure = plotting.figure(11.0, 2.7)
    left, middle, right = figure.subplots(1, 3)
    for k, run in enumerate(runs):
        if first in run.concepts:
            _line(left, run, k, [run.score(measure, i, first) for i in range(len(run.rows))], longest.lessons)
        _line(middle, run, k, lines.means(run, measure), longest.lessons)
        _line(right, run, k, lines.learning(run, measure), longest.lessons)
    left.axhline(longest.score(measure, 0, first), color="#777", linewidth=0.9, linestyle=":", label="base")
    ceiling = longest.ceiling(measure, first)
    if np.isfinite(ceiling):
        left.axhline(ceiling, color="#777", linewidth=0.9, linestyle="--", label="ceiling")
    titles = f"First concept ({first})", "Mean of concepts seen so far", "Each concept after its own lesson"
    for axes, title in zip((left, middle, right), titles, strict=True):
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("lessons", fontsize=8)
        axes.set_ylabel(measure, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=7, frameon=False)
    return plotting.save(figure, path)


def _line(axes: "Axes", run: Run, number: int, values: Sequence[float], lessons: int) -> None:
    colour = METHODS[number % len(METHODS)]
    if run.joint:
        axes.axhline(values[-1], color=colour, linewidth=1.2, linestyle="-.", label=run.label)
        return
    axes.plot(
        range(len(values)), values, color=colour, marker=MARKERS[number % len(MARKERS)], markersize=4,
        linewidth=1.4, label=run.label,
    )  # fmt: skip
    axes.set_xlim(-0.02 * lessons - 0.2, 1.02 * lessons + 0.2)


def _check(runs: Sequence[Run], measure: str) -> None:
    if not any(measure in run.scores for run in runs):
        taken = sorted({m for run in runs for m in run.scores})
        raise ValueError(f"{measure!r} was not taken; taken: {', '.join(taken) or 'nothing yet'}")
