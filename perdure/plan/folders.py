"""What lies in a folder of images: the pictures in it, and what is left out, each with the reason and the remedy."""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from perdure.errors import ImageError
from perdure.images import EXTENSIONS, tells_itself

REFERENCES = "refs"
"""Name of the sub-folder of a concept's images that holds its held-out references."""
SYSTEM = frozenset(
    "@eadir __macosx __pycache__ #recycle #snapshot $recycle.bin lost+found thumbs.db desktop.ini".split()
) | {"system volume information"}
"""Names, in lower case, that file systems, desktops and tools leave behind; hidden files and folders count as such."""
ABOUT = frozenset(("concept.yaml", "prompts_and_classes.txt", "manifest.json", "origins.csv"))
"""Files that say something of a concept or a data set, and are no captions."""
OTHER_PICTURES = frozenset("heic heif hif dng cr2 cr3 nef arw raf orf rw2 psd svg tga ppm exr hdr jxl ico".split())
"""Endings of pictures that are not read here."""
_MOVE = "move them up, or name that folder as the concept's images"


@dataclass(frozen=True)
class Listing:
    """What lies directly in a folder, in natural order (2.jpg before 10.jpg).

    pictures: by ending, or by content. texts: readable files that are no pictures. left_out: a sentence for everything
    else that somebody could take for a picture.
    """

    pictures: tuple[Path, ...]
    texts: tuple[Path, ...]
    left_out: tuple[str, ...]


def listing(folder: Path, apart: Collection[Path] = ()) -> Listing:
    """Sort what lies in a folder. Raises ImageError when it is missing, is no folder or cannot be read.

    apart: folders inside it that are read for themselves; nothing is said of them.
    """
    if not os.path.exists(folder):  # pathlib's raises where a name is too long
        raise ImageError(f"{folder}: there is no such folder.")
    if not folder.is_dir():
        raise ImageError(f"{folder}: is a file; a folder of images is needed.")
    pictures, texts, left_out = [], [], []
    for path in visible(folder):
        if path.is_dir():
            if path not in apart and (held := pictures_in(path)):
                left_out.append(f"{path}: holds {held}, not read from there; {_MOVE}")
        elif path.is_symlink() and not path.exists():
            left_out.append(f"{path}: is a link to a file that is not there; mend or delete it")
        elif not path.is_file():
            left_out.append(f"{path}: is no file")
        elif path.suffix[1:].lower() in OTHER_PICTURES:
            left_out.append(f"{path}: {path.suffix[1:].upper()} is not read here; convert it to JPEG or PNG")
        elif _is_picture(path):
            pictures.append(path)
        elif path.name not in ABOUT:
            texts.append(path)
    return Listing(tuple(pictures), tuple(texts), tuple(left_out))


def list_images(folder: str | Path) -> tuple[Path, ...]:
    """Pictures directly in `folder`, in natural order; hidden files and those of the system are left out.

    Raises ImageError when the folder is missing, is no folder, cannot be read or holds no picture.
    """
    found = listing(Path(folder))
    if not found.pictures:
        looked_for = " ".join(f".{extension}" for extension in EXTENSIONS)
        beside = "".join(f"; {told}" for told in found.left_out)
        raise ImageError(f"{folder}: no images in this folder (looked for {looked_for}, in either case){beside}.")
    return found.pictures


def classes_in(folder: Path) -> list[str]:
    """Names of the sub-folders that hold pictures, sorted: a class each. Raises ImageError where there are none."""
    if not os.path.isdir(folder):
        raise ImageError(f"{folder}: is no folder; one with a folder of pictures for each class is needed.")
    found = sorted(path.name for path in visible(folder) if path.is_dir() and pictures_in(path))
    if not found:
        raise ImageError(f"{folder}: no sub-folder in it holds pictures; each class has a folder of its own.")
    return found


def visible(folder: Path) -> list[Path]:
    """What lies in a folder but hidden files and those of the system, in natural order. Raises ImageError."""
    try:
        found = [path for path in folder.iterdir() if not _is_hidden(path.name)]
    except OSError as error:
        raise ImageError(f"{folder}: cannot be read ({error.strerror or error}).") from error
    return sorted(found, key=_natural)


def pictures_in(folder: Path) -> str:
    """How many pictures lie directly in a folder, in words; empty where there is none or it cannot be read."""
    try:
        count = sum(path.is_file() and _is_picture(path) for path in visible(folder))
    except ImageError:
        return ""
    return counted(count, "picture") if count else ""


def counted(count: int, noun: str) -> str:
    """1 picture, 2 pictures."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def _is_picture(file: Path) -> bool:
    """By its ending, whatever is in it, so that a damaged picture is an error; else by its first bytes."""
    if file.suffix[1:].lower() in EXTENSIONS:
        return True
    try:
        return tells_itself(file)
    except OSError:
        return False


def _natural(file: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", file.name.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], file.name
