"""A grid's plan in the making: keys put into it one after another, mistakes told with the grid's own lines."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from perdure import plan as plans
from perdure.errors import PlanError
from perdure.plan import Plan, yaml_file
from perdure.plan.yaml_file import Lines

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
    lines: Lines
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
        lines: Lines = {}
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


def below(lines: Lines, at: Place, to: Place = ()) -> Lines:
    """The lines of what stands at and below a place, as if it stood at `to`."""
    return {(*to, *place[len(at) :]): line for place, line in lines.items() if place[: len(at)] == at}


def without_methods(data: dict[str, Any], key: str) -> dict[str, Any]:
    """A plan's keys without the methods that another value of them is to replace."""
    return (
        data if key not in ("method", "methods") else {k: v for k, v in data.items() if k not in ("method", "methods")}
    )
