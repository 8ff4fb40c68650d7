"""Every file of a model examined: what is damaged, what to do about it, and what can be made again from the rest."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from perdure import files, memory, records
from perdure.errors import LineageError, PlanError
from perdure.lineage import agreement, exports, history, locks
from perdure.lineage.lineage import Lineage, check_lesson
from perdure.lineage.rows import Cell, Row, aside, learn, leftovers, reachable, remove
from perdure.memory import tensors
from perdure.plan import yaml_file

COPY = "restore it from a copy"
MEND = "`--mend` deletes it"


@dataclass(frozen=True)
class Finding:
    """One file or folder that is not as it should be. `damage`: else a harmless leftover; `mended`: put right now."""

    file: str
    what: str
    remedy: str
    damage: bool = True
    mendable: bool = False
    mended: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Examination:
    """What was found of one model so far; `mend`: put right what can be made again from the rest."""

    def __init__(self, folder: Path, mend: bool) -> None:
        self.folder, self.mend = folder, mend
        self.findings: list[Finding] = []

    def note(
        self, path: Path, what: str, remedy: str, damage: bool = True, mender: Callable[[], object] | None = None
    ) -> None:
        """Keep a finding, once, and mend it where that is wanted and possible."""
        file = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)
        mended = self.mend and mender is not None
        if mended and mender is not None:
            with files.telling(path):
                mender()
        found = Finding(file, what, remedy, damage, mender is not None, mended)
        if found not in self.findings:
            self.findings.append(found)

    @contextmanager
    def looking(self, path: Path, remedy: str = COPY, mender: Callable[[], object] | None = None) -> Iterator[None]:
        """Whatever the block finds damaged becomes a finding on `path`."""
        try:
            yield
        except LineageError as error:
            self.note(path, str(error).removesuffix(f"; {COPY}"), remedy, mender=mender)


def examine(folder: Path, mend: bool = False) -> list[Finding]:
    """Check every file, digest, reference and name of a model; nothing but what is mended is touched.

    Raises LineageError where the folder is no model, or another process writes it.
    """
    if not os.path.exists(folder / "lineage.json"):
        Lineage(folder)  # raises, saying what is missing
    if mend:
        with locks.alone(folder):
            return _examined(Examination(folder, mend))
    if locks.held(folder / locks.LOCK):
        raise LineageError(f"{folder} is being written by another process; wait for it")
    return _examined(Examination(folder, mend))


def _examined(found: Examination) -> list[Finding]:
    if _plain(found):  # names lead nowhere else, so that the rest may be followed
        with found.looking(found.folder / "lineage.json"):
            lineage = Lineage(found.folder)
            with found.looking(found.folder / "lineage.json"):
                _lessons(found, lineage)
                _aside(found, lineage)
                _concepts(found, lineage)
                _store(found, lineage)
                _beside(found, lineage)
        _leftovers(found)
    return found.findings


def _plain(found: Examination) -> bool:
    """Whether there are folders and plain files only: no links, pipes, devices."""
    for path in sorted(found.folder.rglob("*")):
        kind = path.lstat().st_mode
        if stat.S_ISLNK(kind):
            found.note(path, "it is a link, and may lead out of the model", "put what it leads to in its place")
        elif not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
            found.note(path, "it is neither a file nor a folder", "delete it")
    return not found.findings


def _lessons(found: Examination, lineage: Lineage) -> None:
    """Row 0 and the lessons: records, indices of memories, logs, cells."""
    taught: dict[str, Row] = {}
    with found.looking(lineage.folder / "lessons"):
        for row in lineage.lessons:
            with found.looking(row.folder / "lesson.json"):
                check_lesson(lineage, row, taught)
                learn(taught, row)
            with found.looking(row.memory):
                _memory(row)
            with found.looking(row.log):
                row.losses()
        for row in lineage.rows:
            _cells(found, row)


def _memory(row: Row) -> None:
    """The index of a lesson's memory. Raises LineageError."""
    if row.record["memory"] != memory.read_index(row.memory)["digest"]:
        raise LineageError("it is not the memory that lesson.json tells of")


def _aside(found: Examination, lineage: Lineage) -> None:
    """The lessons beside the chain, which needs none of them: what is damaged there can go as a whole."""
    sound: list[Row] = []
    for row in aside(lineage.folder):
        with found.looking(row.folder, f"{MEND}; the model does not need it", partial(remove, row.folder)):
            _memory(row)
            row.losses()
            for name in row.concepts:
                lineage.concept(name)
            for picture in (image for cell in row.cells.glob("*") for image in Cell(cell).images):
                files.read_png(picture)
            sound.append(row)
    with found.looking(lineage.folder / "lessons"):
        kept = reachable(lineage.lessons, sound)
        for row in (row for row in sound if row not in kept):
            told = "it goes on from a lesson that the model has no more"
            found.note(row.folder, told, MEND, False, partial(remove, row.folder))


def _cells(found: Examination, row: Row) -> None:
    for folder in sorted(path for path in row.cells.glob("*") if "." not in path.name):
        with found.looking(folder / "cell.json"):
            cell = row.cell(folder.name)
            if cell is None or cell.record["concept"] != folder.name:
                raise LineageError("it is of another concept than its folder")
            for picture in cell.images:
                with found.looking(picture):
                    files.read_png(picture)
    with found.looking(row.folder / "scenes"):
        for name, scene in row.scenes.items():
            for image in scene["images"]:
                with found.looking(picture := row.folder / "scenes" / name / image["file"]):
                    files.read_png(picture)


def _concepts(found: Examination, lineage: Lineage) -> None:
    """What concepts are, their small pictures, the features of their references."""
    for folder in sorted(path for path in (lineage.folder / "concepts").glob("*") if "." not in path.name):
        with found.looking(folder / "concept.json"):
            lineage.concept(folder.name)
        for picture in sorted(folder.glob("*.png")):
            with found.looking(picture):
                files.read_png(picture)
        for kept in sorted(folder.glob("*.safetensors")):
            remedy = f"{MEND}; it is made again from the photos when it is needed"
            with found.looking(kept, remedy, kept.unlink):
                tensors.read(kept)


def _store(found: Examination, lineage: Lineage) -> None:
    """Every pack against its name, every tensor against its digest, every reference against the packs."""
    held: dict[str, set[str]] = {}
    for pack in sorted(lineage.store.glob("*.safetensors")):
        with found.looking(pack):
            content = memory.read_pack(pack)
            held[pack.name] = set(content)
            if wrong := next((name for name, t in content.items() if tensors.digest_of(t) != name), None):
                raise LineageError(f"tensor {wrong} is not what its digest says")
    used: set[str] = set()
    readable = True
    beside = [row.memory for row in aside(lineage.folder) if row.memory.is_file()]
    for index in sorted([*(lineage.folder / "lessons").glob("*/memory.json"), *beside]):
        try:
            places = records.read(index, records.Memory)["tensors"].values()
        except LineageError:
            readable = False
            continue
        used |= {pack for _, pack in places}
        if lost := sorted({pack for digest, pack in places if pack in held and digest not in held[pack]}):
            found.note(index, f"it refers to tensors that {', '.join(lost)} does not hold", COPY)
        for pack in sorted({pack for _, pack in places} - held.keys()):
            if not (lineage.store / pack).exists():
                found.note(lineage.store / pack, f"it is missing, and {index.parent.name} needs it", COPY)
    if readable and all(row.memory.exists() for row in lineage.lessons):
        for name in sorted(held.keys() - used):
            found.note(lineage.store / name, "no lesson needs it", MEND, False, (lineage.store / name).unlink)


def _beside(found: Examination, lineage: Lineage) -> None:
    """What can be made again from the rest: plan.yaml, analysis.json, tracking.json."""
    path = lineage.folder / "plan.yaml"
    with found.looking(path, "`--mend` writes it from the lessons", lambda: lineage.write_plan(lineage.plan())):
        files.read_text(path)
        try:
            yaml_file.read(path)
        except PlanError as error:
            raise LineageError(error.problems[0]) from None
        agreement.on_file(lineage)
    with found.looking(tags := lineage.folder / history.TAGS, f"{MEND}; give the names again", tags.unlink):
        history.tags(lineage)
    for name, shape, number in (
        (records.ANALYSIS_FILE, records.Analysis, records.ANALYSIS_FORMAT), ("tracking.json", exports.Tracking, None),
    ):  # fmt: skip
        path = lineage.folder / name
        if path.exists():
            with found.looking(path, f"{MEND}; it is made again when it is needed", path.unlink):
                records.read(path, shape, number)


def _leftovers(found: Examination) -> None:
    """What killed writers left: harmless, and swept by the next writer."""
    for path in sorted(files.temporaries(found.folder)):
        found.note(path, "a killed process left it half-written", MEND, False, path.unlink)
    for folder in sorted(leftovers(found.folder)):
        found.note(folder, "a killed process left it half-made", MEND, False, _dropping(folder))


def _dropping(folder: Path) -> Callable[[], object]:
    return lambda: shutil.rmtree(folder)
