"""A lineage: the folder of one model and its lessons, a chain like commits. Atomic, resumable, verifiable.

    model/
      lineage.json               format, settings (base, method, training, sampling, scoring, seed), versions
      plan.yaml                  the resolved plan, for people
      store/<digest>.safetensors tensors by content; a lesson adds one file with what it changed
      concepts/<name>/           what the concept is, small pictures of it, features of its references
      lessons/000-base/          row 0 of the score matrix: the untouched base
      lessons/001-<concept>/     lesson.json, memory.json, train.jsonl
        cells/<concept>/         images drawn after this lesson, cell.json with their scores

A lesson (or cell) is built in a folder whose name ends in `.partial` and renamed when it is whole: what has no such
suffix is done. This module needs no torch, so that logs and reports are quick.
"""

import fcntl
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from perdure import files, yaml_file
from perdure.errors import LineageError
from perdure.plan import Concept, Plan, describe, fingerprint

FORMAT = 1
PARTIAL = ".partial"
BASE_ROW = "000-base"


@dataclass(frozen=True)
class Cell:
    """One concept drawn and scored after one lesson."""

    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """`concept`, `scores` (measure -> value), `images` ([{file, prompt, latent}]), `seconds`."""
        record: dict[str, Any] = files.read_json(self.folder / "cell.json")
        return record

    @property
    def scores(self) -> dict[str, float]:
        """Measure -> value."""
        return dict(self.record["scores"])

    @property
    def images(self) -> list[Path]:
        """The images, prompt by prompt, in the order of the fixed latents."""
        return [self.folder / image["file"] for image in self.record["images"]]


@dataclass(frozen=True)
class Row:
    """One row of the score matrix: the base (number 0), or the model after a lesson."""

    folder: Path

    @property
    def number(self) -> int:
        """0 for the base, else the number of the lesson."""
        return int(self.folder.name[:3])

    @cached_property
    def record(self) -> dict[str, Any]:
        """The lesson's facts: concepts, method, steps, seconds, bytes, versions; {} for the base."""
        path = self.folder / "lesson.json"
        return files.read_json(path) if path.is_file() else {}

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
        folder = self.folder / "cells" / concept
        return Cell(folder) if (folder / "cell.json").is_file() else None

    def losses(self) -> list[dict[str, Any]]:
        """The training log: one {step, loss, rate, seconds} a step."""
        return files.read_jsonl(self.folder / "train.jsonl")


class Lineage:
    """A model's folder. Reading never changes it; writing needs `locked()`."""

    def __init__(self, folder: Path | str) -> None:
        """Open an existing lineage. Raises LineageError."""
        self.folder = Path(folder)
        if not (self.folder / "lineage.json").is_file():
            raise LineageError(f"{self.folder} is not a perdure model (no lineage.json); make one with `perdure init`")
        self.facts: dict[str, Any] = files.read_json(self.folder / "lineage.json")
        if self.facts.get("format") != FORMAT:
            raise LineageError(
                f"{self.folder} has format {self.facts.get('format')!r}; this version of perdure reads format {FORMAT}"
            )

    @classmethod
    def create(cls, folder: Path | str, plan: Plan, base_identity: str, versions: dict[str, str]) -> "Lineage":
        """A new, empty lineage for a plan of one method. Raises LineageError where the folder is in use."""
        folder = Path(folder)
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise LineageError(f"{folder} is not empty; choose a new folder for the model")
        settings = plan.settings()
        try:
            files.write_text(folder / "plan.yaml", plan_text(plan))
            files.write_json(
                folder / "lineage.json",
                {
                    "format": FORMAT,
                    "name": plan.name,
                    "settings": settings,
                    "fingerprint": fingerprint(settings),
                    "base_identity": base_identity,
                    "versions": versions,
                },
            )
        except OSError as error:
            raise LineageError(f"cannot write to {folder}: {error.strerror}") from None
        return cls(folder)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the concepts that decides a lesson."""
        return dict(self.facts["settings"])

    @property
    def store(self) -> Path:
        """The folder of tensors by content."""
        return self.folder / "store"

    @property
    def base_row(self) -> Row:
        """Row 0."""
        return Row(self.folder / "lessons" / BASE_ROW)

    @property
    def lessons(self) -> list[Row]:
        """The finished lessons, in order. Raises LineageError where one is missing in between."""
        pattern = re.compile(r"^(\d{3})-(?!.*\.partial$).+$")
        folders = sorted(p for p in (self.folder / "lessons").glob("*") if pattern.match(p.name) and p.name != BASE_ROW)
        rows = [Row(folder) for folder in folders]
        if [row.number for row in rows] != list(range(1, len(rows) + 1)):
            raise LineageError(f"{self.folder / 'lessons'}: lessons are {[r.folder.name for r in rows]}; one is missing or doubled")
        return rows

    @property
    def rows(self) -> list[Row]:
        """Row 0 and the lessons."""
        return [self.base_row, *self.lessons]

    @property
    def concepts(self) -> list[str]:
        """Names of the taught concepts, in the order in which they were taught."""
        return [name for row in self.lessons for name in row.concepts]

    def concept_facts(self, name: str) -> dict[str, Any]:
        """What is recorded of a concept: `concept` (as in the plan), `digest`, `held_out`, counts of images."""
        facts: dict[str, Any] = files.read_json(self.concept_folder(name) / "concept.json")
        return facts

    def concept(self, name: str) -> Concept:
        """The concept as it was taught."""
        return Concept.model_validate(self.concept_facts(name)["concept"])

    def concept_folder(self, name: str) -> Path:
        """Where a concept's facts and small pictures lie."""
        return self.folder / "concepts" / name

    def matrix(self, measure: str) -> np.ndarray:
        """S (lessons + 1, concepts): row 0 the base, NaN where not measured."""
        names, rows = self.concepts, self.rows
        scores = np.full((len(rows), len(names)), np.nan)
        for i, row in enumerate(rows):
            for j, name in enumerate(names):
                cell = row.cell(name)
                if cell is not None:
                    scores[i, j] = cell.scores.get(measure, np.nan)
        return scores

    @property
    def measures(self) -> list[str]:
        """Measures that were taken of any concept, in the order of the settings."""
        taken = {m for row in self.rows for name in self.concepts if (cell := row.cell(name)) for m in cell.scores}
        wanted = [*self.settings["scoring"]["subject"], *self.settings["scoring"]["style"]]
        return [m for m in dict.fromkeys(wanted) if m in taken]

    # --- writing --------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the only writer's lock; leftovers of killed writers are swept away."""
        with (self.folder / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LineageError(f"{self.folder} is being written by another process; wait until it has finished") from None
            files.sweep(self.folder)
            yield

    def check(self, plan: Plan, base_identity: str) -> None:
        """Refuse a plan that did not make this lineage. Raises LineageError naming the first difference."""
        if fingerprint(plan.settings()) != self.facts["fingerprint"]:
            raise LineageError(f"{self.folder} was made by another plan: {_difference(self.settings, plan.settings())}; "
                               "give another --out folder, or delete this one")
        if base_identity != self.facts["base_identity"]:
            raise LineageError(f"{self.folder} was made on other weights of base {plan.base!r}; the base has changed since")
        planned = [c.name for c in plan.sequence]
        taught = self.concepts
        if taught != planned[: len(taught)] and set(taught) != set(planned):
            raise LineageError(f"{self.folder} has learnt {taught}, which is not how the plan begins: {planned}")
        for concept in plan.sequence:
            if concept.name in taught and self.concept_facts(concept.name)["described"] != describe(concept):
                raise LineageError(f"{self.folder}: concept {concept.name!r} was taught with other settings than the plan's")

    def adopt_concept(self, concept: Concept, facts: dict[str, Any]) -> None:
        """Record what a concept is; once."""
        path = self.concept_folder(concept.name) / "concept.json"
        if not path.is_file():
            stored = concept.model_dump(mode="json", by_alias=True)
            files.write_json(path, {"concept": stored, "described": describe(concept), **facts})

    def adopt_base_row(self, other: "Lineage") -> None:
        """Copy the base's cells from a lineage with the same base, sampling and scoring."""
        keys = ("base", "vae", "sampling", "scoring")
        if any(self.settings[key] != other.settings[key] for key in keys):
            return
        for cell in (other.base_row.folder / "cells").glob("*"):
            target = self.base_row.folder / "cells" / cell.name
            if not cell.name.endswith(PARTIAL) and not target.exists():
                with building(target) as partial:
                    shutil.copytree(cell, partial, dirs_exist_ok=True)

    def stage(self, number: int, name: str) -> Row:
        """The unfinished lesson's folder, new or as a killed run left it; other unfinished lessons are removed."""
        folder = self.folder / "lessons" / f"{number:03d}-{name}{PARTIAL}"
        for left in (self.folder / "lessons").glob(f"[0-9]*{PARTIAL}"):
            if left != folder:
                shutil.rmtree(left)
        folder.mkdir(parents=True, exist_ok=True)
        return Row(folder)

    def commit(self, staged: Row) -> Row:
        """Make a staged lesson part of the lineage: one rename."""
        final = staged.folder.with_name(staged.folder.name.removesuffix(PARTIAL))
        staged.folder.rename(final)
        self.collect()
        return Row(final)

    def discard(self, staged: Row) -> None:
        """Drop a staged lesson and the tensors that only it needed."""
        shutil.rmtree(staged.folder)
        self.collect()

    def undo(self) -> Row:
        """Take back the last lesson. Raises LineageError where there is none."""
        if not self.lessons:
            raise LineageError(f"{self.folder} has no lesson to undo")
        last = self.lessons[-1]
        last.record  # noqa: B018 - read before the folder is gone
        doomed = last.folder.with_name(f"{last.folder.name}{PARTIAL}")
        last.folder.rename(doomed)
        shutil.rmtree(doomed)
        for name in last.concepts:
            shutil.rmtree(self.concept_folder(name), ignore_errors=True)
            shutil.rmtree(self.base_row.folder / "cells" / name, ignore_errors=True)
        self.collect()
        return last

    def collect(self) -> None:
        """Delete tensors that no lesson refers to, finished or staged."""
        used = set()
        for memory in (self.folder / "lessons").glob("*/memory.json"):
            used |= {pack for _, pack in json.loads(memory.read_text(encoding="utf-8"))["tensors"].values()}
        for pack in self.store.glob("*.safetensors"):
            if pack.name not in used:
                pack.unlink()

    @property
    def nbytes(self) -> int:
        """Bytes of tensors that the lineage stores."""
        return files.size_of(self.store.glob("*.safetensors"))


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block has ended well."""
    partial = folder.with_name(f"{folder.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(folder)


def plan_text(plan: Plan) -> str:
    """The resolved plan as YAML."""
    return f"# Resolved plan, fingerprint {plan.fingerprint()}\n" + yaml_file.dump(plan.model_dump(mode="json", by_alias=True))


def _difference(mine: Any, theirs: Any, at: str = "") -> str:
    """The first key in which two nested mappings differ, in words."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in [*mine, *(k for k in theirs if k not in mine)]:
            if mine.get(key) != theirs.get(key):
                return _difference(mine.get(key), theirs.get(key), f"{at}.{key}".lstrip("."))
    return f"{at} is {mine!r} there and {theirs!r} in the plan"
