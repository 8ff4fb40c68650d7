"""A grid: one plan, and the axes along which runs of it differ. Read once, checked whole, expanded into runs.

plan: toybox-subjects                  # a ready plan's name, a plan file, or a plan's keys
set: {concepts: {toybox: {subjects: 5}}}
axes:
  methods: [naive, {name: magmax, options: {operand: delta}, label: magmax-delta}]
  orders: {random: [0, 5]}             # or `listed`, or [[2, 1, 3], ...], or {name: [2, 1, 3]}
  seeds: [0, 5]
  training.learning_rate: [1e-3, 2e-3] # any other key of the plan
  prompts: {short: {sampling.prompts.style: [...]}, long: {...}}   # named variants
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from perdure import plan as plans
from perdure.errors import PlanError, did_you_mean
from perdure.plan import Plan, mistakes, sources, tasks, yaml_file
from perdure.plan.fields import Name, Section
from perdure.plan.yaml_file import LineNumbers
from perdure.sweep import axes as reading
from perdure.sweep.axes import (
    LISTED,
    METHODS,
    ORDERS,
    OWN_AXES,
    SEEDS,
    Change,
    Draft,
    Ordering,
    Place,
    Value,
    below,
    without_methods,
)
from perdure.wording import name_from

DIGITS = 8
"""Of a run's fingerprint, at the end of its folder's name."""


class GridFile(Section):
    """The keys of a grid."""

    name: Name = "grid"
    description: str = ""
    plan: Any
    overrides: dict[str, Any] = Field(default_factory=dict, alias="set")
    axes: dict[str, Any] = Field(default_factory=dict)
    slurm: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a grid: a plan of one method, and its value on each axis."""

    axes: Mapping[str, str | int]
    plan: Plan

    @cached_property
    def fingerprint(self) -> str:
        """That of the plan."""
        return self.plan.fingerprint()

    @cached_property
    def title(self) -> str:
        """What the run is, in words that can stand in a folder's name."""
        named = {axis: f"{axis.split('.')[-1]}-{value}" for axis, value in self.axes.items()}
        named |= {axis: str(self.axes[axis]) for axis in ("method", "order")}
        return "_".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.")[:40] for part in named.values())

    @property
    def name(self) -> str:
        """The name of its folder, where it has none yet."""
        return f"{self.title}_{self.fingerprint[:DIGITS]}"


@dataclass(frozen=True)
class Grid:
    """A grid and its runs. `resolved`: the same grid as plain values that depend on no other file."""

    name: str
    runs: tuple[PlannedRun, ...]
    resolved: Mapping[str, Any]
    slurm: Mapping[str, Any]


def find(name: Path) -> Path:
    """A grid file, or a ready grid by its name. Raises PlanError."""
    if os.path.isfile(name) or name.suffix:
        return name
    folder = plans.ready("template").parent / "grids"
    path = folder / f"{name.name}.yaml"
    if not os.path.isfile(path):
        known = [p.stem for p in folder.glob("*.yaml")]
        raise PlanError(f"no grid file {str(name)!r}, and no ready grid of that name{did_you_mean(name.name, known)}")
    return path


def load(path: Path, overrides: tuple[str, ...] = ()) -> Grid:
    """Read and check a grid file. Raises PlanError with every mistake found.

    `overrides`: `a.b=value` strings for its plan, which win over what the grid sets, and `axes.seeds=[0]` for itself.
    """
    data, lines = yaml_file.read(path)
    data.setdefault("name", name_from(path.stem))
    own = tuple(text for text in overrides if text.startswith("axes."))
    rest = tuple(text for text in overrides if text not in own)
    return build(yaml_file.override(data, own), path.parent, lines, str(path), rest)


def build(
    data: dict[str, Any],
    folder: Path = Path(),
    lines: LineNumbers | None = None,
    where: str = "grid",
    overrides: tuple[str, ...] = (),
) -> Grid:
    """A grid from plain values; paths start from `folder`. Raises PlanError with every mistake found."""
    try:
        given = GridFile.model_validate(data)
    except ValidationError as error:
        raise PlanError(mistakes.sentences(error, GridFile, where, lines)) from None
    here = {key: sources.code(getattr(given, key), folder) for key in ("overrides", "axes")}
    given = given.model_copy(update=here)
    draft = _draft(given, folder, where, lines or {}, tuple(map(sources.from_here, overrides)))
    plain = draft.plan()

    def note(at: Place, sentence: str) -> None:
        draft.note([f"{draft.place(at)}: {'.'.join(map(str, at))}: {sentence}"])

    axes = given.axes
    others = {axis: reading.values(axis, axes[axis], note) for axis in axes if axis not in (METHODS, ORDERS, SEEDS)}
    orders = reading.orders(axes[ORDERS], note) if ORDERS in axes else []
    seeds = reading.whole(axes[SEEDS], ("axes", SEEDS), note) if SEEDS in axes else []
    for value in (value for values in others.values() for value in values):
        draft.put(value.changes).plan()
    draft.tell()
    assert plain is not None  # or its mistakes would have been told
    if not orders:
        orders = [Ordering("-".join(map(str, plain.order)), plain.order) if plain.order else Ordering(LISTED)]
    runs = tuple(_runs(draft, others, orders, seeds or [plain.seed]))
    _twins(draft, runs)
    draft.tell()
    return Grid(given.name, runs, _resolved(given, draft, plain), given.slurm)


def _draft(given: GridFile, folder: Path, where: str, lines: LineNumbers, overrides: tuple[str, ...]) -> Draft:
    """The grid's plan, its own mistakes told at once, with what the grid sets and the methods of its axis."""
    if isinstance(given.plan, dict):
        data, place, own = given.plan, where, below(lines, ("plan",))
    elif isinstance(given.plan, str):
        path = folder / given.plan
        path = path if os.path.isfile(path) or path.suffix else _ready(given.plan, Draft({}, folder, where, lines, []))
        data, own = plans.values(path)
        data.setdefault("name", name_from(path.stem))
        folder, place = path.parent, str(path)
    else:
        raise PlanError(f"{where}: plan: write a plan file, the name of a ready plan, or a plan's keys")
    named = {"method", METHODS} & set(data)
    plans.build(data if named else {**data, METHODS: ["naive"]}, folder, own, place)  # the grid may name its methods
    draft = Draft(data, folder, where, lines, []).put(_flat(given.overrides))
    for key in (text.partition("=")[0] for text in overrides):
        axis = OWN_AXES.get(key.split(".")[0], key)
        if axis in given.axes:
            draft.note([f"--set {key}: the grid has an axis of it; write --set axes.{axis}=[...] instead"])
        draft = replace(draft, data=without_methods(draft.data, key))
    draft = replace(draft, data=yaml_file.override(draft.data, overrides))
    methods = [Change(METHODS, given.axes[METHODS], ("axes", METHODS))] if METHODS in given.axes else []
    return draft.put(methods)


def _ready(name: str, draft: Draft) -> Path:
    try:
        return plans.ready(name)
    except PlanError as error:
        raise PlanError([f"{draft.place(('plan',))}: plan: {problem}" for problem in error.problems]) from None


def _flat(changes: Mapping[str, Any]) -> Iterator[Change]:
    """`{training: {steps: 2}}` as training.steps; deeper, and elsewhere, a mapping replaces what the plan has."""
    for key, value in changes.items():
        if key in ("training", "sampling", "scoring") and isinstance(value, dict):
            yield from (Change(f"{key}.{inner}", one, ("set", key, inner)) for inner, one in value.items())
        else:
            yield Change(key, value, ("set", key))


def _runs(
    draft: Draft, others: dict[str, list[Value]], orders: Sequence[Ordering], seeds: list[int]
) -> Iterator[PlannedRun]:
    """Every combination; methods change fastest, so that the first order and seed can be compared first."""
    for variant in product(*others.values()):
        changed = draft.put(change for value in variant for change in value.changes)
        plan = changed.plan()
        labels = {axis: value.label for axis, value in zip(others, variant, strict=True)}
        if plan is not None and not plan.concepts:
            draft.note([f"{draft.where}: plan {plan.name!r} has no concepts to teach"])
        elif plan is not None:
            for seed, ordering in product(seeds, orders):
                yield from _of_order(draft, _seeded(changed, plan, seed), labels, ordering, orders[0])


def _seeded(draft: Draft, plan: Plan, seed: int) -> Plan:
    """The plan with another seed, which also shuffles the classes that it cuts into tasks."""
    if not tasks.asked(draft.data.get("concepts")):
        return plan.model_copy(update={"seed": seed})
    return draft.put([Change("seed", seed, ("axes", SEEDS))]).plan() or plan


def _of_order(
    draft: Draft, plan: Plan, labels: Mapping[str, str], ordering: Ordering, first: Ordering
) -> Iterator[PlannedRun]:
    """The plan's methods in one order; beside the first one the joint run, which has no order."""
    order = ordering.of(len(plan.concepts))
    if order is not None and len(order) != len(plan.concepts):
        told = f"order {ordering.label!r} has {len(order)} positions; there are {len(plan.concepts)} concepts"
        draft.note([f"{draft.place(('axes', ORDERS))}: axes.orders: {told}"])
        return
    ordered = plan.model_copy(update={"order": order})
    joint = [ordered.joined()] if plan.joint and ordering is first else []
    for one in [*map(ordered.narrowed, plan.methods), *joint]:
        yield PlannedRun({"method": one.methods[0].label, "order": ordering.label, "seed": plan.seed, **labels}, one)


def _twins(draft: Draft, runs: Sequence[PlannedRun]) -> None:
    """Two combinations that are one and the same run are a mistake: they would be counted twice."""
    known: dict[str, PlannedRun] = {}
    for run in runs:
        twin = known.setdefault(run.fingerprint, run)
        differ = "; ".join(f"{axis} {twin.axes[axis]} and {run.axes[axis]}" for axis in run.axes
                           if run.axes[axis] != twin.axes[axis])  # fmt: skip
        if differ:
            draft.note([f"{draft.place(('axes',))}: axes: {differ} give one and the same run; take another value"])


def _resolved(given: GridFile, draft: Draft, plan: Plan) -> dict[str, Any]:
    """The grid written out: the plan's keys with absolute paths, methods with their labels."""
    data, concepts = sources.located(draft.data, draft.folder), draft.data.get("concepts")
    if not isinstance(concepts, dict) or "toybox" not in concepts:
        data["data"] = str(sources.resolve(draft.folder, data.get("data") or "."))
    methods = [choice.model_dump(mode="json") for choice in plan.methods]
    usual = {METHODS: methods, ORDERS: [list(plan.order)] if plan.order else LISTED, SEEDS: [plan.seed]}
    axes = {**usual, **given.axes, METHODS: methods}
    slurm = {"slurm": dict(given.slurm)} if given.slurm else {}
    return {"name": given.name, "description": given.description, "plan": data, "axes": axes, **slurm}
