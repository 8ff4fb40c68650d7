"""What is taken of a local copy: a list of files that a protocol names, or concepts that have pictures enough."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from perdure.datasets.dataset import Chosen, Copy, Dataset, Pick
from perdure.errors import DataError
from perdure.progress import Watch
from perdure.wording import some

ORIGINS = "origins.csv"
"""Which picture of the original data set each laid-out file is."""
CONCEPT = "concept.yaml"
"""What `plan new` reads in a concept's folder."""

Group = tuple[str, Iterable[Path]]
"""A concept's id, and those of its pictures that the copy holds."""


def exactly(
    copy: Copy, dataset: Dataset, pictures: Sequence[str], texts: Sequence[str], notes: Sequence[str]
) -> Chosen:
    """The listed pictures and texts, all of them, and those of the notes that are there. DataError otherwise."""
    root = within(dataset, copy, pictures)
    missing = [file for file in (*pictures, *texts) if not (root / file).is_file()]
    if missing:
        total = len(pictures) + len(texts)
        raise DataError(
            f"{copy.named}: {len(missing)} of {total} files of {dataset.name} are missing: {some(missing, 5)}."
        )
    beside = {file: root / file for file in (*texts, *notes) if (root / file).is_file()}
    return Chosen({file: root / file for file in pictures}, beside, {})


def within(dataset: Dataset, copy: Copy, sought: Sequence[str]) -> Path:
    """The copy's folder, or the one below it (two levels down at most), that holds any of the sought paths."""
    for folder in below(copy.folder, 2):
        if any((folder / path).exists() for path in sought):
            return folder
    raise DataError(f"{copy.named}: holds no {dataset.name} ({dataset.layout}; {sought[0]} for one).")


def below(folder: Path, levels: int) -> Iterator[Path]:
    """A folder, and what lies in it down to a level."""
    patterns = ["/".join("*" * level) for level in range(1, levels + 1)]
    return itertools.chain([folder], (path for pattern in patterns for path in sorted(folder.glob(pattern))))


def enough(
    dataset: Dataset, copy: Copy, groups: Iterable[Group], pick: Pick, called: str, noun: str, watch: Watch
) -> Chosen:
    """The first concepts, in the order of the groups, that have `pick.images` pictures in the copy.

    They are laid out as `CALLED-01/00.jpg` and so on, whatever their ids are, so that a plan can name them; which
    they are stands in `origins.csv`. `noun` is the class noun in their `concept.yaml`. DataError where there are not
    as many.
    """
    count = len(pick.only) or pick.concepts
    pictures: dict[str, Path] = {}
    texts, rows, seen = {}, [f"file,{called},picture"], 0
    with watch(f"looking for {called}s with {pick.images} pictures", count) as advance:
        for name, held in groups:
            files = list(itertools.islice(held, pick.images))
            if len(files) < pick.images:
                if pick.only:
                    raise DataError(f"{copy.named}: {called} {name} has {len(files)} pictures here, not {pick.images}.")
                continue
            seen += 1
            folder = f"{called}-{seen:02d}"
            own = {f"{folder}/{number:02d}{file.suffix.lower()}": file for number, file in enumerate(files)}
            pictures |= own
            rows += [f"{path},{name},{file.name}" for path, file in own.items()]
            texts[f"{folder}/{CONCEPT}"] = f"class: {noun}\n"
            advance(1, "")
            if seen == count:
                return Chosen(pictures, {}, {**texts, ORIGINS: "\n".join(rows) + "\n"})
    raise DataError(
        f"{copy.named}: {seen} {called}s have {pick.images} pictures or more here, and {count} are asked for: put more "
        f"of {dataset.name} there, or ask for fewer with --concepts or --images."
    )
