"""Rows and cells of the score matrix as they lie on disk, and folders that are there whole or not at all."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from perdure import files, records, wording

PARTIAL = ".partial"
"""Suffix of a folder that is not whole: being built, or being deleted."""
LESSON = re.compile(r"[0-9]{3,9}-[A-Za-z0-9_-]+")
"""Name of a finished lesson's folder."""
ASIDE = "aside"
"""Folder of a model's lessons that stand beside its chain: `<why>-<start>/<lesson>`."""
PLACE = re.compile(r"(refused|undone)-([0-9a-f]{16})")
"""Why a lesson stands aside, and the first digits of the digest of the memory that it starts from; zeros: the base."""


@dataclass(frozen=True)
class Cell:
    """One concept drawn and scored after one lesson."""

    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """`concept`, `scores` (measure -> value), `images` ([{file, prompt, latent}]), `seconds`."""
        return records.read(self.folder / "cell.json", records.Cell)

    @property
    def scores(self) -> dict[str, float]:
        """Measure -> value."""
        return dict(self.record["scores"])

    @property
    def images(self) -> list[Path]:
        """The images, prompt by prompt, in the order of the fixed latents."""
        return [files.within(self.folder, image["file"]) for image in self.record["images"]]


@dataclass(frozen=True)
class Row:
    """One row of the score matrix: the base (number 0), or the model after a lesson."""

    folder: Path
    stands_for: tuple[str, ...] | None = None
    """Concepts of the lesson in whose place it stands in a matrix, where it taught none itself."""

    @property
    def number(self) -> int:
        """0 for the base, else the number of the lesson."""
        return int(self.folder.name.partition("-")[0])

    @property
    def name(self) -> str:
        """What the lesson is called: its concept's name, or that of a lesson with several."""
        return self.folder.name.partition("-")[2].removesuffix(PARTIAL)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The lesson's facts: concepts, method, steps, seconds, bytes, versions; {} for the base."""
        return records.read(self.folder / "lesson.json", records.Lesson) if self.number else {}

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of what the lesson taught: one concept, or all of them at once."""
        return tuple(self.record.get("concepts", ())) if self.stands_for is None else self.stands_for

    @property
    def removed(self) -> tuple[str, ...]:
        """The concept that this row has taken out of the model, if it did that and taught nothing."""
        return tuple((self.record.get("removed") or {}).get("concepts", ()))

    @property
    def title(self) -> str:
        """What people are told it is: its concepts."""
        return ", ".join(self.concepts) or f"without {', '.join(self.removed)}"

    @property
    def own(self) -> str:
        """The settings that it had of its own, in words; empty for none."""
        return wording.dotted(self.record.get("training", {}), "training")

    @property
    def refusal(self) -> str:
        """Why its gate refused it, in words; empty where none did."""
        return "; ".join((self.record.get("refusal") or {}).get("told", ()))

    @property
    def harm(self) -> list[str]:
        """A sentence on each older concept that lost more by it than the spread of its pictures explains."""
        return [
            f"{name} fell from {cost['before']:.3f} to {cost['after']:.3f} ({cost['measure']}), by {cost['low']:.3f} "
            f"to {cost['high']:.3f} as its {cost['pictures']} pictures vary (95 %)"
            for name, cost in self.record.get("cost", {}).items()
            if cost["low"] is not None and cost["low"] > 0
        ]

    @property
    def memory(self) -> Path:
        """The memory after the lesson."""
        return self.folder / "memory.json"

    @cached_property
    def packs(self) -> frozenset[str]:
        """The packs that its memory refers to. Raises LineageError."""
        return frozenset(pack for _, pack in records.read(self.memory, records.Memory)["tensors"].values())

    @property
    def why(self) -> str:
        """Why it stands beside the chain: `refused` or `undone`; empty for a row of the chain."""
        placed = PLACE.fullmatch(self.folder.parent.name)
        return placed[1] if placed else ""

    @property
    def start(self) -> str:
        """For a lesson beside the chain: which memory it starts from, as `start_of` names it."""
        return self.folder.parent.name.rpartition("-")[2]

    def cell(self, concept: str) -> Cell | None:
        """The cell of a concept, if it was drawn."""
        folder = files.within(self.cells, concept)
        return Cell(folder) if folder.is_dir() else None

    @property
    def drawn(self) -> list[Cell]:
        """All its cells, by name."""
        return [Cell(folder) for folder in sorted(self.cells.glob("*")) if folder.suffix != PARTIAL]

    @property
    def cells(self) -> Path:
        """The folder of the concepts drawn after the lesson."""
        return files.within(self.folder, "cells")

    @property
    def scenes(self) -> dict[str, dict[str, Any]]:
        """Name of a set -> what is recorded of its pictures: `concepts`, `how`, `scores`, `regions`, `images`."""
        folders = sorted(path for path in (self.folder / "scenes").glob("*") if path.suffix != PARTIAL)
        return {folder.name: records.read(folder / "scene.json", records.Scene) for folder in folders}

    @property
    def drift(self) -> dict[str, Any]:
        """How far pictures that mention no concept are from the base's: `measure`, `likeness`, `pixels`; or {}."""
        path = self.folder / "drift" / "drift.json"
        return records.read(path, records.Drift) if path.is_file() else {}

    def losses(self) -> list[dict[str, Any]]:
        """The training log: one {step, loss, rate, seconds} a step. Raises LineageError."""
        logged: list[dict[str, Any]] = records.checked(files.read_jsonl(self.log), list[records.Step], self.log)
        return logged

    @property
    def log(self) -> Path:
        """The training log's file."""
        return self.folder / "train.jsonl"


class Shelf:
    """Finished lessons, whose files are read once for as long as they stand there: a late lesson asks for all often."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[list[tuple[int, ...]], Row]] = {}

    def row(self, folder: Path) -> Row:
        """The lesson in a folder: as it was found before, if its record and its memory's index are the same."""
        stats = [path.stat() for name in ("lesson.json", "memory.json") if (path := folder / name).is_file()]
        mark: list[tuple[int, ...]] = [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]
        before, row = self._known.get(folder, ([], None))
        if row is None or before != mark:
            row = Row(folder)
            self._known[folder] = mark, row
        return row


def taught_by(rows: Sequence[Row]) -> dict[str, Row]:
    """Concept -> the lesson that taught it, for all that is known after these rows, in the order of teaching."""
    known: dict[str, Row] = {}
    for row in rows:
        learn(known, row)
    return known


def standing(rows: Sequence[Row]) -> list[Row]:
    """Of all rows, the base's, and those of lessons whose concepts are still known; the newest stands for the last."""
    kept = [rows[0], *dict.fromkeys(taught_by(rows[1:]).values())]
    newer = len(kept) > 1 and kept[-1] != rows[-1]
    return [*kept[:-1], Row(rows[-1].folder, kept[-1].concepts)] if newer else kept


def learn(known: dict[str, Row], row: Row) -> None:
    """What is known after one more row."""
    for name in (*row.removed, *row.concepts):
        known.pop(name, None)
    known |= dict.fromkeys(row.concepts, row)


def aside(folder: Path) -> list[Row]:
    """The lessons that stand beside a model's chain, by number, the undone ones first."""
    places = [path for path in files.within(folder, ASIDE).glob("*") if PLACE.fullmatch(path.name)]
    found = [(place, one.name) for place in places for one in place.glob("*") if LESSON.fullmatch(one.name)]
    rows = [Row(files.within(files.within(place.parent, place.name), name)) for place, name in found]
    return sorted(rows, key=lambda row: (row.number, row.why != "undone"))


def start_of(rows: Sequence[Row]) -> str:
    """What a lesson after these rows starts from: the first digits of the last memory's digest, zeros for none."""
    return rows[-1].record["memory"][:16] if rows and rows[-1].number else "0" * 16


def reachable(rows: Sequence[Row], beside: Sequence[Row]) -> list[Row]:
    """The lessons beside the chain of `rows` that can go back into it, at once or after one another."""
    starts, kept = {(len(rows) + 1, start_of(rows))}, []
    for row in beside:
        if (row.number, row.start) in starts:
            kept.append(row)
            starts |= {(row.number + 1, start_of([row]))} if row.why == "undone" else set()
    return kept


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block has ended well; else nothing is left of it."""
    partial = folder.with_name(f"{folder.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    with files.telling(folder):
        files.make_folder(partial)
    try:
        yield partial
        with files.telling(folder):
            files.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def leftovers(folder: Path) -> list[Path]:
    """Folders below a model's that killed writers left half-made or half-deleted; an unfinished lesson is none."""
    found = folder.rglob(f"*{PARTIAL}")
    return [left for left in found if left.parent.name != "lessons" or ".removed" in left.name]


def remove(folder: Path) -> None:
    """Delete a folder, if it is there; renamed first, lest a kill leave a part of it under its name."""
    if folder.is_dir():
        doomed = folder.with_name(f"{folder.name}.removed{PARTIAL}")
        shutil.rmtree(doomed, ignore_errors=True)
        with files.telling(folder):
            files.rename(folder, doomed)
            shutil.rmtree(doomed)


def drop_aside(folder: Path, kept: Sequence[Row] = ()) -> None:
    """Drop the lessons that stand beside a model's chain, but for those that are kept."""
    for row in aside(folder):
        if row not in kept:
            remove(row.folder)
    for place in (*(folder / ASIDE).glob("*"), folder / ASIDE):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
