"""What one lineage takes over from another: its first lessons, or the untouched base's row, bit for bit."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perdure import files
from perdure.errors import LineageError
from perdure.lineage import agreement, history
from perdure.lineage.lineage import Lineage, record
from perdure.lineage.rows import ASIDE, PARTIAL, Row, building, remove, taught_by
from perdure.plan import Plan
from perdure.wording import name_from


def branch(lineage: Lineage, folder: Path | str, plan: Plan | None, lessons: int) -> Lineage:
    """A new lineage that begins with the first `lessons` of another, as if it had been taught them itself.

    Reads finished lessons only, so the other may grow meanwhile. Without a plan it has the other's, and the names of
    its lessons. Raises LineageError where the folder is in use, there are not so many lessons, or the plan does not
    begin like the other.
    """
    if not 0 <= lessons <= len(lineage.lessons):
        raise LineageError(f"{lineage.folder} has {len(lineage.lessons)} lessons; there is no lesson {lessons}")
    folder, rows = Path(folder), lineage.lessons[:lessons]
    names = {cell.name for row in rows for cell in row.cells.glob("*")}
    packs = {pack for row in rows for pack in row.packs}
    planned = plan or _own(lineage, folder, rows)
    agreement.on_settings(lineage, planned)
    if folder.exists():
        raise LineageError(f"{folder} exists; choose a new folder for the model")
    with building(folder) as partial, files.telling(folder):
        made = Lineage.create(partial, planned, lineage.facts["base_identity"], lineage.facts["versions"])
        concepts = [lineage.concept_folder(name) for name in names]
        cells = [lineage.base_row.cells / name for name in names]
        for whole in (*(row.folder for row in rows), *concepts, *filter(Path.is_dir, cells)):
            shutil.copytree(whole, partial / whole.relative_to(lineage.folder), symlinks=True)
        made.store.mkdir()
        for pack in packs:
            shutil.copyfile(lineage.store / pack, made.store / pack)
        if plan is not None:
            agreement.on_plan(made, plan)
        kept = {name: one for name, one in history.tags(lineage).items() if plan is None and one["lesson"] <= lessons}
        if kept:
            files.write_json(made.folder / history.TAGS, {"format": history.FORMAT, "tags": kept})
    return Lineage(folder)


def _own(lineage: Lineage, folder: Path, rows: Sequence[Row]) -> Plan:
    """A lineage's plan for a branch of it: under another name, with the concepts that these rows know."""
    known, plan = taught_by(rows), lineage.plan()
    concepts = tuple(lineage.concept(name) for name in known)
    return plan.model_copy(update={"name": name_from(folder.absolute().name), "concepts": concepts, "order": None})


def renewed(lineage: Lineage, plan: Plan, base_identity: str, versions: dict[str, str]) -> Lineage:
    """A lineage that has learnt nothing, for whatever plan: made for another one, or on another base, it begins anew.

    What was drawn and half done there is dropped. Raises LineageError where it is damaged, or another process writes.
    """
    try:
        agreement.on_plan(lineage, plan)
        agreement.on_base(lineage, base_identity)
    except LineageError:
        with lineage.locked():
            if lineage.lessons:
                raise  # another process has taught it meanwhile
            for name in ("lessons", "concepts", "store", ASIDE):
                remove(files.within(lineage.folder, name))
            (lineage.folder / "plan.yaml").unlink(missing_ok=True)  # until it is written again
            record(lineage.folder, plan, base_identity, versions)
            lineage.write_plan(plan)
    return Lineage(lineage.folder)


def adopt_base_row(lineage: Lineage, other: Lineage) -> None:
    """Copy the base's cells, and what is recorded of their concepts, from a lineage that drew them alike."""
    keys, training = ("base", "vae", "transformer", "sampling", "scoring"), ("resolution", "precision")
    if any(lineage.settings.get(key) != other.settings.get(key) for key in keys) or any(
        lineage.settings["training"][key] != other.settings["training"][key] for key in training
    ):
        return
    if lineage.settings.get("task") and _read(lineage) != _read(other):
        return
    theirs, mine = (line.base_row.folder / "drift" for line in (other, lineage))
    if theirs.is_dir() and not mine.exists():
        _copied(theirs, mine)
    for cell in other.base_row.cells.glob("*"):
        target, own = lineage.base_row.cells / cell.name, lineage.concept_folder(cell.name)
        if cell.name.endswith(PARTIAL) or target.exists():
            continue
        if not (own / "concept.json").is_file():
            remove(own)
            _copied(other.concept_folder(cell.name), own)
        known, own_facts = other.concept_facts(cell.name), lineage.concept_facts(cell.name)
        if all(known[key] == own_facts[key] for key in ("described", "digest")):
            _copied(cell, target)


def _read(lineage: Lineage) -> tuple[Any, ...]:
    """How a classifier's pictures are read."""
    training = lineage.settings["training"]
    return lineage.settings.get("task"), training["crop"], (training.get("head") or {}).get("pixels")


def _copied(folder: Path, target: Path) -> None:
    """A copy of a folder, there whole or not at all."""
    with building(target) as partial, files.telling(target):
        shutil.copytree(folder, partial, symlinks=True, dirs_exist_ok=True)
