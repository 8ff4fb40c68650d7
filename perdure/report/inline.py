"""Pictures inside the page: a file -> a small data URI."""

import base64
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from perdure import files
from perdure.errors import LineageError

CRISP = 64
"""Pictures up to this side are kept pixel by pixel and shown enlarged."""
SHRUNK = 160
"""Larger ones are shrunk to this side."""


@dataclass(frozen=True)
class Picture:
    """A picture ready for an `img` element. `crisp`: enlarge without smoothing."""

    uri: str
    crisp: bool
    width: int
    height: int


def picture(path: Path) -> Picture | None:
    """A file as a data URI; None where it cannot be read, for a report must not fail for one lost picture."""
    try:
        seen = path.stat()
        return _made(path, seen.st_mtime_ns, seen.st_size)
    except (OSError, LineageError):
        return None


@lru_cache(maxsize=4096)
def _made(path: Path, changed: int, size: int) -> Picture:
    """The picture of a file that was last `changed` then: the next report of a run shows most of them again."""
    image = files.read_png(path)
    crisp = max(image.size) <= CRISP
    image.thumbnail((SHRUNK, SHRUNK), Image.Resampling.LANCZOS)
    kind, data = _lossless(image) if crisp else ("webp", _encoded(image, "webp", quality=82, method=4))
    return Picture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", crisp, *image.size)


def _lossless(image: Image.Image) -> tuple[str, bytes]:
    png = _encoded(image, "png", optimize=True)
    webp = _encoded(image, "webp", lossless=True, method=4)
    return ("webp", webp) if len(webp) < len(png) else ("png", png)


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
