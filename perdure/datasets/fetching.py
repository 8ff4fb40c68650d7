"""Public sources: an archive behind a URL, or files and archives on the Hugging Face hub."""

import errno
import urllib.request
from collections.abc import Collection
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from perdure.datasets.archives import store, tails
from perdure.datasets.dataset import Dataset
from perdure.errors import DataError
from perdure.progress import Watch
from perdure.score.sources import hub_failures


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
