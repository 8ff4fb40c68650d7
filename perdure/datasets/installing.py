"""From a local copy to the data set's folder: every picture sound, nothing overwritten, a manifest of checksums."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perdure.datasets.dataset import Chosen, Dataset
from perdure.errors import DataError
from perdure.files import write_bytes
from perdure.images import check_images
from perdure.progress import Watch

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
            f"{folder}: {len(different)} files with other contents are there already ({some(different)}); nothing was "
            "changed: choose another folder with --out, or move them away."
        )
    return present


def some(names: list[str]) -> str:
    """The first few of many names, for messages."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _same(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
