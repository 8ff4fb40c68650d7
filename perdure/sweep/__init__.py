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
from perdure.lineage.shared import Shared
from perdure.photos import pictures
from perdure.plan import yaml_file
from perdure.sweep import places, status, tree
from perdure.sweep.engine import BUSY, Engine
from perdure.sweep.grid import Grid, Run
from perdure.sweep.status import Paces, RunStatus
from perdure.sweep.tree import BASE, Order

PAUSE = 1.0
"""Seconds between two looks at the folder."""
LATER = 5.0
"""Seconds until an order is offered again that another sweep has at work."""


@dataclass(frozen=True)
class Moment:
    """What there is to show: each run, seconds left in all and of each run (None: not known yet), notes."""

    statuses: Mapping[str, RunStatus]
    left: float | None
    left_of: Mapping[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What is to be done in a folder: its runs by their folders, and the orders that are left."""

    grid: Grid
    root: Path
    homes: Mapping[Path, Run]
    orders: tuple[Order, ...]

    def read(self) -> dict[str, RunStatus]:
        """The status of every run, by its name."""
        return {folder.name: status.read(self.root, folder, run) for folder, run in self.homes.items()}


def task(grid: Grid, root: Path) -> Task:
    """What a grid has left to do in a folder."""
    homes = places.homes(root, grid.runs)
    done = {folder: status.lessons_in(folder) for folder in homes}
    orders = tuple(order for order in tree.orders(root, homes, done) if not status.is_done(order))
    return Task(grid, root, homes, orders)


def check(todo: Task) -> None:
    """Look at every picture that the orders need, and every word. Raises PlanError with all that cannot be used."""
    concepts = {concept.model_dump_json(): concept for order in todo.orders for concept in order.plan.concepts}
    read = reading.check((order.plan, _before(order)) for order in todo.orders if order.lessons != BASE)
    seen = pictures.check(concepts.values(), [order.plan for order in todo.orders])
    if problems := [*seen, *read.problems]:
        raise PlanError(problems)


def _before(order: Order) -> list[str]:
    """Names of the concepts that an order finds taught."""
    return [concept.name for concept in order.plan.sequence][: order.begin]


def paces(todo: Task, engine: Engine) -> Paces:
    """What lessons cost there, tried out; empty where finished lessons tell it better."""
    return {} if any(one.lessons for one in todo.read().values()) else engine.paces(todo.orders)


def moment(todo: Task, engine: Engine, measured: Paces) -> Moment:
    """How things stand before anything is begun."""
    statuses = todo.read()
    return Moment(statuses, status.seconds_left(todo.orders, statuses, engine.slots, measured))


def carry_out(
    todo: Task, engine: Engine, show: Callable[[Moment], object], measured: Paces | None = None
) -> list[RunStatus]:
    """Do all orders on an engine; those that fail do not stop the others. Returns the status of every run.

    `measured`: what lessons cost, for the time left until the first is done.
    """
    for order in todo.orders:
        places.failure(todo.root, order.run).unlink(missing_ok=True)  # it is tried again
    for folder, run in todo.homes.items():
        if folder.is_dir():
            places.record(folder, run.axes, run.fingerprint)
    files.write_text(places.grid_file(todo.root), yaml_file.dump(dict(todo.grid.resolved)))
    floor = _Floor(todo, measured or {})
    try:
        while floor.waiting or floor.at_work:
            engine.start(floor.ready())
            if floor.at_work:
                for order, problem in engine.ended(PAUSE):
                    floor.ended(order, problem)
            elif floor.waiting:
                time.sleep(PAUSE)
            moment = floor.moment(engine.slots)
            status.write(todo.root, todo.grid, list(moment.statuses.values()))
            show(moment)
    finally:
        engine.close()
    statuses = todo.read()
    if all(one.state == "done" for one in statuses.values()):
        Shared(todo.root).forget()
    status.write(todo.root, todo.grid, list(statuses.values()))
    show(Moment(statuses, 0.0))
    return list(statuses.values())


class _Floor:
    """The orders that wait and those at work."""

    def __init__(self, todo: Task, measured: Paces) -> None:
        self.todo = todo
        self._measured = measured
        self.waiting = {order.name: order for order in todo.orders}
        self.at_work: dict[str, Order] = {}
        self._statuses = todo.read()
        self._not_before: dict[str, float] = {}

    def ready(self) -> list[Order]:
        """Take those whose parents are done; what another sweep has done meanwhile is done."""
        found = []
        while ready := [order for order in self.waiting.values() if self._may_begin(order)]:
            for order in ready:
                del self.waiting[order.name]
                if not status.is_done(order):
                    self.at_work[order.name] = order
                    found.append(order)
        return found

    def _may_begin(self, order: Order) -> bool:
        if self._not_before.get(order.name, 0.0) > time.monotonic():
            return False
        return not any(name in self.waiting or name in self.at_work for name in order.after)

    def ended(self, order: Order, problem: str | None) -> None:
        """Note how an order ended; those that need one that failed are given up."""
        del self.at_work[order.name]
        if problem == BUSY:
            self.waiting[order.name] = order
            self._not_before[order.name] = time.monotonic() + LATER
        elif problem is not None:
            self._fail(order, problem)
            for other in tree.waiting_for(order.name, list(self.waiting.values())):
                del self.waiting[other.name]
                if other.run != order.run:
                    self._fail(other, f"it shares its beginning with {order.run}, which failed: {problem}")
        self._look([order.folder])

    def _fail(self, order: Order, problem: str) -> None:
        files.write_text(places.failure(self.todo.root, order.run), problem)
        self._look([order.folder])

    def _look(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            if folder in self.todo.homes:
                known = self._statuses[folder.name]
                self._statuses[folder.name] = status.read(self.todo.root, folder, self.todo.homes[folder], known)

    def moment(self, slots: int) -> Moment:
        """How things stand."""
        left = [*self.at_work.values(), *self.waiting.values()]
        watched = [*self.at_work.values(), *(self.waiting[name] for name in self._not_before if name in self.waiting)]
        self._look({order.folder for order in watched})
        mine: dict[str, list[Order]] = {}
        for order in left:
            mine.setdefault(order.folder.name, []).append(order)
        left_of = {
            name: status.seconds_left(mine.get(name, ()), self._statuses, 1, self._measured)
            for name, one in self._statuses.items()
            if one.state == "running"
        }
        notes = [_drawn(order) for order in self.at_work.values() if order.lessons == BASE]
        in_all = status.seconds_left(left, self._statuses, slots, self._measured)
        return Moment(dict(self._statuses), in_all, left_of, tuple(notes))


def _drawn(order: Order) -> str:
    cells = order.folder / "lessons" / "000-base" / "cells"
    count = sum((cells / concept.name / "cell.json").is_file() for concept in order.plan.concepts)
    return f"first the untouched base, which all runs share: {count} of {len(order.plan.concepts)} concepts drawn"
