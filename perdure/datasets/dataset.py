"""What a public data set is: where it comes from, how a local copy of it is read, and what is laid out of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from perdure.progress import Watch


@dataclass(frozen=True)
class Copy:
    """A local copy: the folder to read, and what the user knows it by (the folder itself, or an archive)."""

    folder: Path
    named: Path


@dataclass(frozen=True)
class Pick:
    """Which concepts are taken of a data set with more than any protocol needs.

    concepts: how many. images: how many pictures each must have, and gets. only: ids, instead of the first ones.
    """

    concepts: int = 25
    images: int = 15
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """What is to be laid out, by its path in the data set's folder: files of the copy, and texts that are made here."""

    pictures: Mapping[str, Path]
    files: Mapping[str, Path]
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Dataset:
    """A data set that `get` can lay out.

    layout: how a local copy looks, for messages.
    choose: what is taken of a copy; DataError where the copy does not hold it.
    wanted: whether a file of an archive is unpacked, by the end of its path; None where archives are not read.
    fetch: (self, scratch folder, watch) -> folder or archive fetched from `source`; None where that cannot be done,
    and then `closed` is the sentence that says why and what to do.
    picked: whether a `Pick` says which concepts are taken.
    """

    name: str
    source: str
    licence: str
    layout: str
    choose: "Callable[[Dataset, Copy, Pick, Watch], Chosen]"
    wanted: Callable[[str], bool] | None = None
    fetch: "Callable[[Dataset, Path, Watch], Path] | None" = None
    closed: str = ""
    picked: bool = False
