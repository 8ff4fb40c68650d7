"""All figures of some lineages as picture files, for papers, slides and readmes."""

from collections.abc import Sequence
from pathlib import Path

from perdure.lineage import Lineage
from perdure.report import figures, grid, reading, samples
from perdure.report.colours import share_of
from perdure.report.reading import Run
from perdure.report.samples import Column, Grid, Line, Sample

MOST = 10
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
        written += [figures.heatmap(run.lineage, m, folder / f"scores-{run.label}-{m}.png") for m in run.scores]
    written += [figures.curves(lineages, m, folder / f"curves-{m}.png") for m in reading.measures_of(runs)]
    first = next(run.concepts[0] for run in runs)
    compared = samples.comparison(runs, first, samples.ranges(runs))
    return written if compared is None else [*written, grid.draw(compared, folder / f"compared-{first}.png")]


def before_after(run: Run, image: int = 0, most: int = MOST) -> Grid:
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
