"""Google Landmarks v2 (Weyand et al., CVPR 2020): landmarks that have pictures enough in a local copy.

The concepts of C-LoRA (arXiv 2304.06027) and STAMINA (arXiv 2311.18763) are landmarks of it, and which ones is not
public. What is public are tables of ids and 500 archives of 1 GB, of which one landmark's pictures may lie in any. So a
copy is needed: `train_clean.csv` (columns landmark_id and images, ids with spaces between) and the unpacked archives,
`a/b/c/abc....jpg` by the first three letters of an image's id. Landmarks are taken by rising id, and of each the
pictures by rising id: the same copy gives the same concepts. A list of ids (`Pick.only`) is taken in its own order.
"""

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from perdure.datasets.choosing import Group, below, enough, within
from perdure.datasets.dataset import Chosen, Copy, Dataset, Pick
from perdure.errors import DataError
from perdure.progress import Watch

TABLE = "train_clean.csv"
PICTURE_ID = re.compile(r"[0-9a-f]{16}")


def _choose(dataset: Dataset, copy: Copy, pick: Pick, watch: Watch) -> Chosen:
    table = within(dataset, copy, (TABLE,)) / TABLE
    roots = [root for folder in below(copy.folder, 1) if folder.is_dir() for root in (folder, folder / "train")]
    roots = [root for root in roots if any((root / letter).is_dir() for letter in "0123456789abcdef")]
    if not roots:
        raise DataError(f"{copy.named}: holds {TABLE}, but no pictures ({dataset.layout}).")
    wanted = _read(table)
    unknown = [name for name in pick.only if name not in wanted]
    if unknown:
        raise DataError(f"{table}: there is no landmark {unknown[0]!r}; ids are numbers of its first column.")
    names = pick.only or sorted(wanted, key=int)
    groups: Iterator[Group] = ((name, _present(roots, wanted[name])) for name in names)
    return enough(dataset, copy, groups, pick, "landmark", "landmark", watch)


def _read(table: Path) -> dict[str, list[str]]:
    """Landmark id -> its image ids, rising. DataError where a row is not such."""
    usual = csv.field_size_limit(sys.maxsize)  # a well-known landmark has thousands of images in one field
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            rows = [(row["landmark_id"], row["images"].split()) for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, KeyError, AttributeError, csv.Error) as error:
        raise DataError(f"{table}: is not a table of landmark_id and images ({error}).") from error
    finally:
        csv.field_size_limit(usual)  # it is the limit of all tables of this process
    for name, ids in rows:
        if not name.isdecimal() or not all(PICTURE_ID.fullmatch(picture) for picture in ids):
            raise DataError(f"{table}: landmark {name!r} is not a number with image ids of 16 hexadecimal digits.")
    return {name: sorted(ids) for name, ids in rows}


def _present(roots: list[Path], ids: list[str]) -> Iterator[Path]:
    """Those of the pictures that are there."""
    for picture in ids:
        path = Path(*picture[:3], f"{picture}.jpg")
        if file := next((root / path for root in roots if (root / path).is_file()), None):
            yield file


DATASET = Dataset(
    name="landmarks",
    source="https://github.com/cvdfoundation/google-landmark",
    licence="each picture has its own, CC BY most of them: see train_attribution.csv beside the data set",
    layout=f"{TABLE}, and pictures as a/b/c/ID.jpg, as the train archives unpack",
    choose=_choose,
    closed="landmarks: which landmarks the papers used is not public, and Google Landmarks v2 cannot be had in parts: "
    f"get {TABLE} and the train archives as https://github.com/cvdfoundation/google-landmark says, unpack them into "
    "one folder, and name it with --from.",
    picked=True,
)
