"""Captions of pictures, by the conventions of trainers and of imagefolder: beside each picture, or in a table.

Of several for one picture the first in this order counts: `00.txt`, `00.jpg.txt`, `00.caption`, `00.jpg.caption`
(endings in either case), `metadata.jsonl` and `metadata.csv` in the picture's folder, the same in the folder above.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from perdure.errors import ImageError
from perdure.plan.folders import visible
from perdure.wording import some

SIDECARS = (".txt", ".caption")
METADATA = ("metadata.jsonl", "metadata.csv")
KEYS = ("text", "prompt", "caption")


def of(pictures: Sequence[Path]) -> dict[Path, str]:
    """Picture -> what is written for it; without the pictures of which nothing is, or only blanks.

    Raises ImageError naming the file: what is not UTF-8, bad lines of a table, and captions that are links to a file
    outside of the picture's folder, which would pass on text that was never meant for it.
    """
    written: dict[Path, str] = {}
    for folder in dict.fromkeys(picture.parent for picture in pictures):
        beside, tables = _by_stem(path for path in visible(folder) if path.is_file()), _tables(folder)
        for picture in (picture for picture in pictures if picture.parent == folder):
            files = _beside(picture, beside)
            text = _read(files[0]).strip() if files else ""
            if text := text or tables.get(picture.name, ""):
                written[picture] = text
    return written


def unread(pictures: Sequence[Path], texts: Sequence[Path]) -> list[str]:
    """A sentence for each file beside the pictures of a folder that is no caption, or not one of a picture there."""
    notes, beside = [], _by_stem(texts)
    found = [_beside(picture, beside) for picture in pictures]
    first, known = {files[0] for files in found if files}, {path for files in found for path in files}
    for path in (path for path in texts if path.suffix.lower() in SIDECARS):
        if path not in known:
            notes.append(f"{path}: no picture has this name, so that it is the caption of none; rename or delete it")
        elif path not in first:
            notes.append(f"{path}: is not read, for another caption of the same picture comes first")
    strange = [path for path in texts if path.suffix.lower() not in SIDECARS and path.name not in METADATA]
    if strange:
        names = some(file.name for file in strange)
        notes.append(f"{strange[0].parent}: neither pictures nor captions, and not read: {names}")
    return notes


def _by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """The captions among some files, by their names without the ending."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        if path.suffix.lower() in SIDECARS:
            found.setdefault(path.stem, []).append(path)
    return found


def _beside(picture: Path, by_stem: Mapping[str, list[Path]]) -> list[Path]:
    """The captions of a picture, the one that counts first."""
    found = [(rank, path) for rank, stem in enumerate((picture.stem, picture.name)) for path in by_stem.get(stem, ())]
    order = sorted(found, key=lambda one: (SIDECARS.index(one[1].suffix.lower()), one[0], one[1].name))
    return [path for _, path in order]


def _tables(folder: Path) -> dict[str, str]:
    """Captions of the pictures in a folder from the tables there and one folder up, by the pictures' names."""
    found: dict[str, str] = {}
    for where in (folder, folder.parent):
        for table in METADATA:
            if (where / table).is_file():
                found = {**read_table(where / table, folder), **found}
    return found


def read_table(file: Path, folder: Path) -> dict[str, str]:
    """Captions of the pictures in `folder` from a `metadata.jsonl` or `metadata.csv` there or above: name -> caption.

    Each line has a `file_name`, from the table's own folder, and one of `text`, `prompt`, `caption`. Lines on pictures
    in other folders are passed over. Raises ImageError naming every bad line by its number.
    """
    rows = _json_lines if file.suffix == ".jsonl" else _csv_rows
    captions: dict[str, str] = {}
    problems: list[str] = []
    for number, entry in rows(_read(file), file):
        try:
            if isinstance(entry, str):
                raise ValueError(entry)
            name, caption = _named(entry, file.parent, folder), _caption(entry)
            if name is None:
                continue
            if name in captions:
                raise ValueError(f"{name!r} was named before")
            if not caption:
                raise ValueError(f"no caption (one of {', '.join(KEYS)})")
            captions[name] = caption
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise ImageError(f"{file}: {'; '.join(problems)}.")
    return captions


def _json_lines(text: str, file: Path) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    """Line number, and the object there or what is wrong with it. Lines end at a newline and at nothing else."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                yield number, f"not JSON ({error.msg} at column {error.colno})"
            except (RecursionError, ValueError):
                yield number, "not JSON that can be read"
            else:
                yield number, entry if isinstance(entry, dict) else 'an object with a "file_name" is needed'


def _csv_rows(text: str, file: Path) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    table = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in table:
            yield table.line_num, row
    except csv.Error as error:
        raise ImageError(f"{file}: is not a table of comma-separated values ({error}).") from error


def _named(entry: Mapping[str, object], base: Path, folder: Path) -> str | None:
    """The name of the picture that a line is about; None where that lies in another folder."""
    name = entry.get("file_name")
    if not isinstance(name, str):
        raise ValueError('an object with a "file_name" is needed')
    path = Path(name)
    inside = not path.is_absolute() and ".." not in path.parts and "\0" not in name
    if base != folder and (not inside or (base / path).parent != folder):
        return None
    if not inside or not os.path.isfile(base / path):  # of a name that no file can have pathlib raises OSError
        raise ValueError(f"no file {name!r} in this folder")
    return path.name if (base / path).parent == folder else None


def _caption(entry: Mapping[str, object]) -> str:
    """The first caption of a line. ValueError where it is not text that can be written down."""
    written = (str(entry[key]).strip() for key in KEYS if isinstance(entry.get(key), str))
    caption = next((text for text in written if text), "")
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the caption holds half of a character ({error.object[error.start]!a})") from error
    return caption


def _read(file: Path) -> str:
    try:
        if file.is_symlink() and not file.resolve().is_relative_to(file.parent.resolve()):
            raise ImageError(f"{file}: is a link to a file outside of its folder; put a copy of the text in its place.")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(f"{file}: is not UTF-8 text (byte {error.start}).") from error
    except OSError as error:
        raise ImageError(f"{file}: cannot be read ({error.strerror or error}).") from error
