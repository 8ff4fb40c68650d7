"""Runs -> stretches of work, such that no lesson is computed twice: runs that begin alike share their first lessons.

The lessons of all runs form a trie: two runs share a node where settings (base, method, seed, ...) and all concepts up
to it are the same. The first run to come to a node computes it; the others branch off from it. A run is cut into
several stretches where others branch off, so that they need not wait for its end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.plan import MethodChoice, Plan, Training, describe, fingerprint, portable, workload
from perdure.sweep import places
from perdure.sweep.grid import PlannedRun

BASE = 0
"""Number of lessons of a stretch that only draws the untouched base."""


@dataclass(frozen=True)
class Stretch:
    """One piece of work: bring the lineage of a plan of one method to so many lessons.

    `begin`: lessons that are there before. `after`: names of the stretches that must be done before. `base`: a lineage
    that row 0 is taken from. `donor`: a lineage that the first `begin` lessons are taken from, where there is one.
    """

    root: Path
    folder: Path
    plan: Plan
    lessons: int
    begin: int = 0
    after: tuple[str, ...] = ()
    base: Path | None = None
    donor: Path | None = None
    axes: Mapping[str, str | int] | None = None

    @property
    def run(self) -> str:
        """The name of the run's folder."""
        return self.folder.name if self.lessons else f"base-{self.folder.parent.name}"

    @property
    def name(self) -> str:
        """A name that no other stretch of a sweep has."""
        return f"{self.run}@{self.lessons}"


def total(plan: Plan) -> int:
    """How many lessons a plan of one method has."""
    return 1 if plan.joint else len(plan.concepts)


def base_plan(plan: Plan) -> Plan:
    """What decides how the untouched base draws a plan's concepts, and nothing else: equal plans share row 0."""
    keys: dict[str, Any] = {"resolution": True, "precision": True}
    if plan.task is not None:
        keys |= {"crop": True, "head": {"pixels"}}  # how pictures are read
    alone = Training.model_validate(plan.training.model_dump(include=keys))
    concepts = tuple(sorted(plan.concepts, key=lambda concept: concept.name))
    same = {"name": "base", "description": "", "seed": 0, "joint": False, "order": None}
    method = MethodChoice(name="naive")
    return plan.model_copy(update={**same, "methods": (method,), "training": alone, "concepts": concepts})


def stretches(root: Path, runs: Mapping[Path, PlannedRun], done: Mapping[Path, int]) -> list[Stretch]:
    """What is left to do for some runs by folder, each before those that need it; `done`: lessons that a folder has."""
    bases: dict[str, Stretch] = {}
    first_of: dict[tuple[str, ...], Path] = {}
    branches: dict[Path, tuple[Path, int]] = {}
    nodes = {folder: list(_nodes(run.plan)) for folder, run in runs.items()}
    for folder in sorted(runs, key=lambda folder: -done[folder]):  # what is there already is shared, not computed
        known = [node for node in nodes[folder] if node in first_of]
        if known and done[folder] < len(known):
            branches[folder] = (first_of[known[-1]], len(known))
        first_of |= dict.fromkeys(nodes[folder][len(known) :], folder)
    cuts = set(branches.values())
    found: list[Stretch] = []
    for folder, run in runs.items():
        if done[folder] < total(run.plan):
            base = bases.setdefault(key := base_plan(run.plan).fingerprint(), _base_stretch(root, key, run.plan))
            found += _pieces(root, folder, run, done, base, branches.get(folder), cuts)
    return [*bases.values(), *found]


def _nodes(plan: Plan) -> Iterator[tuple[str, ...]]:
    """The nodes of a plan's way through the trie."""
    seen_too = sorted(fingerprint(describe(c)) for c in plan.concepts) if plan.sampling.unseen or plan.joint else []
    node: tuple[str, ...] = (fingerprint([portable(plan.settings()), plan.joint, seen_too]),)
    for number, concept in enumerate(plan.sequence[: total(plan)], start=1):
        ends = plan.sampling.rows == "ends" and workload.whole(plan, number)  # elsewhere this row has one cell
        node = (*node, fingerprint([describe(concept), "whole"] if ends else describe(concept)))
        yield node


def _base_stretch(root: Path, key: str, plan: Plan) -> Stretch:
    return Stretch(root, places.base(root, key), base_plan(plan), BASE)


def _pieces(
    root: Path,
    folder: Path,
    run: PlannedRun,
    done: Mapping[Path, int],
    base: Stretch,
    branch: tuple[Path, int] | None,
    cuts: set[tuple[Path, int]],
) -> Iterator[Stretch]:
    """The stretches of one run: from what it has, over the places where others branch off, to its end."""
    donor, begin = branch if branch and not done[folder] else (None, done[folder])
    after: tuple[str, ...] = (base.name,)
    if donor and done[donor] < begin:
        after = (*after, f"{donor.name}@{begin}")
    ends = sorted({lessons for place, lessons in cuts if place == folder} | {total(run.plan)})
    for end in ends:
        if end > begin:
            yield Stretch(root, folder, run.plan, end, begin, after, base.folder, donor, dict(run.axes))
            begin, after, donor = end, (f"{folder.name}@{end}",), None


def waiting_for(failed: str, stretches: Sequence[Stretch]) -> list[Stretch]:
    """The stretches that cannot be done because one that they need, directly or not, has failed."""
    found: list[Stretch] = []
    lost = {failed}
    while more := [stretch for stretch in stretches if stretch.name not in lost and lost & set(stretch.after)]:
        lost |= {stretch.name for stretch in more}
        found += more
    return found
