"""The two public sets of pictures that the published protocols use: fetched or copied, verified, never
overwritten.

Only the files that a protocol names are taken, under names that are made here: nothing that an archive or a
folder says about paths decides where anything is written.
"""

import difflib
import hashlib
import itertools
import json
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO

from perdure.errors import DataError
from perdure.files import write_bytes
from perdure.images import check_images
from perdure.progress import Watch, silent
from perdure.score.sources import hub_failures

MANIFEST = "manifest.json"
LARGEST = 64_000_000
"""Bytes that one unpacked file may have."""

SUBJECTS = {
    "backpack": 6, "backpack_dog": 5, "bear_plushie": 5, "berry_bowl": 6, "can": 6, "candle": 5, "cat": 5,
    "cat2": 5, "clock": 6, "colorful_sneaker": 5, "dog": 5, "dog2": 6, "dog3": 6, "dog5": 5, "dog6": 5,
    "dog7": 5, "dog8": 5, "duck_toy": 4, "fancy_boot": 6, "grey_sloth_plushie": 5, "monster_toy": 5,
    "pink_sunglasses": 6, "poop_emoji": 5, "rc_car": 5, "red_cartoon": 4, "robot_toy": 5,
    "shiny_sneaker": 6, "teapot": 5, "vase": 6, "wolf_plushie": 5,
}  # fmt: skip
"""DreamBooth's subjects and how many photos each has."""

STYLES = {
    "Byzantine": ("Butterfly", (19, 17, 13, 15, 9)),
    "Palette_Knife": ("Architectures", (12, 11, 20, 9, 2)), "Ink_Art": ("Flowers", (2, 17, 10, 4, 12)),
    "Blossom_Season": ("Flame", (20, 11, 7, 18, 2)), "Artist_Sketch": ("Statues", (8, 15, 11, 10, 16)),
    "Winter": ("Birds", (18, 11, 16, 12, 20)), "Dadaism": ("Human", (17, 4, 2, 14, 7)),
    "Dapple": ("Bears", (2, 15, 17, 11, 14)), "Meteor_Shower": ("Horses", (7, 16, 14, 4, 20)),
    "Pastel": ("Towers", (17, 7, 16, 19, 10)),
}  # fmt: skip
"""Styles of arXiv 2410.04891, each with its training object and the numbers of its five training pictures."""

STYLE_REFERENCES = (
    ("Cats", 1), ("Dogs", 4), ("Fishes", 13), ("Frogs", 11), ("Jellyfish", 5), ("Rabbits", 12),
    ("Sandwiches", 17), ("Sea", 1), ("Trees", 17), ("Waterfalls", 14),
)  # fmt: skip
"""(object, number) of the reference pictures, the same for every style."""


@dataclass(frozen=True)
class Dataset:
    """pictures, texts: relative paths that must be there; notes: those that are taken along where they are
    there.

    fetch: (self, scratch folder, watch) -> folder or archive fetched from `source`.
    """

    name: str
    source: str
    licence: str
    layout: str
    pictures: tuple[str, ...]
    texts: tuple[str, ...]
    notes: tuple[str, ...]
    fetch: "Callable[[Dataset, Path, Watch], Path]"


@dataclass(frozen=True)
class Fetched:
    """What `get` did: files written and files that were there already with the same bytes."""

    folder: Path
    copied: int
    kept: int


def get(name: str, out: str | Path, source: str | Path | None = None, watch: Watch = silent) -> Fetched:
    """Data set `name` into `out`/`name`, from its public source or from a local copy (folder, zip or tar).

    A file that is there with the same bytes is kept; if any differs, or anything is missing or no picture,
    nothing at all is changed. Raises DataError in each of these cases, and when the source cannot be
    reached.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"there is no data set {name!r}; {hint}There are: {', '.join(DATASETS)}.")
    dataset, folder = DATASETS[name], Path(out) / name
    with tempfile.TemporaryDirectory(prefix="perdure-") as scratch:
        origin = Path(source) if source is not None else dataset.fetch(dataset, Path(scratch), watch)
        if not origin.exists():
            raise DataError(f"{origin}: there is no such folder or archive.")
        root = _root(dataset, origin if origin.is_dir() else _unpack(dataset, origin, Path(scratch) / "unpacked"))
        files = _verified(dataset, root, origin, watch)
        try:
            return _install(dataset, files, folder, watch)
        except OSError as error:
            raise DataError(f"{folder}: cannot be written ({error.strerror or error}).") from error


def _root(dataset: Dataset, folder: Path) -> Path:
    """Where the wanted files lie: the folder itself, or one of its sub-folders, two levels down at most."""
    below = (path for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern)))
    for candidate in itertools.chain([folder], below):
        if any((candidate / picture).is_file() for picture in dataset.pictures):
            return candidate
    raise DataError(f"{folder}: holds no {dataset.name} ({dataset.layout}; {dataset.pictures[0]} for one).")


def _verified(dataset: Dataset, root: Path, origin: Path, watch: Watch) -> dict[str, Path]:
    """Files to install by relative path, all there and every picture sound; DataError naming what is not."""
    missing = [file for file in (*dataset.pictures, *dataset.texts) if not (root / file).is_file()]
    if missing:
        total = len(dataset.pictures) + len(dataset.texts)
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{origin}: {len(missing)} of {total} files of {dataset.name} are missing: {some}.")
    problems: list[str] = []
    with watch(f"checking {dataset.name}", len(dataset.pictures)) as advance:
        for picture in dataset.pictures:
            problems += check_images([root / picture])
            advance(1, "")
    if problems:
        raise DataError("\n".join(problems))
    return {
        file: root / file for file in (*dataset.pictures, *dataset.texts, *dataset.notes) if (root / file).is_file()
    }


def _install(dataset: Dataset, files: dict[str, Path], folder: Path, watch: Watch) -> Fetched:
    """Compare all, then write what is not there yet; DataError before any writing where contents differ."""
    digests = {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in files.items()}
    about = {"name": dataset.name, "source": dataset.source, "licence": dataset.licence, "files": digests}
    manifest = (json.dumps(about, indent=1) + "\n").encode()
    digests = {**digests, MANIFEST: hashlib.sha256(manifest).hexdigest()}
    present = {file for file in digests if (folder / file).exists()}
    different = [file for file in digests if file in present and not _same(folder / file, digests[file])]
    if different:
        some = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
        raise DataError(
            f"{folder}: {len(different)} files with other contents are there already ({some}); nothing was "
            "changed: choose another folder, or move them away."
        )
    with watch(f"copying {dataset.name}", len(digests)) as advance:
        for file in digests:  # the manifest comes last: where it is, all else is
            if file not in present:
                write_bytes(folder / file, manifest if file == MANIFEST else files[file].read_bytes())
            advance(1, "")
    return Fetched(folder, copied=len(digests) - len(present), kept=len(present))


def _same(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _unpack(dataset: Dataset, archive: Path, folder: Path) -> Path:
    """The wanted files of a zip or tar archive, whatever folders they lie in; DataError if it is unsafe."""
    wanted = {*dataset.pictures, *dataset.texts, *dataset.notes}
    try:
        for name, stream in _members(archive):
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts:
                raise DataError(f"{archive}: names a file outside of itself ({name!r}); it is not unpacked.")
            file = next((f for f in _tails(parts) if f in wanted and not (folder / f).exists()), None)
            if file is None:
                continue
            with stream() as content:
                data = content.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise DataError(f"{archive}: {name!r} has more than {LARGEST:,} bytes; it is not unpacked.")
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        NotImplementedError,
        OSError,
    ) as error:
        raise DataError(f"{archive}: is not a sound zip or tar archive ({error}).") from error
    folder.mkdir(exist_ok=True)
    return folder


def _tails(path: PurePosixPath) -> Iterator[str]:
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


def _fetch_archive(dataset: Dataset, scratch: Path, watch: Watch) -> Path:
    """The archive at `dataset.source`, whole, in the scratch folder."""
    archive = scratch / "archive"
    try:
        with urllib.request.urlopen(dataset.source, timeout=30) as answer, archive.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            with watch(f"fetching {dataset.name} (kB)", size // 1000) as advance:
                while block := answer.read(1 << 20):
                    file.write(block)
                    advance(len(block) // 1000, "")
    except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
        raise _unreachable(dataset, error) from error
    return archive


def _fetch_from_hub(dataset: Dataset, scratch: Path, watch: Watch) -> Path:
    """The wanted files of a data set on the Hugging Face hub, one by one, in the scratch folder."""
    from huggingface_hub import HfApi, hf_hub_download

    repo, folder = dataset.source.split("/datasets/")[1], scratch / "fetched"
    wanted = set(dataset.pictures)
    try:
        listed = [file.rfilename for file in HfApi().dataset_info(repo).siblings or []]
        found = {tail: name for name in listed for tail in _tails(PurePosixPath(name)) if tail in wanted}
        if len(found) < len(wanted):
            raise DataError(
                f"{dataset.source} does not hold the pictures as files ({dataset.layout}): download and "
                "unpack it by hand, then name that folder with --from."
            )
        with watch(f"fetching {dataset.name}", len(found)) as advance:
            for tail, name in sorted(found.items()):
                cached = hf_hub_download(repo, name, repo_type="dataset")
                (folder / tail).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cached, folder / tail)
                advance(1, "")
    except hub_failures() as error:
        raise _unreachable(dataset, error) from error
    return folder


def _unreachable(dataset: Dataset, error: BaseException) -> DataError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return DataError(
        f"{dataset.name}: {dataset.source} cannot be reached ({reason}): try again online, or name a local "
        "copy with --from."
    )


def dreambooth_classes(folder: str | Path) -> dict[str, str]:
    """Subject -> class noun, from the `prompts_and_classes.txt` of a DreamBooth folder; else DataError."""
    file = Path(folder) / "prompts_and_classes.txt"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read; it comes with the DreamBooth data set.") from error
    rows = (line.split(",") for line in text.partition("Prompts")[0].splitlines())
    classes = {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}
    classes.pop("subject_name", None)
    if not classes:
        raise DataError(f"{file}: lists no subject with its class.")
    return classes


def _style_pictures() -> tuple[str, ...]:
    pictures = []
    for style, (thing, numbers) in STYLES.items():
        pictures += [f"{style}/{thing}/{number}.jpg" for number in numbers]
        pictures += [f"{style}/{reference}/{number}.jpg" for reference, number in STYLE_REFERENCES]
    return tuple(pictures)


DATASETS = {
    "dreambooth": Dataset(
        name="dreambooth",
        source="https://github.com/google/dreambooth/archive/refs/heads/main.zip",
        licence="CC-BY-4.0; some photos from Unsplash under its licence: see references_and_licenses.txt",
        layout="SUBJECT/NN.jpg, 30 subjects",
        pictures=tuple(f"{name}/{number:02d}.jpg" for name, count in SUBJECTS.items() for number in range(count)),
        texts=("prompts_and_classes.txt",),
        notes=("references_and_licenses.txt", "LICENSE.md", "LICENSE"),
        fetch=_fetch_archive,
    ),
    "unlearncanvas": Dataset(
        name="unlearncanvas",
        source="https://huggingface.co/datasets/OPTML-Group/UnlearnCanvas",
        licence="see the data set's page",
        layout="STYLE/OBJECT/N.jpg, 10 styles: 5 pictures to train on and 10 references each",
        pictures=_style_pictures(),
        texts=(),
        notes=("README.md", "LICENSE"),
        fetch=_fetch_from_hub,
    ),
}
