"""What was exported of a model, kept beside it for the report. No torch."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure import files, records
from perdure.errors import LineageError
from perdure.lineage import Lineage

if TYPE_CHECKING:
    from perdure.export.choosing import Choice, Content
    from perdure.export.proof import Proof

FILE = "exports.json"
FORMAT = 1


def write(lineage: Lineage, out: Path, choice: "Choice", content: "Content", nbytes: int, proof: "Proof") -> None:
    """Note an export beside the model; one to the same place takes the earlier one's. Raises PerdureError."""
    place = str(out.absolute())
    entry = {
        "place": place, "kind": choice.kind, "reason": choice.reason, "lesson": content.lesson.number,
        "concepts": [concept.name for concept in content.concepts], "triggers": list(content.triggers),
        "bytes": nbytes, "proof": asdict(proof), "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    kept = [other for other in read(lineage) if other["place"] != place]
    files.write_json(lineage.folder / FILE, {"format": FORMAT, "exports": [*kept, entry]})


def read(lineage: Lineage) -> list[dict[str, Any]]:
    """The exports noted beside a model; none where there are none, or where the note is damaged."""
    try:
        return list(records.read(lineage.folder / FILE, records.Exports, FORMAT)["exports"])
    except LineageError:
        return []
