"""Folders -> finished runs, each with its method, order, seed and row; what cannot be compared is refused."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from perdure import files
from perdure.compare.statistics import Pair
from perdure.errors import LineageError
from perdure.lineage import Lineage, agreement
from perdure.lineage.rows import PARTIAL
from perdure.plan import describe, portable
from perdure.report import reading
from perdure.report.reading import Run
from perdure.wording import written

DEPTH = 3
"""How far below a given folder lineages are looked for."""
RECORD = "run.json"
"""What a sweep writes into each run's folder: {name, axes: {method, order, seed, ...}, fingerprint}."""
PAIRED = ("method", "order", "seed")
"""Axes that make no rows of their own: the method names the row, order and seed the pair."""
SEPARATOR = " · "
HARMLESS = ("gradient_checkpointing", "checkpoint_every", "text_encoders")
"""Keys of `training` that change nothing that is learnt."""


@dataclass(frozen=True)
class Entry:
    """One finished run. `variant`: the values of further axes, which make it a row of its own."""

    run: Run
    axes: dict[str, Any]
    variant: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The lineage's folder."""
        return self.run.lineage.folder

    @cached_property
    def choice(self) -> dict[str, Any]:
        """The method: name, options, label."""
        return dict(self.run.lineage.settings["methods"][0])

    @property
    def method(self) -> str:
        """The method's label."""
        return str(self.axes.get("method", self.run.label))

    @property
    def row(self) -> str:
        """The name of its row: "method" or "method · variant"."""
        return SEPARATOR.join([self.method, *self.variant])

    @property
    def order(self) -> tuple[str, ...]:
        """The concepts in the order in which they were taught; of a classifier, the classes of each task."""
        if not self.run.classifies:
            return self.run.concepts
        return tuple("+".join(self.run.facts[name]["concept"]["classes"]) for name in self.run.concepts)

    @property
    def seed(self) -> int:
        """The plan's seed."""
        return int(self.run.lineage.settings["seed"])

    @property
    def pair(self) -> Pair:
        """(order, seed): what runs of different methods are matched by."""
        return self.order, self.seed

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings, with the defaults of keys that an older version did not know; models by their names."""
        return portable(agreement.completed(self.run.lineage))

    @cached_property
    def training(self) -> dict[str, Any]:
        """What decides how a lesson is trained; a joint run's steps are those of one concept."""
        found = {key: value for key, value in self.settings["training"].items() if key not in HARMLESS}
        if self.run.joint:
            found["steps"] //= len(self.order)
        return found

    @property
    def own(self) -> frozenset[str]:
        """Keys of `training` that the plan gives to this method alone."""
        return frozenset(self.choice.get("training") or {})

    @cached_property
    def ground(self) -> dict[str, Any]:
        """What makes scores comparable: base, concepts, sampling, scoring; nothing of where files lie."""
        lineage = self.run.lineage
        kept = {key: value for key, value in self.settings.items() if key not in ("methods", "seed", "training")}
        concepts: dict[str, Any] = {
            name: {**describe(lineage.concept(name)), "images": self.run.facts[name]["digest"]}
            for name in sorted(self.run.concepts)
        }
        if self.run.classifies:  # however they are cut into tasks
            each = [own for name in concepts for own in self.run.facts[name]["digests"].items()]
            concepts = {"tasks": len(concepts), "classes": dict(sorted(each))}
        return {"concepts": concepts, **kept, "weights of the base": lineage.facts.get("base_identity")}


@dataclass(frozen=True)
class Found:
    """What lies in the folders: the runs to compare, and those left out, with why."""

    entries: tuple[Entry, ...]
    unfinished: tuple[str, ...] = field(default=())


def gather(folders: Sequence[Path]) -> Found:
    """Every lineage in or below the folders (`DEPTH` deep), each once.

    Raises LineageError where there is none, where none is finished, or where runs cannot be compared.
    """
    entries, unfinished = [], []
    for place, root in _lineages(folders):
        run = reading.read([Lineage(place)])[0]
        if run.lessons and len(run.concepts) == run.planned:
            entries.append(Entry(run, _axes(place, root)))
        else:
            unfinished.append(f"{place} ({len(run.concepts)} of {run.planned} concepts)")
    if not entries:
        told = f": {'; '.join(unfinished)}" if unfinished else ""
        raise LineageError(f"{_listed(folders)} holds no finished run to compare{told or ' (no lineage.json)'}")
    named = _derived(_declared(entries))
    _check(named)
    return Found(tuple(named), tuple(unfinished))


def _lineages(folders: Sequence[Path]) -> list[tuple[Path, Path]]:
    """(lineage's folder, the given folder that it was found under), in the order of the paths."""
    found: dict[Path, tuple[Path, Path]] = {}
    for root in folders:
        if not os.path.isdir(root):
            raise LineageError(f"{root} is not a folder; give folders of models, runs or sweeps")
        marks = (m for depth in range(DEPTH + 1) for m in sorted(root.glob("*/" * depth + "lineage.json")))
        for mark in marks:
            if PARTIAL in mark.parent.suffixes:
                continue
            found.setdefault(mark.parent.resolve(), (mark.parent, root))
    return list(found.values())


def _axes(place: Path, root: Path) -> dict[str, Any]:
    """The axes of the nearest run.json, from the lineage's folder up to the given one; {} where there is none."""
    for folder in (place, *place.parents):
        path = folder / RECORD
        if path.is_file():
            record = files.read_json(path)
            axes = record.get("axes") if isinstance(record, dict) else None
            if not isinstance(axes, dict):
                raise LineageError(f"{path} is damaged: it has no `axes`")
            several = folder != place and len(list(folder.glob("*/lineage.json"))) > 1
            return {key: value for key, value in axes.items() if not (several and key == "method")}
        if folder == root:
            break
    return {}


def _declared(entries: Sequence[Entry]) -> list[Entry]:
    """Axes of sweeps that take several values make rows."""
    names = dict.fromkeys(name for entry in entries for name in entry.axes if name not in PAIRED)
    varying = [name for name in names if len({written(entry.axes.get(name)) for entry in entries}) > 1]
    return [
        replace(entry, variant=tuple(_value(name, entry.axes[name]) for name in varying if name in entry.axes))
        for entry in entries
    ]


def _derived(entries: Sequence[Entry]) -> list[Entry]:
    """Training settings that differ among runs of one variant make rows: "naive · steps=200".

    Not those that one plan gives to its methods: these belong to the method.
    """
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.variant, []).append(entry)
    named = []
    for entry in entries:
        alike = groups[entry.variant]
        moved = [key for key, value in entry.training.items() if any(o.training[key] != value for o in alike)]
        keys = [key for key in moved if any(_differ(entry, other, key) for other in alike)]
        extra = tuple(f"{key}={written(entry.training[key])}" for key in keys)
        named.append(replace(entry, variant=(*entry.variant, *extra)))
    return named


def _differ(one: Entry, other: Entry, key: str) -> bool:
    """Whether two runs were trained differently in a key, but for what is each method's own."""
    apart = key in one.own | other.own and one.method != other.method
    return not apart and one.training.get(key) != other.training.get(key)


def _check(entries: Sequence[Entry]) -> None:
    """Refuse runs that are not of one experiment. Raises LineageError with the first difference."""
    declared: dict[tuple[str, ...], Entry] = {}
    rows: dict[str, Entry] = {}
    runs: dict[tuple[str, Pair], Entry] = {}
    for entry in entries:
        axes = tuple(f"{k}={written(v)}" for k, v in entry.axes.items() if k not in PAIRED)
        first = declared.setdefault(axes, entry)
        if entry.ground != first.ground:
            told = difference(first.ground, entry.ground)
            raise LineageError(
                f"{first.folder} and {entry.folder} cannot be compared: {told}; give folders of one experiment"
            )
        like = rows.setdefault(entry.row, entry)
        if (entry.choice["name"], entry.choice["options"]) != (like.choice["name"], like.choice["options"]):
            mine, other = ({key: e.choice[key] for key in ("name", "options")} for e in (like, entry))
            told = difference(mine, other)
            raise LineageError(
                f"{like.folder} and {entry.folder} are both called {entry.row!r}, but {told}; give each its own label"
            )
        twin = runs.setdefault((entry.row, entry.pair), entry)
        if twin is not entry:
            raise LineageError(
                f"{twin.folder} and {entry.folder} are the same method, order and seed ({entry.row}, "
                f"seed {entry.seed}); leave one of them out"
            )


def difference(mine: Any, other: Any, at: str = "") -> str:
    """The first key in which two nested values differ, in words."""
    if isinstance(mine, dict) and isinstance(other, dict):
        key = next(k for k in (*mine, *other) if mine.get(k) != other.get(k) or (k in mine) != (k in other))
        if key in mine and key in other:
            return difference(mine[key], other[key], f"{at}.{key}" if at else str(key))
        return f"{at or 'one'} has {key!r} in {'the first' if key in mine else 'the second'} only"
    return f"{at} is {written(mine)} in the first and {written(other)} in the second"


def _value(axis: str, value: Any) -> str:
    """A value of an axis as part of a row's name: its label, or "steps=200" where that is a mere number."""
    text = written(value)
    return f"{axis.rpartition('.')[2]}={text}" if re.fullmatch(r"[-+.\deE]+|true|false|null", text) else text


def _listed(folders: Iterable[Path]) -> str:
    return ", ".join(map(str, folders))
