"""Files that appear whole or not at all: written to a temporary name, synced, renamed, and the folder synced.

After a loss of power a file or folder has its old content or its new one, on file systems that keep what was synced.
What is read is a plain file: a link may lead anywhere, and a pipe may never end.
"""

import errno
import glob
import io
import itertools
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo

from perdure.errors import LineageError, PerdureError

TEMPORARY = ".tmp"
"""Suffix of files being written; one that is found was left by a killed process and can be deleted."""
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Ending of a picture's name -> format that it is written in."""
MAX_PIXELS = 1 << 26
"""Largest picture of a model that is decoded: 8192 x 8192, far above what is drawn."""
PAUSES = (0.1, 0.2, 0.4, 0.8) if os.name == "nt" else ()
"""Seconds after which Windows is asked again for a name: scanners and indexers hold what was just written."""
NO_PICTURE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow lets escape when the bytes of a PNG are damaged."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; folders above it are made. Raises PerdureError naming the file, and leaves nothing."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    with telling(path):
        make_folder(path.parent)
        for left in path.parent.glob(f"{glob.escape(path.name)}.[0-9]*{TEMPORARY}"):
            pid = left.name.removesuffix(TEMPORARY).rpartition(".")[2]
            if not (pid.isdecimal() and len(pid) < 10 and psutil.pid_exists(int(pid))):
                left.unlink(missing_ok=True)
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            rename(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinities are refused, for no other reader takes them."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, default=str) + "\n")


def write_changed(path: Path, value: Any) -> None:
    """Write JSON that is told again and again, unless it stands there already; what is damaged is written anew."""
    try:
        known = read_json(path)
    except LineageError:
        known = None
    if known != json.loads(json.dumps(value, default=str)):
        write_json(path, value)


def write_png(path: Path, image: Image.Image) -> None:
    """Write a picture as PNG, atomically; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    write_bytes(path, buffer.getvalue())


def write_picture(path: Path, image: Image.Image, text: str = "") -> None:
    """Write a picture in the format that its name says, atomically; WebP without loss. Raises PerdureError.

    text: how it was made, put where those look who read A1111's pictures: in PNG under `parameters`, else into the user
    comment of EXIF.
    """
    buffer, known = io.BytesIO(), picture_format(path)
    told: dict[str, Any] = {}
    if text and known == "PNG":
        told["pnginfo"] = PngInfo()
        told["pnginfo"].add_itxt("parameters", text)
    elif text:
        told["exif"] = Image.Exif()
        told["exif"].get_ifd(IFD.Exif)[Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    image.save(buffer, known, quality=95, lossless=True, **told)
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


def append_json(path: Path, value: Any) -> None:
    """Add a line to a JSONL log, at once, so that a kill loses none before it. Raises PerdureError."""
    with telling(path), path.open("ab") as stream:
        stream.write((json.dumps(value) + "\n").encode())


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """What the system refuses while `path` is being written, told in one sentence. Raises PerdureError."""
    try:
        yield
    except OSError as error:
        first = error.args[0][0][-1] if error.strerror is None and error.args and error.args[0] else error  # of a tree
        raise PerdureError(f"cannot write {path}: {error.strerror or first}") from None


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that they are there after a loss of power. Raises OSError."""
    missing = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder its name, for good. Raises OSError."""
    move = source.replace
    if source.is_dir():
        _sync(source)
        move = source.rename
    for pause in PAUSES:
        with suppress(PermissionError):
            move(target)
            break
        time.sleep(pause)
    else:
        move(target)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    """Put a folder's list of names on the disk."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # Windows opens no folder, and keeps a journal of names itself
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(handle)


def open_plain(path: Path, how: int = os.O_RDONLY) -> int:
    """A descriptor of a plain file. Raises OSError, for links, pipes and folders as well, and never waits."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link")
    flags = ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")  # no system has them all
    handle = os.open(path, sum((getattr(os, flag, 0) for flag in flags), how), 0o644)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no plain file")
    return handle


def read_bytes(path: Path) -> bytes:
    """The content of a plain file. Raises LineageError naming the file."""
    try:
        with open(open_plain(path), "rb") as stream:
            return stream.read()
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise LineageError(f"cannot read {path}: {reason}") from None


def read_text(path: Path) -> str:
    """The content of a plain file of UTF-8 text. Raises LineageError naming the file."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError:
        raise LineageError(f"{path} is damaged: it is not text") from None


def read_json(path: Path) -> Any:
    """Read JSON; `records.read` for a file whose shape is known. Raises LineageError naming the file."""
    return _json(read_bytes(path), path, "it is not JSON")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a JSONL log; a last line cut short by a kill is left out. Raises LineageError."""
    if not path.exists() and not path.is_symlink():
        return []
    lines = read_bytes(path).split(b"\n")[:-1]
    rows = [_json(line, path, f"line {number} is not JSON") for number, line in enumerate(lines, start=1)]
    if wrong := next((n for n, row in enumerate(rows, start=1) if not isinstance(row, dict)), None):
        raise LineageError(f"{path} is damaged: line {wrong} is no mapping of keys to values")
    return rows


def _json(data: bytes, path: Path, otherwise: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise LineageError(f"{path} is damaged: {otherwise}") from None


def read_png(path: Path) -> Image.Image:
    """A picture of a model, mode RGB; PNG and nothing else, of at most MAX_PIXELS. Raises LineageError."""
    try:
        with Image.open(io.BytesIO(read_bytes(path)), formats=("PNG",)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise LineageError(f"{path} has {opened.width} x {opened.height} pixels, more than a model draws")
            return opened.convert("RGB")
    except NO_PICTURE:
        raise LineageError(f"{path} is damaged: it is no PNG picture") from None


def within(folder: Path, name: str) -> Path:
    """What lies in a folder under a name that was read from a file. Raises LineageError where it may lead elsewhere.

    A name is one without separators, not `.` or `..`; what it names is no link.
    """
    path = folder / name
    if name in ("", ".", "..") or not set(name).isdisjoint("/\\:\0"):
        raise LineageError(f"{folder} is damaged: {name!r} is not the name of anything in it")
    if path.is_symlink():
        raise LineageError(f"{path} is a link; a model holds none, put what it leads to in its place")
    return path


def sweep(folder: Path) -> None:
    """Delete what killed processes left half-written below a folder."""
    for path in temporaries(folder):
        path.unlink(missing_ok=True)


def temporaries(folder: Path) -> list[Path]:
    """What was left half-written below a folder."""
    return list(folder.rglob(f"*.[0-9]*{TEMPORARY}"))


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of some files."""
    return sum(path.stat().st_size for path in paths)
