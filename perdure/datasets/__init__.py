"""Public sets of pictures that the published protocols use: fetched or copied, verified, never overwritten.

One file per data set. Only the files that a protocol needs are taken, under names that are made here: nothing that an
archive or a folder says about paths decides where anything is written.
"""

import os
import tempfile
from pathlib import Path

from perdure.datasets import celeba_hq, customconcept101, digits, dreambooth, imagenet_r, landmarks, unlearncanvas
from perdure.datasets.dataset import Copy, Dataset, Pick
from perdure.datasets.fetching import Fetched, check, install, unpack
from perdure.errors import DataError, did_you_mean
from perdure.progress import Watch, silent

__all__ = ["DATASETS", "Dataset", "Fetched", "Pick", "get"]

_ALL = (dreambooth, unlearncanvas, customconcept101, landmarks, celeba_hq, imagenet_r, digits)
DATASETS: dict[str, Dataset] = {module.DATASET.name: module.DATASET for module in _ALL}


def get(
    name: str, out: str | Path, source: str | Path | None = None, watch: Watch = silent, pick: Pick | None = None
) -> Fetched:
    """Data set `name` into `out`/`name`, from its public source or from a local copy (folder, zip or tar).

    `pick`: which concepts, for data sets with more than a protocol needs. A file that is there with the same bytes is
    kept; if any differs, or anything is missing or no picture, nothing at all is changed. Raises DataError in each of
    these cases, and when the source cannot be reached or there is none.
    """
    dataset = _named(name)
    if pick is not None and not dataset.picked:
        picked = " and ".join(other.name for other in DATASETS.values() if other.picked)
        raise DataError(f"{name} is laid out whole; --concepts, --images and --only are for {picked}.")
    folder = Path(out) / name
    with _scratch() as scratch:
        if source is not None:
            origin = Path(source)
        elif dataset.fetch is not None:
            origin = dataset.fetch(dataset, Path(scratch), watch)
        else:
            raise DataError(dataset.closed)
        chosen = dataset.choose(dataset, _copy(dataset, origin, Path(scratch)), pick or Pick(), watch)
        check(dataset, chosen, watch)
        try:
            return install(dataset, chosen, folder, watch)
        except OSError as error:
            raise DataError(f"{folder}: cannot be written ({error.strerror or error}).") from error


def _scratch() -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix="perdure-")
    except OSError as error:
        raise DataError(f"no temporary folder ({error.strerror}); the environment variable TMPDIR names one.") from None


def _named(name: str) -> Dataset:
    if name not in DATASETS:
        raise DataError(f"there is no data set {name!r}{did_you_mean(name, DATASETS)}")
    return DATASETS[name]


def _copy(dataset: Dataset, origin: Path, scratch: Path) -> Copy:
    """A folder as it is, an archive unpacked into the scratch folder."""
    if not os.path.exists(origin):
        raise DataError(f"{origin}: there is no such folder or archive.")
    if origin.is_dir():
        return Copy(origin, origin)
    if dataset.wanted is None:
        raise DataError(f"{origin}: is a file; unpack it and name the folder ({dataset.layout}).")
    return Copy(unpack(origin, scratch / "unpacked", dataset.wanted), origin)
