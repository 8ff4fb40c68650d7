"""How far a sweep is: read from its lineages, so that it is true whoever worked on them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from perdure import files
from perdure.errors import LineageError
from perdure.lineage import Lineage
from perdure.lineage.rows import PARTIAL, Row
from perdure.plan import Plan, workload
from perdure.sweep import places
from perdure.sweep.grid import Grid, PlannedRun
from perdure.sweep.tree import BASE, Stretch, total

State = Literal["done", "running", "failed", "waiting"]


@dataclass(frozen=True)
class RunStatus:
    """One run: lessons done of `total`, steps done of those of the unfinished one (0 of 0 where there is none), average
    of each measure after the last.
    """

    name: str
    axes: Mapping[str, str | int]
    state: State
    lessons: int
    total: int
    step: int
    steps: int
    lesson: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""
    spent: "Spent" = field(default_factory=lambda: Spent())


@dataclass(frozen=True)
class Spent:
    """Seconds of finished lessons: training and its steps, drawing with scoring and its images."""

    training: float = 0.0
    steps: int = 0
    drawing: float = 0.0
    images: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(mine + theirs for mine, theirs in zip(_parts(self), _parts(other), strict=True)))

    def seconds(self, steps: int, images: int) -> float | None:
        """How long so many steps and images would take at this pace; None where nothing is known."""
        told = ((steps, self.training, self.steps), (images, self.drawing, self.images))
        if any(wanted and not known for wanted, _, known in told):
            return None
        return sum(wanted * spent / known for wanted, spent, known in told if wanted)


Paces = dict[str | int, Spent]
"""What lessons cost: by method, and of all together under ""."""


def _parts(spent: Spent) -> tuple[Any, ...]:
    return spent.training, spent.steps, spent.drawing, spent.images


def images_of(plan: Plan, lesson: int) -> int:
    """Images drawn after a lesson (0: of the base) of a plan of one method."""
    return workload.images(plan, 0 if plan.joint else lesson)


def work_of(stretch: Stretch, done: int) -> tuple[int, int]:
    """Training steps and images that a stretch still needs, with so many lessons of its run done."""
    if stretch.lessons == BASE:
        return 0, images_of(stretch.plan, 0)
    left = range(max(done, stretch.begin) + 1, stretch.lessons + 1)
    long = workload.lengths(stretch.plan)
    return sum(long[lesson - 1] for lesson in left), sum(images_of(stretch.plan, lesson) for lesson in left)


def lessons_in(folder: Path) -> int:
    """Finished lessons of a lineage; 0 where there is none. Raises LineageError where it is damaged."""
    return len(Lineage(folder).lessons) if (folder / "lineage.json").is_file() else 0


def is_done(stretch: Stretch) -> bool:
    """Whether nothing is left to do of a stretch."""
    if stretch.lessons != BASE:
        return lessons_in(stretch.folder) >= stretch.lessons
    cells = stretch.folder / "lessons" / "000-base" / "cells"
    return all((cells / concept.name / "cell.json").is_file() for concept in stretch.plan.concepts)


def read(root: Path, folder: Path, run: PlannedRun, known: RunStatus | None = None) -> RunStatus:
    """The status of one run; of a `known` one only what may have changed since is read."""
    plan, reason = run.plan, places.failure(root, folder.name)
    problem = reason.read_text(encoding="utf-8") if reason.is_file() else ""
    fresh = RunStatus(folder.name, dict(run.axes), "waiting", 0, total(plan), 0, 0)
    try:
        lineage = Lineage(folder) if (folder / "lineage.json").is_file() else None
        rows = lineage.lessons if lineage else []
        if known is None or known.lessons != len(rows):
            known = replace(fresh, lessons=len(rows), spent=_spent(plan, rows))
            known = replace(known, scores=_scores(lineage) if lineage else {})
    except LineageError as error:
        known, rows, problem = fresh, [], str(error)
    lessons, everything = len(rows), total(plan)
    state: State = "done" if lessons >= everything else "failed" if problem else "waiting"
    if state != "done" and places.at_work(root, folder.name):
        state, problem = "running", ""
    step, lesson = _unfinished(folder) if state == "running" else (0, "")
    steps = workload.lengths(plan)[lessons] if lesson else 0
    problem = problem if state == "failed" else ""
    return replace(known, state=state, step=step, steps=steps, lesson=lesson, problem=problem)


def _scores(lineage: Lineage) -> dict[str, float]:
    """Average of each measure over the concepts taught so far that it is taken of; none where one was not drawn."""
    found = {measure: lineage.matrix(measure) for measure in lineage.measures if lineage.lessons}
    last = {name: S[-1, np.isfinite(S).any(axis=0)] for name, S in found.items()}
    return {name: round(float(row.mean()), 6) for name, row in last.items() if row.size and np.isfinite(row).all()}


def _spent(plan: Plan, rows: Sequence[Row]) -> Spent:
    spent = Spent()
    for row in rows:
        seconds = row.record["seconds"]
        images, work = images_of(plan, row.number), (seconds["train"], seconds["evaluate"])
        training, drawing = work if images else (sum(work), 0.0)  # of classes nothing is drawn: scoring goes with it
        spent += Spent(training, row.record["steps"], drawing, images)
    return spent


def _unfinished(folder: Path) -> tuple[int, str]:
    """Steps of the lesson at work, and its name."""
    for path in sorted((folder / "lessons").glob(f"[0-9]*{PARTIAL}")):
        log = path / "train.jsonl"
        return (log.read_bytes().count(b"\n") if log.is_file() else 0), Row(path).name
    return 0, ""


def paces(statuses: Iterable[RunStatus]) -> Paces:
    """What finished lessons have cost."""
    found: Paces = {}
    for one in statuses:
        for method in ("", one.axes["method"]):
            found[method] = found.get(method, Spent()) + one.spent
    return found


def seconds_left(
    stretches: Iterable[Stretch], statuses: Mapping[str, RunStatus], slots: int, measured: Paces | None = None
) -> float | None:
    """How long the stretches would take at the pace of the finished lessons; before there are any, at a measured one.

    None where neither is known.
    """
    finished = {method: spent for method, spent in paces(statuses.values()).items() if spent.steps}
    seconds, longest, known = 0.0, 0.0, {**(measured or {}), **finished}
    for stretch in stretches:
        run = statuses.get(stretch.folder.name)
        spent = known.get(stretch.axes["method"] if stretch.axes else "", Spent())
        pace = spent if spent.steps else known.get("", Spent())
        one = pace.seconds(*work_of(stretch, run.lessons if run else 0))
        if one is None:
            return None
        seconds, longest = seconds + one, max(longest, one)
    return max(longest, seconds / max(1, slots))


def as_json(grid: Grid, statuses: Sequence[RunStatus]) -> dict[str, Any]:
    """A sweep's status as plain values."""
    counts = {state: sum(one.state == state for one in statuses) for state in ("done", "running", "failed", "waiting")}
    listed = [{key: value for key, value in asdict(one).items() if key != "spent"} for one in statuses]
    return {"name": grid.name, "runs": len(statuses), **counts, "list": listed}


def write(root: Path, grid: Grid, statuses: Sequence[RunStatus]) -> None:
    """Write status.json, if it has changed."""
    files.write_changed(places.status_file(root), as_json(grid, statuses))


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    minutes = math.ceil(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
