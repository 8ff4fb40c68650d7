"""Whether a model is one whole: every lesson's record, its concepts, the index of its memory; no link anywhere.

Tensors and pictures are not read: `fsck` does that, and names all that is damaged, not the first thing.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from perdure import files, locks
from perdure.errors import LineageError
from perdure.plan import JOINT
from perdure.rows import Row

if TYPE_CHECKING:
    from perdure.lineage import Lineage


def is_model(folder: Path) -> bool:
    """Whether a folder is that of a model; not where its name is longer than the system allows."""
    return os.path.isfile(folder / "lineage.json")


def free(folder: Path) -> None:
    """Refuse a folder that holds more than what a killed process left. Raises LineageError."""
    mine = (files.TEMPORARY, locks.LOCK)
    if os.path.isfile(folder) or (os.path.isdir(folder) and not all(p.name.endswith(mine) for p in folder.iterdir())):
        raise LineageError(f"{folder} is not empty; choose a new folder for the model")


def check(lineage: "Lineage") -> None:
    """Refuse a damaged model. Raises LineageError naming the first file found to be."""
    for path in lineage.folder.rglob("*"):
        if path.is_symlink():
            raise LineageError(f"{path} is a link; a model holds none, put what it leads to in its place")
    taught: dict[str, int] = {}
    for row in lineage.lessons:
        lesson(lineage, row, taught)
        taught |= dict.fromkeys(row.concepts, row.number)


def lesson(lineage: "Lineage", row: Row, taught: Mapping[str, int]) -> None:
    """One lesson, after those in which `taught` was. Raises LineageError."""
    path, names = row.folder / "lesson.json", row.concepts
    if row.name != (names[0] if len(names) == 1 else JOINT):
        raise LineageError(f"{path} is damaged: it says that {', '.join(names)} was taught")
    if again := [name for name in names if name in taught or names.count(name) > 1]:
        raise LineageError(f"{path} is damaged: {', '.join(again)} is taught twice")
    for name in names:
        lineage.concept_facts(name)
    if missing := sorted(lineage.packs(row) - {pack.name for pack in lineage.store.glob("*")}):
        raise LineageError(f"{lineage.store / missing[0]} is missing, which {row.memory} needs; restore it from a copy")
