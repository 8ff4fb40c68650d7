"""What a classifier takes for what: accuracies as others name them, confusion counts, mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from perdure.report import heat
from perdure.report.charts import inline
from perdure.report.reading import Run, figures
from perdure.report.tables import csv_text
from perdure.score import accuracy

SETTINGS = {accuracy.CLASS_IL: "class-il", accuracy.TASK_IL: "task-il"}
"""Measure -> what mammoth calls it."""
ACCURACY_COLUMNS = ("dataset", "setting", "model", "seed", "name", "task", "after_task", "percent")
SHOWN = {
    "running_average": "average_incremental_accuracy",
    "backward_transfer": "backward_transfer",
    "forgetting": "forgetting",
    "forgetting_own": "forgetting_own",
    "forgetting_per_step": "forgetting_per_step",
}
"""Figure -> its name in the table; the second and third as mammoth, the first PILOT's Average Accuracy."""


@dataclass(frozen=True)
class Mistake:
    """A test picture that was taken for another class."""

    path: Path
    told: str


@dataclass(frozen=True)
class Confusion:
    """A run after its last lesson: the share of a class (row) that was taken for each (column), and mistakes."""

    run: Run
    map: Markup
    mistakes: tuple[Mistake, ...]


def confusions(runs: Sequence[Run]) -> tuple[Confusion, ...]:
    """A map for each run of a classifier that has learnt anything."""
    return tuple(_confusion(run) for run in runs if run.classifies and run.lessons)


def _confusion(run: Run) -> Confusion:
    cells = [cell for (row, _), cell in run.cells.items() if row == run.lessons]
    counted = {name: taken for cell in cells for name, taken in cell.record["counts"].items()}
    names = list(counted)
    sizes = {name: max(1, sum(taken.values())) for name, taken in counted.items()}
    share = np.array([[counted[own].get(other, 0) / sizes[own] for other in names] for own in names])
    title = f"Confusion of {run.label}: rows are classes, columns what their pictures were taken for"
    drawn = inline(heat.heat_map(share, names, names, (0.0, 1.0), own=[(k, k) for k in range(len(names))]), title)
    mistakes = [
        Mistake(path, image["prompt"])
        for cell in cells
        for path, image in zip(cell.images, cell.record["images"], strict=True)
    ]
    return Confusion(run, drawn, tuple(mistakes))


def accuracy_csv(runs: Sequence[Run]) -> str:
    """a[t, i] in percent, one a line, under mammoth's names; then the means after each task, and the figures.

    `accuracy_2_task5`: of task 2 after task 5; `accmean_task5`: their mean over tasks, which is not the accuracy over
    all pictures where tasks have different numbers of these: that is `accuracy_over_all_task5`, as PILOT's curve.
    """
    rows: list[tuple[object, ...]] = []
    for run in (run for run in runs if run.classifies):
        for measure in (m for m in SETTINGS if m in run.scores):
            about = (run.lineage.facts.get("name", ""), SETTINGS[measure], run.label, run.lineage.settings["seed"])
            rows += [(*about, *line) for line in _accuracies(run, measure)]
    return csv_text(ACCURACY_COLUMNS, rows)


def _accuracies(run: Run, measure: str) -> list[tuple[str, int | str, int | str, str]]:
    S, n = run.scores[measure], run.sizes
    lines: list[tuple[str, int | str, int | str, str]] = []
    for t in range(1, len(run.rows)):
        seen = len(run.concepts) if run.joint else t
        known = [(i, float(S[t, i - 1])) for i in range(1, seen + 1) if np.isfinite(S[t, i - 1])]
        lines += [(f"accuracy_{i}_task{t}", i, t, _percent(value)) for i, value in known]
        if len(known) == seen:
            lines.append((f"accmean_task{t}", "", t, _percent(float(np.mean(S[t, :seen])))))
            whole = float(np.average(S[t, :seen], weights=n[:seen]))
            lines.append((f"accuracy_over_all_task{t}", "", t, _percent(whole)))
    found = figures(run, measure)
    return lines + [(name, "", "", _percent(found[key])) for key, name in SHOWN.items() if np.isfinite(found[key])]


def _percent(value: float) -> str:
    return repr(100 * value)
