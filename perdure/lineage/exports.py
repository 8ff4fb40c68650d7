"""What was exported of a model, noted beside it (exports.json) for the report."""

from pathlib import Path
from typing import Any

from pydantic import Field

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
    name: str = ""
    files: list[str] = Field(default_factory=list)
    kind: str
    reason: str
    lesson: int
    concepts: list[str]
    triggers: list[str]
    bytes: int
    proof: _Proof
    when: str


class Tracking(Record):
    """tracking.json: what trackers call the run."""

    id: str


class Exports(Record):
    """exports.json; `place`: the folder that was written into, `name`: what the files are called ("" for a folder that
    is one export), `files`: all that was written, below `place`; `when`: UTC.
    """

    exports: list[_Export]


def note(folder: Path, entry: dict[str, Any]) -> None:
    """Note an export beside a model; one of the same name to the same place takes the earlier one's place.

    Raises PerdureError.
    """
    kept = [other for other in read(folder) if _key(other) != _key(entry)]
    files.write_json(folder / FILE, {"format": FORMAT, "exports": [*kept, entry]})


def written(folder: Path, place: str, name: str) -> list[str]:
    """The files that an earlier export of that name to the same place wrote, and no other one did."""
    wrote: dict[bool, set[str]] = {True: set(), False: set()}
    for entry in (entry for entry in read(folder) if entry["place"] == place):
        wrote[_key(entry) == (place, name)].update(entry.get("files", ()))
    return sorted(wrote[True] - wrote[False])


def _key(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["place"], entry.get("name", "")


def read(folder: Path) -> list[dict[str, Any]]:
    """The exports noted beside a model; none where there are none, or where the note is damaged."""
    try:
        return list(records.read(folder / FILE, Exports, FORMAT)["exports"])
    except LineageError:
        return []
