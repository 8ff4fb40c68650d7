"""A lineage: the folder of one model and its lessons, a chain like commits. Atomic, resumable, verifiable.

    model/
      lineage.json               format, settings (base, method, training, sampling, scoring, seed), versions
      plan.yaml                  the resolved plan, for people
      store/<digest>.safetensors tensors by content; a lesson adds one file with what it changed
      concepts/<name>/           what the concept is, small pictures of it, features of its references
      lessons/000-base/          row 0 of the score matrix: the untouched base
      lessons/001-<concept>/     lesson.json, memory.json, train.jsonl, begun (a fingerprint of what it started from)
        cells/<concept>/         images drawn after this lesson, cell.json with their scores
        scenes/<set>/            pictures of several concepts together, scene.json with their scores
      aside/<why>-<start>/       lessons refused or undone, until the next one; <start> says what they start from

A lesson (or cell) is built in a folder whose name ends in `.partial` and renamed when it is whole: what has no such
suffix is done. This module needs no torch, so that logs and reports are quick.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from perdure import files, records
from perdure.errors import LineageError
from perdure.lineage import locks, taught
from perdure.lineage import rows as chain
from perdure.lineage.rows import PARTIAL, Row, aside, leftovers, remove
from perdure.plan import JOINT, Concept, Plan, describe, fingerprint, mistakes, plan_text, portable
from perdure.score import accuracy

FORMAT = 1
BASE_ROW = "000-base"


class Lineage:
    """A model's folder. Reading never changes it; writing needs `locked()`."""

    def __init__(self, folder: Path | str) -> None:
        """Open an existing lineage. Raises LineageError."""
        self.folder = Path(folder)
        if not is_model(self.folder):
            raise LineageError(f"{self.folder} is not a perdure model (no lineage.json); make one with `perdure init`")
        self.facts: dict[str, Any] = records.read(self.folder / "lineage.json", records.Model, FORMAT)
        self._shelf = chain.Shelf()

    @classmethod
    def create(cls, folder: Path | str, plan: Plan, base_identity: str, versions: dict[str, str]) -> "Lineage":
        """A new, empty lineage for a plan of one method. Raises LineageError where the folder is in use."""
        folder = Path(folder)
        _free(folder)
        with locks.alone(folder):
            _free(folder)  # another process may have begun a model there
            record(folder, plan, base_identity, versions)
            lineage = cls(folder)
            lineage.write_plan(plan)
        return lineage

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the concepts that decides a lesson."""
        return dict(self.facts["settings"])

    @property
    def store(self) -> Path:
        """The folder of tensors by content."""
        return files.within(self.folder, "store")

    @property
    def base_row(self) -> Row:
        """Row 0."""
        return Row(files.within(self._rows, BASE_ROW))

    @property
    def _rows(self) -> Path:
        return files.within(self.folder, "lessons")

    @property
    def lessons(self) -> list[Row]:
        """The finished lessons, in order. Raises LineageError where one is missing in between."""
        found = [p.name for p in self._rows.glob("*") if chain.LESSON.fullmatch(p.name) and p.name != BASE_ROW]
        rows = sorted((self._shelf.row(files.within(self._rows, name)) for name in found), key=lambda row: row.number)
        if [row.number for row in rows] != list(range(1, len(rows) + 1)):
            told = ", ".join(row.folder.name for row in rows)
            raise LineageError(f"{self.folder / 'lessons'} holds {told}; a lesson is missing or doubled")
        return rows

    @property
    def rows(self) -> list[Row]:
        """Row 0 and the lessons."""
        return [self.base_row, *self.lessons]

    @property
    def concepts(self) -> list[str]:
        """Names of the concepts that it knows, in the order in which they were taught."""
        return list(chain.taught_by(self.lessons))

    @property
    def standing(self) -> list[Row]:
        """The rows of its matrix: the base, each lesson whose concepts it knows; for the last the model as it is."""
        return chain.standing(self.rows)

    def concept_facts(self, name: str) -> dict[str, Any]:
        """What is recorded of a concept: `concept` (as in the plan), `digest`, `held_out`, counts of images."""
        path = self.concept_folder(name) / "concept.json"
        facts = records.read(path, records.Concept)
        if facts["concept"]["name"] != name:
            raise LineageError(f"{path} is damaged: it is of a concept {facts['concept']['name']!r}")
        facts["concept"] = {"kind": "subject", "class": "", "prompt": "", **facts["concept"]}  # as in plans
        return facts

    def concept(self, name: str) -> Concept:
        """The concept as it was taught. Raises LineageError."""
        with mistakes.understood(self.concept_folder(name) / "concept.json", Concept):
            return Concept.model_validate(self.concept_facts(name)["concept"])

    def plan(self) -> Plan:
        """The settings with the concepts taught so far. Raises LineageError."""
        concepts = [self.concept(name) for name in self.concepts]
        with mistakes.understood(self.folder / "lineage.json", Plan):
            own = {key: self.facts[key] for key in ("name", "performance") if key in self.facts}
            return Plan.model_validate({**self.settings, **own, "concepts": concepts})

    def concept_folder(self, name: str) -> Path:
        """Where a concept's facts and small pictures lie."""
        return files.within(files.within(self.folder, "concepts"), name)

    def matrix(self, measure: str) -> np.ndarray:
        """S (lessons + 1, concepts) of the rows that are `standing`: row 0 the base, NaN where not measured."""
        names, rows = self.concepts, self.standing
        scores = np.full((len(rows), len(names)), np.nan)
        for i, row in enumerate(rows):
            for j, name in enumerate(names):
                if (cell := row.cell(name)) is not None:
                    scores[i, j] = cell.scores.get(measure, np.nan)
        return scores

    @property
    def measures(self) -> list[str]:
        """Measures that were taken of any concept, in the order of the settings."""
        taken = {m for row in self.rows for name in self.concepts if (cell := row.cell(name)) for m in cell.scores}
        wanted = [*self.settings["scoring"]["subject"], *self.settings["scoring"]["style"], *accuracy.MEASURES]
        return [m for m in dict.fromkeys(wanted) if m in taken]

    # --- writing --------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the only writer's lock; leftovers of killed writers are swept away, but for an unfinished lesson.

        Raises LineageError where another process writes, or the model is damaged: nothing is tidied away in one.
        """
        with locks.alone(self.folder):
            try:
                check(self)
                kept = chain.reachable(self.lessons, aside(self.folder))
            except LineageError as error:
                hint = f"nothing was changed; `perdure fsck {self.folder}` names all that is damaged"
                raise LineageError(f"{error}; {hint}") from None
            files.sweep(self.folder)
            for left in leftovers(self.folder):
                shutil.rmtree(left, ignore_errors=True)
            chain.drop_aside(self.folder, kept)
            yield

    def write_plan(self, plan: Plan) -> None:
        """Keep the resolved plan, for people; nothing is written where it stands there already."""
        path, text = self.folder / "plan.yaml", plan_text(plan)
        if not path.is_file() or files.read_text(path) != text:
            files.write_text(path, text)

    def adopt_concept(self, concept: Concept, facts: dict[str, Any]) -> None:
        """Record what a concept is. What an unfinished lesson left of another one of that name is dropped.

        Raises LineageError where a finished lesson has drawn the other one.
        """
        path = self.concept_folder(concept.name) / "concept.json"
        known: dict[str, Any] = self.concept_facts(concept.name) if path.is_file() else {"described": {}, "digest": ""}
        if known["digest"] == facts["digest"] and taught.alike(known["described"], concept):
            return
        beside = [row for row in aside(self.folder) if concept.name in row.concepts]
        for left in (row.folder for row in beside):
            remove(left)  # of other pictures under this name
        for row in self.lessons if beside and concept.name not in self.concepts else ():
            remove(row.cells / concept.name)
        if any(row.cell(concept.name) for row in self.lessons):
            taught.on_concept(self.folder, known["described"], concept)
            raise LineageError(
                f"{self.folder}: the images of concept {concept.name!r} have changed since they were used; "
                "put them back, or give another --out folder"
            )
        if path.is_file():
            remove(self.base_row.cells / concept.name)  # before the record by which it is known as another's
        remove(path.parent)
        stored = concept.model_dump(mode="json", by_alias=True)
        files.write_json(path, {"concept": stored, "described": describe(concept), **facts})

    def stage(self, number: int, name: str, begun: str) -> Row:
        """The unfinished lesson's folder: as a killed run left it if it had begun the same lesson, else new.

        `begun` is a fingerprint of all that the lesson starts from. Other unfinished lessons are removed.
        """
        folder = self._rows / f"{number:03d}-{name}{PARTIAL}"
        mark = folder / "begun"
        for left in self._rows.glob(f"[0-9]*{PARTIAL}"):
            if left != folder or not mark.is_file() or files.read_text(mark) != begun:
                remove(left)
        files.write_text(mark, begun)
        return Row(folder)

    def commit(self, staged: Row, keep: Collection[str] = ()) -> Row:
        """Make a staged lesson part of the lineage: one rename. What stood beside the chain is dropped."""
        final = staged.folder.with_name(staged.folder.name.removesuffix(PARTIAL))
        with files.telling(final):
            files.rename(staged.folder, final)
        chain.drop_aside(self.folder)
        self.tidy(keep)
        return Row(final)

    def discard(self, staged: Row, keep: Collection[str] = ()) -> None:
        """Drop a staged lesson and all that only it needed."""
        remove(staged.folder)
        self.tidy(keep)

    def tidy(self, keep: Collection[str] = ()) -> None:
        """Drop what no lesson refers to, in the chain or beside it: tensors, and concepts that are not among `keep`.

        Raises LineageError, and drops nothing, where what a lesson refers to cannot be read.
        """
        whole = [*self.lessons, *aside(self.folder)]
        known = {*keep, *(name for row in whole for name in row.concepts)}
        unfinished = [row for path in self._rows.glob(f"[0-9]*{PARTIAL}") if (row := Row(path)).memory.is_file()]
        used = {pack for row in (*whole, *unfinished) for pack in row.packs}
        for folder in (*self.base_row.cells.glob("*"), *files.within(self.folder, "concepts").glob("*")):
            if folder.name not in known:
                remove(folder)
        for pack in self.store.glob("*.safetensors"):
            if pack.name not in used:
                pack.unlink()

    @property
    def nbytes(self) -> int:
        """Bytes of tensors that the lineage stores; a link that leads nowhere holds none."""
        return files.size_of(pack for pack in self.store.glob("*.safetensors") if pack.is_file())


def record(folder: Path, plan: Plan, base_identity: str, versions: dict[str, str]) -> None:
    """Write down what a lineage is made with, its lineage.json."""
    settings = plan.settings()
    facts = {"format": FORMAT, "name": plan.name, "settings": settings, "base_identity": base_identity}
    facts |= {"fingerprint": fingerprint(portable(settings)), "versions": versions}
    facts |= {"performance": plan.performance.model_dump(mode="json")}
    files.write_json(folder / "lineage.json", facts)


def check(lineage: Lineage) -> None:
    """Refuse a damaged model: every lesson's record, its concepts, the index of its memory, no link anywhere.

    Raises LineageError naming the first file found to be damaged. Tensors and pictures are not read: `fsck` does that.
    """
    for path in lineage.folder.rglob("*"):
        if path.is_symlink():
            raise LineageError(f"{path} is a link; a model holds none, put what it leads to in its place")
    known: dict[str, Row] = {}
    for row in lineage.lessons:
        check_lesson(lineage, row, known)
        chain.learn(known, row)


def check_lesson(lineage: Lineage, row: Row, taught: Collection[str]) -> None:
    """One lesson, before which `taught` was known. Raises LineageError."""
    path, names = row.folder / "lesson.json", row.concepts
    if row.name != (f"without-{row.removed[0]}" if row.removed else names[0] if len(names) == 1 else JOINT):
        raise LineageError(f"{path} is damaged: it says that {row.title} was taught")
    if unknown := [name for name in row.removed if name not in taught or names]:
        raise LineageError(f"{path} is damaged: {', '.join(unknown)} is removed, which was not known")
    if again := [name for name in names if name in taught or names.count(name) > 1]:
        raise LineageError(f"{path} is damaged: {', '.join(again)} is taught twice")
    for name in names:
        lineage.concept_facts(name)
    if missing := sorted(row.packs - {pack.name for pack in lineage.store.glob("*")}):
        raise LineageError(f"{lineage.store / missing[0]} is missing, which {row.memory} needs; restore it from a copy")


def is_model(folder: Path) -> bool:
    """Whether a folder is that of a model; not where its name is longer than the system allows."""
    return os.path.isfile(folder / "lineage.json")


def _free(folder: Path) -> None:
    """Refuse a folder that holds more than what a killed process left. Raises LineageError."""
    mine = (files.TEMPORARY, locks.LOCK)
    if os.path.isfile(folder) or (os.path.isdir(folder) and not all(p.name.endswith(mine) for p in folder.iterdir())):
        raise LineageError(f"{folder} is not empty; choose a new folder for the model")
