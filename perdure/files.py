"""Files that appear whole or not at all: written to a temporary name, synced, renamed."""

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from perdure.errors import LineageError, PerdureError

TEMPORARY = ".tmp"
"""Suffix of files being written; one that is found was left by a killed process and can be deleted."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; folders above it are made. Raises PerdureError naming the file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise PerdureError(f"cannot write {path}: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinities are refused, for no other reader takes them."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, default=str) + "\n")


def write_png(path: Path, image: Image.Image) -> None:
    """Write a picture as PNG, atomically; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    write_bytes(path, buffer.getvalue())


def read_json(path: Path) -> Any:
    """Read JSON. Raises LineageError naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LineageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise LineageError(f"{path} is damaged: it is not JSON") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a JSONL log; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def sweep(folder: Path) -> None:
    """Delete what killed processes left half-written below a folder."""
    for path in list(folder.rglob(f"*.[0-9]*{TEMPORARY}")):
        path.unlink(missing_ok=True)


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of some files."""
    return sum(path.stat().st_size for path in paths)
