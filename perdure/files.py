"""Files that appear whole or not at all: written to a temporary name, synced, renamed."""

import io
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from perdure.errors import LineageError, PerdureError

TEMPORARY = ".tmp"
"""Suffix of files being written; one that is found was left by a killed process and can be deleted."""
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Ending of a picture's name -> format that it is written in."""


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


def write_picture(path: Path, image: Image.Image) -> None:
    """Write a picture in the format that its name says, atomically; WebP without loss. Raises PerdureError."""
    buffer = io.BytesIO()
    image.save(buffer, picture_format(path), quality=95, lossless=True)
    write_bytes(path, buffer.getvalue())


def free(path: Path) -> Path:
    """The path, or the next one to it that is not taken: drawn.png, drawn-2.png, ..."""
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], others) if not os.path.lexists(one))


def picture_format(path: Path) -> str:
    """The format that a picture's name says. Raises PerdureError where it says none that is written here."""
    if path.suffix.lower() not in PICTURES:
        raise PerdureError(f"{path}: the ending says the format of a picture: one of {' '.join(PICTURES)}")
    return PICTURES[path.suffix.lower()]


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
