"""Rows and cells of the score matrix as they lie on disk, and folders that are there whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from perdure import files, records

PARTIAL = ".partial"
"""Suffix of a folder that is not whole: being built, or being deleted."""


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
        return tuple(self.record.get("concepts", ()))

    @property
    def memory(self) -> Path:
        """The memory after the lesson."""
        return self.folder / "memory.json"

    def cell(self, concept: str) -> Cell | None:
        """The cell of a concept, if it was drawn."""
        folder = files.within(self.cells, concept)
        return Cell(folder) if folder.is_dir() else None

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
