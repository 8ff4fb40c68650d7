"""A sweep: the runs of a grid, each an ordinary lineage in one folder, carried out by an engine.

Nothing is kept in memory that is not in the lineages: a sweep that was killed is started again and goes on, and two
sweeps on one folder share the work.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perdure import files
from perdure.bases import reading
from perdure.errors import PlanError
from perdure.lineage.commons import Commons
from perdure.photos import pictures
from perdure.plan import yaml_file
from perdure.sweep import places, status, tree
from perdure.sweep.engine import BUSY, Engine
from perdure.sweep.grid import Grid, PlannedRun
from perdure.sweep.status import Paces, RunStatus
from perdure.sweep.tree import BASE, Stretch

PAUSE = 1.0
"""Seconds between two looks at the folder."""
LATER = 5.0
"""Seconds until a stretch is offered again that another sweep has at work."""


@dataclass(frozen=True)
class Moment:
    """What there is to show: each run, seconds left in all and of each run (None: not known yet), notes."""

    statuses: Mapping[str, RunStatus]
    left: float | None
    left_of: Mapping[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What is to be done in a folder: its runs by their folders, and the stretches that are left."""

    grid: Grid
    root: Path
    homes: Mapping[Path, PlannedRun]
    stretches: tuple[Stretch, ...]

    def read(self) -> dict[str, RunStatus]:
        """The status of every run, by its name."""
        return {folder.name: status.read(self.root, folder, run) for folder, run in self.homes.items()}


def task(grid: Grid, root: Path) -> Task:
    """What a grid has left to do in a folder."""
    homes = places.homes(root, grid.runs)
    done = {folder: status.lessons_in(folder) for folder in homes}
    stretches = tuple(stretch for stretch in tree.stretches(root, homes, done) if not status.is_done(stretch))
    return Task(grid, root, homes, stretches)


def check(todo: Task) -> None:
    """Look at every picture that the stretches need, and every word. Raises PlanError with all that cannot be used."""
    concepts = {concept.model_dump_json(): concept for stretch in todo.stretches for concept in stretch.plan.concepts}
    read = reading.check((stretch.plan, _before(stretch)) for stretch in todo.stretches if stretch.lessons != BASE)
    seen = pictures.check(concepts.values(), [stretch.plan for stretch in todo.stretches])
    if problems := [*seen, *read.problems]:
        raise PlanError(problems)


def _before(stretch: Stretch) -> list[str]:
    """Names of the concepts that a stretch finds taught."""
    return [concept.name for concept in stretch.plan.sequence][: stretch.begin]


def paces(todo: Task, engine: Engine) -> Paces:
    """What lessons cost there, tried out; empty where finished lessons tell it better."""
    return {} if any(one.lessons for one in todo.read().values()) else engine.paces(todo.stretches)


def moment(todo: Task, engine: Engine, measured: Paces) -> Moment:
    """How things stand before anything is begun."""
    statuses = todo.read()
    return Moment(statuses, status.seconds_left(todo.stretches, statuses, engine.slots, measured))


def carry_out(
    todo: Task, engine: Engine, show: Callable[[Moment], object], measured: Paces | None = None
) -> list[RunStatus]:
    """Do all stretches on an engine; those that fail do not stop the others. Returns the status of every run.

    `measured`: what lessons cost, for the time left until the first is done.
    """
    for stretch in todo.stretches:
        places.failure(todo.root, stretch.run).unlink(missing_ok=True)  # it is tried again
    for folder, run in todo.homes.items():
        if folder.is_dir():
            places.record(folder, run.axes, run.fingerprint)
    files.write_text(places.grid_file(todo.root), yaml_file.dump(dict(todo.grid.resolved)))
    floor = _Floor(todo, measured or {})
    try:
        while floor.waiting or floor.at_work:
            engine.start(floor.ready())
            if floor.at_work:
                for stretch, problem in engine.ended(PAUSE):
                    floor.ended(stretch, problem)
            elif floor.waiting:
                time.sleep(PAUSE)
            moment = floor.moment(engine.slots)
            status.write(todo.root, todo.grid, list(moment.statuses.values()))
            show(moment)
    finally:
        engine.close()
    statuses = todo.read()
    if all(one.state == "done" for one in statuses.values()):
        Commons(todo.root).forget()
    status.write(todo.root, todo.grid, list(statuses.values()))
    show(Moment(statuses, 0.0))
    return list(statuses.values())


class _Floor:
    """The stretches that wait and those at work."""

    def __init__(self, todo: Task, measured: Paces) -> None:
        self.todo = todo
        self._measured = measured
        self.waiting = {stretch.name: stretch for stretch in todo.stretches}
        self.at_work: dict[str, Stretch] = {}
        self._statuses = todo.read()
        self._not_before: dict[str, float] = {}

    def ready(self) -> list[Stretch]:
        """Take those whose parents are done; what another sweep has done meanwhile is done."""
        found = []
        while ready := [stretch for stretch in self.waiting.values() if self._may_begin(stretch)]:
            for stretch in ready:
                del self.waiting[stretch.name]
                if not status.is_done(stretch):
                    self.at_work[stretch.name] = stretch
                    found.append(stretch)
        return found

    def _may_begin(self, stretch: Stretch) -> bool:
        if self._not_before.get(stretch.name, 0.0) > time.monotonic():
            return False
        return not any(name in self.waiting or name in self.at_work for name in stretch.after)

    def ended(self, stretch: Stretch, problem: str | None) -> None:
        """Note how a stretch ended; those that need one that failed are given up."""
        del self.at_work[stretch.name]
        if problem == BUSY:
            self.waiting[stretch.name] = stretch
            self._not_before[stretch.name] = time.monotonic() + LATER
        elif problem is not None:
            self._fail(stretch, problem)
            for other in tree.waiting_for(stretch.name, list(self.waiting.values())):
                del self.waiting[other.name]
                if other.run != stretch.run:
                    self._fail(other, f"it shares its beginning with {stretch.run}, which failed: {problem}")
        self._look([stretch.folder])

    def _fail(self, stretch: Stretch, problem: str) -> None:
        files.write_text(places.failure(self.todo.root, stretch.run), problem)
        self._look([stretch.folder])

    def _look(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            if folder in self.todo.homes:
                known = self._statuses[folder.name]
                self._statuses[folder.name] = status.read(self.todo.root, folder, self.todo.homes[folder], known)

    def moment(self, slots: int) -> Moment:
        """How things stand."""
        left = [*self.at_work.values(), *self.waiting.values()]
        watched = [*self.at_work.values(), *(self.waiting[name] for name in self._not_before if name in self.waiting)]
        self._look({stretch.folder for stretch in watched})
        mine: dict[str, list[Stretch]] = {}
        for stretch in left:
            mine.setdefault(stretch.folder.name, []).append(stretch)
        left_of = {
            name: status.seconds_left(mine.get(name, ()), self._statuses, 1, self._measured)
            for name, one in self._statuses.items()
            if one.state == "running"
        }
        notes = [_drawn(stretch) for stretch in self.at_work.values() if stretch.lessons == BASE]
        in_all = status.seconds_left(left, self._statuses, slots, self._measured)
        return Moment(dict(self._statuses), in_all, left_of, tuple(notes))


def _drawn(stretch: Stretch) -> str:
    cells = stretch.folder / "lessons" / "000-base" / "cells"
    count = sum((cells / concept.name / "cell.json").is_file() for concept in stretch.plan.concepts)
    return f"first the untouched base, which all runs share: {count} of {len(stretch.plan.concepts)} concepts drawn"
