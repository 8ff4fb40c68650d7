"""Files for papers: charts of the page as PNG or PDF by the path's suffix, and sheets. Same lineages, same bytes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perdure.lineage import Lineage
from perdure.report import charts, reading, samples, scenes, sheet, trends, view
from perdure.report.palette import fraction_of
from perdure.report.reading import Run
from perdure.report.samples import Column, Line, Sample, Sheet


def heatmap(lineage: Lineage, measure: str, path: Path) -> Path:
    """The score matrix of one lineage, as on the page. Raises ValueError where the measure was not taken."""
    run = reading.read([lineage])[0]
    _check([run], measure)
    scores = run.scores[measure]
    return charts.save(view.matrix(run, measure, (float(np.nanmin(scores)), float(np.nanmax(scores)))), path)


def curves(lineages: Sequence[Lineage], measure: str, folder: Path) -> list[Path]:
    """The first concept's score after each lesson, the mean of all seen so far, each concept after its own lesson.

    Files `curves-{first,mean,learning}-MEASURE.png`. Raises ValueError where the measure was not taken.
    """
    runs = [run for run in reading.read(lineages) if measure in run.scores and run.lessons]
    _check(runs, measure)
    shown = trends.curves(runs, [measure], {run.label: number for number, run in enumerate(runs)})
    names = [folder / f"curves-{key}-{measure}.png" for key in ("first", "mean", "learning")]
    return [charts.save(chart.figure, path) for chart, path in zip(shown, names, strict=True)]


def _check(runs: Sequence[Run], measure: str) -> None:
    if not any(measure in run.scores for run in runs):
        taken = sorted({m for run in runs for m in run.scores})
        raise ValueError(f"{measure!r} was not taken; taken: {', '.join(taken) or 'nothing yet'}")


MOST_SAMPLES = 10
"""Concepts side by side in a before-and-after sheet."""


def write(lineages: Sequence[Lineage], folder: Path) -> list[Path]:
    """Sheets of samples, score matrices, before-and-after sheets and curves as PNG; returns their paths."""
    runs = reading.read(lineages)
    written = []
    for run in runs:
        if not run.joint:
            written += [
                sheet.draw(samples.sheet(run, samples.ranges([run])), folder / f"grid-{run.label}.png"),
                sheet.draw(before_after(run), folder / f"before-after-{run.label}.png"),
            ]
        written += [heatmap(run.lineage, m, folder / f"scores-{run.label}-{m}.png") for m in run.scores]
    written += [path for measure in reading.measures_of(runs) for path in curves(lineages, measure, folder)]
    first = next(run.concepts[0] for run in runs)
    compared = {f"compared-{first}": samples.comparison(runs, first, samples.ranges(runs)),
                "scenes": scenes.compared([run for run in runs if not run.joint])}  # fmt: skip
    return [*written, *(sheet.draw(made, folder / f"{name}.png") for name, made in compared.items() if made)]


def before_after(run: Run, image: int = 0, most: int = MOST_SAMPLES) -> Sheet:
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
    return Sheet(run.label, tuple(Column(name, run.facts[name]["concept"]["class"]) for name in names), lines, "")


def _reference(run: Run, name: str, limits: dict[str, tuple[float, float]]) -> Sample:
    measure = run.primary(name)
    ceiling = run.ceiling(measure, name) if measure else float("nan")
    fraction = fraction_of(ceiling, *limits[measure], run.direction(measure)) if measure in limits else 0.0
    return Sample("reference", samples.reference_of(run, name), ceiling, fraction, f"{name}, a real picture")
