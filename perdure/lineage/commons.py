"""What the lineages in one folder share: where a cell was drawn that would come out alike, by its content.

    runs/my-plan/.shared/
      cells/<content>.json             lineage, row and concept of a cell: it is linked from there, not drawn again
      adapters/<content>.safetensors   what a lesson on the untouched base has trained, until all is taught

All of it can be deleted at any time: what it tells of is then drawn again.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field

from perdure import files, records
from perdure.errors import LineageError
from perdure.lineage.lineage import Lineage
from perdure.lineage.rows import PARTIAL, Cell, Row
from perdure.plan.fields import Name
from perdure.records import FileName, Record

FOLDER = ".shared"


class _Place(Record):
    """cells/<content>.json; `lineage`: the names of folders that lead to it."""

    lineage: list[FileName] = Field(min_length=1)
    row: FileName
    concept: Name


@dataclass(frozen=True)
class Commons:
    """What the lineages below a folder share."""

    root: Path
    adapters: bool = True
    """Whether several of them may begin alike: what lessons on the untouched base train is then kept for the others."""

    def cell(self, content: str) -> Cell | None:
        """A cell of this content in any of the lineages; None where none is known, or it is gone."""
        path = self._place(content)
        if not path.is_file():
            return None
        try:
            place, folder = records.read(path, _Place), self.root
            for name in (*place["lineage"], "lessons"):
                folder = files.within(folder, name)
            rows = [Row(files.within(folder, f"{place['row']}{ending}")) for ending in ("", PARTIAL)]
            return next((cell for row in rows if (cell := of_content(row, place["concept"], content))), None)
        except LineageError:
            return None

    def note(self, content: str, lineage: Lineage, cell: Path) -> None:
        """Keep where a cell of this content lies; not of a lineage outside the folder, or hidden in it."""
        if not lineage.folder.is_relative_to(self.root):
            return
        names, row = list(lineage.folder.relative_to(self.root).parts), cell.parent.parent.name.removesuffix(PARTIAL)
        if names and not any(name.startswith(".") for name in names):
            files.write_json(self._place(content), {"lineage": names, "row": row, "concept": cell.name})

    def adapter(self, content: str) -> Path:
        """Where a trained adapter of this content lies, or is to lie."""
        return self.root / FOLDER / "adapters" / f"{content}.safetensors"

    def forget(self) -> None:
        """Drop the adapters, once nothing is left to be taught. Raises PerdureError."""
        for path in (self.root / FOLDER / "adapters").glob("*"):
            with files.telling(path):
                path.unlink(missing_ok=True)

    def _place(self, content: str) -> Path:
        return self.root / FOLDER / "cells" / f"{content}.json"


def of_content(row: Row, concept: str, content: str) -> Cell | None:
    """A row's cell of a concept, if it has this content. Raises LineageError where its record is damaged."""
    cell = row.cell(concept)
    return cell if cell is not None and cell.record.get("content") == content else None


def place(image: Image.Image, target: Path, known: Path | None) -> None:
    """A picture as a file: the finished one that is known is linked, or copied where the system has no links.

    Else it is written, and also where that one is gone: a lesson that is finished meanwhile moves with its pictures.
    Raises PerdureError.
    """
    if known is not None:
        with files.telling(target), suppress(FileNotFoundError):
            try:
                os.link(known, target)
            except OSError:
                shutil.copyfile(known, target)
            return
    files.write_png(target, image)


def taken_over(staged: Row, losses: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Which cells of a lesson were drawn elsewhere, where its adapter was trained, and the seconds that were spared."""
    drawn = {cell.folder.name: cell.record["shared"]["spared"] for cell in staged.drawn if "shared" in cell.record}
    trained = [row for row in losses if "shared" in row]
    if not drawn and not trained:
        return None
    spared = sum(drawn.values()) + sum(row["seconds"] for row in trained)
    told = {"trained": trained[0]["shared"]} if trained else {}
    return {"cells": list(drawn), **told, "spared": round(spared, 3)}
