"""The axes of a grid: what is written under a key, as values with labels. Nothing here knows a plan."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from perdure import plan as plans
from perdure.errors import PlanError
from perdure.plan import Plan, fingerprint, yaml_file
from perdure.plan.yaml_file import LineNumbers
from perdure.wording import written

Place = tuple[str | int, ...]
"""Where something stands in a grid: keys and positions."""


class Change(NamedTuple):
    """A dotted key of the plan, its new value, and where that stands in the grid."""

    key: str
    value: Any
    at: Place


@dataclass(frozen=True)
class Draft:
    """The keys of a plan, changed. Every mistake is noted once in `problems`, which all drafts of a grid share."""

    data: dict[str, Any]
    folder: Path
    where: str
    lines: LineNumbers
    problems: list[str]
    changes: tuple[Change, ...] = ()

    def put(self, changes: Iterable[Change]) -> "Draft":
        """The same keys with some more changed."""
        draft = self
        for change in changes:
            data = without_methods(draft.data, change.key)
            try:
                data = yaml_file.put(data, change.key, change.value, self.place(change.at))
            except PlanError as error:
                self.note(error.problems)
            draft = replace(draft, data=data, changes=(*draft.changes, change))
        return draft

    def plan(self) -> Plan | None:
        """The plan, or None where it is a faulty one."""
        lines: LineNumbers = {}
        for key, _, at in self.changes:
            to = tuple(int(part) if part.isdigit() else part for part in key.split("."))
            lines |= below(self.lines, at, to)
        try:
            return plans.build(self.data, self.folder, lines, self.where)
        except PlanError as error:
            last = self.place(self.changes[-1].at) if self.changes else self.where
            self.note(p if p.startswith(self.where) else f"{last}: {p}" for p in error.problems)
            return None

    def place(self, at: Place) -> str:
        """File and line."""
        line = yaml_file.line_of(self.lines, at)
        return f"{self.where}:{line}" if line else self.where

    def note(self, problems: Iterable[str]) -> None:
        """Note mistakes, each once."""
        self.problems.extend(problem for problem in problems if problem not in self.problems)

    def tell(self) -> None:
        """Raises PlanError where any mistake was noted."""
        if self.problems:
            raise PlanError(self.problems)


def below(lines: LineNumbers, at: Place, to: Place = ()) -> LineNumbers:
    """The lines of what stands at and below a place, as if it stood at `to`."""
    return {(*to, *place[len(at) :]): line for place, line in lines.items() if place[: len(at)] == at}


def without_methods(data: dict[str, Any], key: str) -> dict[str, Any]:
    """A plan's keys without the methods that another value of them is to replace."""
    return (
        data if key not in ("method", "methods") else {k: v for k, v in data.items() if k not in ("method", "methods")}
    )


METHODS, ORDERS, SEEDS = "methods", "orders", "seeds"
LISTED = "listed"
"""The order in which the plan lists its concepts."""
OWN_AXES = {"method": METHODS, "methods": METHODS, "order": ORDERS, "seed": SEEDS}
"""Keys of a plan that have an axis of their own."""
Note = Callable[[Place, str], None]
"""Takes a mistake: where it stands, and a sentence."""


@dataclass(frozen=True)
class Value:
    """One value of an axis: its label, and the plan's keys that it changes."""

    label: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Ordering:
    """One way to order concepts: as listed, by a permutation (positions from 1), or drawn by a seed."""

    label: str
    positions: tuple[int, ...] | None = None
    seed: int | None = None

    def of(self, count: int) -> tuple[int, ...] | None:
        """The order of `count` concepts, as a plan's `order`."""
        return self.positions if self.seed is None else random_order(self.seed, count)


def random_order(seed: int, count: int) -> tuple[int, ...]:
    """A permutation of 1..count that is the same on every machine and under every version of any library."""
    return tuple(sorted(range(1, count + 1), key=lambda position: fingerprint(["order", seed, position])))


def values(axis: str, given: Any, note: Note) -> list[Value]:
    """An axis of plain values of one dotted key (a list), or of named variants of several (a mapping)."""
    at: Place = ("axes", axis)
    if not isinstance(given, list | dict) or not given:
        note(at, f"give a list of values, or a mapping of names to plan keys (got {given!r})")
        return []
    if isinstance(given, list):
        _no_own_axis(axis, at, note)
        found = [Value(written(value), (Change(axis, value, (*at, i)),)) for i, value in enumerate(given)]
    else:
        found = [Value(str(name), _variant(changes, (*at, str(name)), note)) for name, changes in given.items()]
    _distinct([value.label for value in found], at, note)
    return found


def _variant(changes: Any, at: Place, note: Note) -> tuple[Change, ...]:
    if not isinstance(changes, dict):
        note(at, f"a variant is a mapping of plan keys to values (got {changes!r})")
        return ()
    for key in changes:
        _no_own_axis(str(key), (*at, str(key)), note)
    return tuple(Change(str(key), value, (*at, str(key))) for key, value in changes.items())


def _no_own_axis(key: str, at: Place, note: Note) -> None:
    if own := OWN_AXES.get(key.split(".")[0]):
        note(at, f"{key!r} is not an axis by that name; write it as `axes.{own}`")


def orders(given: Any, note: Note) -> list[Ordering]:
    """`listed`, a list of permutations (or `listed`), or a mapping: `random: [seeds]`, or a name and its order."""
    at: Place = ("axes", ORDERS)
    if given == LISTED:
        return [Ordering(LISTED)]
    if isinstance(given, list) and given:
        found = [one for i, value in enumerate(given) for one in _order(None, value, (*at, i), note)]
    elif isinstance(given, dict) and given:
        found = [one for name, value in given.items() for one in _named(str(name), value, (*at, str(name)), note)]
    else:
        note(at, f"write `listed`, a list of orders, or `{{random: [0, 5]}}` (got {given!r})")
        return []
    _distinct([one.label for one in found], at, note)
    return found


def _named(name: str, value: Any, at: Place, note: Note) -> Iterator[Ordering]:
    if name == "random":
        yield from (Ordering(f"random-{seed}", seed=seed) for seed in whole(value, at, note))
    else:
        yield from _order(name, value, at, note)


def _order(name: str | None, value: Any, at: Place, note: Note) -> Iterator[Ordering]:
    if value == LISTED:
        yield Ordering(name or LISTED)
    elif isinstance(value, list) and value and sorted(map(str, value)) == sorted(str(n + 1) for n in range(len(value))):
        yield Ordering(name or "-".join(map(str, value)), tuple(int(one) for one in value))
    else:
        note(at, f"an order is `listed`, or all positions from 1, such as [2, 1, 3] (got {value!r})")


def whole(given: Any, at: Place, note: Note) -> list[int]:
    """A list of different whole numbers from 0."""
    if not isinstance(given, list) or not given or any(type(one) is not int or one < 0 for one in given):
        note(at, f"give a list of whole numbers from 0, such as [0, 5] (got {given!r})")
        return []
    _distinct([str(one) for one in given], at, note)
    return list(given)


def _distinct(labels: list[str], at: Place, note: Note) -> None:
    for label in dict.fromkeys(one for one in labels if labels.count(one) > 1):
        note(at, f"{label!r} is given twice")
