"""What was exported of a model, noted beside it (exports.json) for the report."""

from pathlib import Path
from typing import Any

from perdure import files, records
from perdure.errors import LineageError
from perdure.records import Record

FILE = "exports.json"
FORMAT = 1


class _Proof(Record):
    what: str
    found: int
    expected: int
    error: float
    pictures: int
    largest: int
    mean: float


class _Export(Record):
    place: str
    kind: str
    reason: str
    lesson: int
    concepts: list[str]
    triggers: list[str]
    bytes: int
    proof: _Proof
    when: str


class Exports(Record):
    """exports.json; `place`: the folder that was written into, `when`: UTC."""

    exports: list[_Export]


def note(folder: Path, entry: dict[str, Any]) -> None:
    """Note an export beside a model; one to the same place takes the earlier one's. Raises PerdureError."""
    kept = [other for other in read(folder) if other["place"] != entry["place"]]
    files.write_json(folder / FILE, {"format": FORMAT, "exports": [*kept, entry]})


def read(folder: Path) -> list[dict[str, Any]]:
    """The exports noted beside a model; none where there are none, or where the note is damaged."""
    try:
        return list(records.read(folder / FILE, Exports, FORMAT)["exports"])
    except LineageError:
        return []
