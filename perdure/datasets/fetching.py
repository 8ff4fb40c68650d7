"""Public sources: an archive behind a URL, or files and archives on the Hugging Face hub."""

import errno
import hashlib
import json
import lzma
import struct
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO

from perdure.datasets.dataset import Chosen, Dataset
from perdure.errors import DataError
from perdure.files import write_bytes
from perdure.images import check_images
from perdure.progress import Watch
from perdure.score.sources import hub_failures
from perdure.wording import some

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


def archive(dataset: Dataset, scratch: Path, watch: Watch) -> Path:
    """The archive at `dataset.source`, whole, in the scratch folder."""
    target = scratch / "archive"
    try:
        with urllib.request.urlopen(dataset.source, timeout=30) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            with watch(f"fetching {dataset.name} (kB)", size // 1000) as advance:
                while block := answer.read(1 << 20):
                    store(target, block, append=True)
                    advance(len(block) // 1000, "")
    except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors; what `store` raises is not
        raise _unreachable(dataset, error) from error
    return target


def hub_archive(dataset: Dataset, scratch: Path, watch: Watch) -> Path:
    """The archive at `dataset.source`, a file on the hub (.../datasets/OWNER/NAME/resolve/REVISION/FILE).

    It stays in the hub's cache, so a download that was stopped goes on where it was. The bar is the hub client's.
    """
    from huggingface_hub import hf_hub_download

    repo, _, rest = dataset.source.split("/datasets/")[1].partition("/resolve/")
    revision, _, file = rest.partition("/")
    try:
        return Path(hf_hub_download(repo, file, repo_type="dataset", revision=revision))
    except hub_failures() as error:
        raise _unreachable(dataset, error) from error


def hub_files(dataset: Dataset, scratch: Path, watch: Watch, wanted: Collection[str]) -> Path:
    """The wanted files of a data set on the hub (.../datasets/OWNER/NAME), one by one, in the scratch folder."""
    from huggingface_hub import HfApi, hf_hub_download

    repo, folder = dataset.source.split("/datasets/")[1], scratch / "fetched"
    try:
        listed = [file.rfilename for file in HfApi().dataset_info(repo).siblings or []]
        found = {tail: name for name in listed for tail in tails(PurePosixPath(name)) if tail in wanted}
        if len(found) < len(wanted):
            raise DataError(
                f"{dataset.source} does not hold the pictures as files ({dataset.layout}): download and "
                "unpack it by hand, then name that folder with --from."
            )
        with watch(f"fetching {dataset.name}", len(found)) as advance:
            for tail, name in sorted(found.items()):
                cached = hf_hub_download(repo, name, repo_type="dataset")
                store(folder / tail, Path(cached).read_bytes())
                advance(1, "")
    except hub_failures() as error:
        raise _unreachable(dataset, error) from error
    return folder


def _unreachable(dataset: Dataset, error: BaseException) -> DataError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return DataError(f"{dataset.name}: what is fetched cannot be written ({error.strerror}: {error.filename}).")
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return DataError(
        f"{dataset.name}: {dataset.source} cannot be reached ({reason}): try again online, or name a local "
        "copy with --from."
    )


MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Fetched:
    """What `get` did: files written and files that were there already with the same bytes."""

    folder: Path
    copied: int
    kept: int


def check(dataset: Dataset, chosen: Chosen, watch: Watch) -> None:
    """DataError with a sentence for every picture that cannot be used."""
    problems: list[str] = []
    with watch(f"checking {dataset.name}", len(chosen.pictures)) as advance:
        for picture in chosen.pictures.values():
            problems += check_images([picture])
            advance(1, "")
    if problems:
        raise DataError("\n".join(problems))


def install(dataset: Dataset, chosen: Chosen, folder: Path, watch: Watch) -> Fetched:
    """Compare all, then write what is not there yet; DataError before any writing where contents differ."""
    sources: dict[str, Path | bytes] = {**chosen.pictures, **chosen.files}
    sources |= {file: text.encode() for file, text in chosen.texts.items()}
    digests = {file: hashlib.sha256(_content(source)).hexdigest() for file, source in sources.items()}
    about = {"name": dataset.name, "source": dataset.source, "licence": dataset.licence, "files": digests}
    sources[MANIFEST] = (json.dumps(about, indent=1) + "\n").encode()  # last: where it is, all else is
    digests = {**digests, MANIFEST: hashlib.sha256(_content(sources[MANIFEST])).hexdigest()}
    present = _present(folder, digests)
    with watch(f"copying {dataset.name}", len(sources)) as advance:
        for file, source in sources.items():
            if file not in present:
                write_bytes(folder / file, _content(source))
            advance(1, "")
    return Fetched(folder, copied=len(sources) - len(present), kept=len(present))


def _present(folder: Path, digests: Mapping[str, str]) -> set[str]:
    """Files that are there already; DataError where any has other contents."""
    present = {file for file in digests if (folder / file).exists()}
    different = [file for file in digests if file in present and not _same(folder / file, digests[file])]
    if different:
        raise DataError(
            f"{folder}: {len(different)} files with other contents are there already ({some(different, 5)}); nothing "
            "was changed: choose another folder with --out, or move them away."
        )
    return present


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _same(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
