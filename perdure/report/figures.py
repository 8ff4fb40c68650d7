"""Figures for papers, drawn with matplotlib: PNG or PDF by the path's suffix. Same lineages, same bytes."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perdure import files
from perdure.lineage import Lineage
from perdure.report import grid, lines, reading, samples
from perdure.report.reading import Run
from perdure.report.samples import Column, Grid, Line, Sample
from perdure.report.svg import MARKERS, METHODS, SCALE, Rgb, css, ink_on, sequential, share_of, short_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def blank(width: float, height: float) -> "Figure":
    """An empty figure; sides in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=200)


def colour_map(better: str, scale: Sequence[Rgb] = SCALE) -> Any:
    """A scale of the reports for matplotlib; its deep end is the better one."""
    from matplotlib.colors import LinearSegmentedColormap

    found = LinearSegmentedColormap.from_list("perdure", [css(colour) for colour in scale])
    return found if better == "higher" else found.reversed()


def save(figure: "Figure", path: Path) -> Path:
    """Written whole, PNG or PDF by the path's suffix, without times or versions in it."""
    kind = path.suffix.lower().lstrip(".") or "png"
    dateless = {"pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "png": {"Software": None}}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=dateless.get(kind))
    files.write_bytes(path, buffer.getvalue())
    return path


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
    figure = blank(1.9 + cell * S.shape[1], 1.3 + cell * 0.75 * S.shape[0])
    axes = figure.add_subplot()
    low, high = float(np.nanmin(S)), float(np.nanmax(S))
    image = axes.imshow(S, cmap=colour_map(run.direction(measure)), vmin=low, vmax=high, aspect="auto")
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
    return save(figure, path)


def curves(lineages: Sequence[Lineage], measure: str, path: Path) -> Path:
    """The first concept's score after each lesson, the mean of all seen so far, and each concept after its own lesson.

    Raises ValueError where the measure was not taken.
    """
    runs = [run for run in reading.read(lineages) if measure in run.scores and run.lessons]
    _check(runs, measure)
    longest = max(runs, key=lambda run: run.lessons)
    first = next(name for name in longest.concepts if longest.has(measure, name))
    figure = blank(11.0, 2.7)
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
    return save(figure, path)


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


MOST_SAMPLES = 10
"""Concepts side by side in a before-and-after sheet."""


def write(lineages: Sequence[Lineage], folder: Path) -> list[Path]:
    """Grids, score matrices, before-and-after sheets and curves as PNG; returns their paths."""
    runs = reading.read(lineages)
    written = []
    for run in runs:
        if not run.joint:
            written += [
                grid.draw(samples.grid(run, samples.ranges([run])), folder / f"grid-{run.label}.png"),
                grid.draw(before_after(run), folder / f"before-after-{run.label}.png"),
            ]
        written += [heatmap(run.lineage, m, folder / f"scores-{run.label}-{m}.png") for m in run.scores]
    written += [curves(lineages, m, folder / f"curves-{m}.png") for m in reading.measures_of(runs)]
    first = next(run.concepts[0] for run in runs)
    compared = samples.comparison(runs, first, samples.ranges(runs))
    return written if compared is None else [*written, grid.draw(compared, folder / f"compared-{first}.png")]


def before_after(run: Run, image: int = 0, most: int = MOST_SAMPLES) -> Grid:
    """A column a concept: a reference, what the base drew, and what was drawn right after the concept's own lesson.

    Below each picture the mean score of all pictures like it; below a reference the likeness of references to one
    another, which is what a perfect lesson would score.
    """
    names = [run.concepts[j] for j in samples.pick(len(run.concepts), most)]
    limits = samples.ranges([run])
    heads = ("reference", "base", "after its lesson")
    columns = [
        (_reference(run, name, limits), *(samples.sample(run, i, name, run.primary(name), limits, image) for i in rows))
        for name in names
        for rows in [(0, run.own_row(name))]
    ]
    lines = tuple(
        Line(head, "", "", run.primary(names[0]) or "", tuple(column[i] for column in columns))
        for i, head in enumerate(heads)
    )
    return Grid(run.label, tuple(Column(name, run.facts[name]["concept"]["class"]) for name in names), lines, "")


def _reference(run: Run, name: str, limits: dict[str, tuple[float, float]]) -> Sample:
    measure = run.primary(name)
    ceiling = run.ceiling(measure, name) if measure else float("nan")
    share = share_of(ceiling, *limits[measure], run.direction(measure)) if measure in limits else 0.0
    return Sample("reference", samples.reference_of(run, name), ceiling, share, f"{name}, a real picture")
