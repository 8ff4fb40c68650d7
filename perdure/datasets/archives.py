"""Zip and tar archives of strangers: only what is wanted is unpacked, and nothing outside of the target folder."""

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from perdure.errors import DataError

LARGEST = 64_000_000
"""Bytes that one unpacked file may have."""
SWOLLEN = 10
"""How many times its own size an archive of pictures, which hardly shrink, may unpack to; LARGEST is on top of it."""
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, struct.error, EOFError, ValueError, LookupError,
    RuntimeError, OSError,
)  # fmt: skip
"""What the standard library raises on an archive that is none, is damaged, or cannot be unpacked here."""


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> Path:
    """The wanted files of an archive, whatever folders they lie in there; DataError if it is unsafe or damaged, or if
    they cannot be written.

    `wanted` is asked about every end of a file's path (`a/b/c.jpg`, `b/c.jpg`, `c.jpg`), the longest first; the first
    that it wants is the file's path below `folder`. Of two files with the same path the first counts.
    """
    try:
        left = SWOLLEN * archive.stat().st_size + LARGEST
        for name, stream in _members(archive):
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts:
                raise DataError(f"{archive}: names a file outside of itself ({name!r}); it is not unpacked.")
            file = next((tail for tail in tails(parts) if wanted(tail) and not (folder / tail).exists()), None)
            if file is None:
                continue
            with stream() as content:
                data = content.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise DataError(f"{archive}: {name!r} has more than {LARGEST:,} bytes; it is not unpacked.")
            if (left := left - len(data)) < 0:
                raise DataError(f"{archive}: unpacks to more than {SWOLLEN} times its size; it is not unpacked.")
            store(folder / file, data)
    except DAMAGED as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise DataError(f"{archive}: is not a sound zip or tar archive, or cannot be read ({reason}).") from error
    folder.mkdir(exist_ok=True)
    return folder


def store(path: Path, data: bytes, append: bool = False) -> None:
    """Write a file into the scratch folder. DataError with the reason, so that no source is blamed for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if append else "wb") as file:
            file.write(data)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); the environment variable TMPDIR names another "
            "place for temporary files."
        ) from error


def tails(path: PurePosixPath) -> Iterator[str]:
    """Every end of a path, the whole of it first."""
    return ("/".join(path.parts[start:]) for start in range(len(path.parts)))


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """(name, opener) of every plain file in an archive; links and devices are passed over."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for item in packed.infolist():
                if not item.is_dir():
                    yield item.filename, lambda item=item: packed.open(item)  # type: ignore[misc]
        return
    with tarfile.open(archive) as packed_tar:
        for member in packed_tar:
            stream = packed_tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                yield member.name, lambda stream=stream: stream  # type: ignore[misc]
