"""Where a scorer's files are: a local folder as it is, a hub id from the cache or fetched into it."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

from perdure.errors import ModelError

log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REMEDY = "name a local folder that holds it, point HF_HOME to a cache that does, or go online once"


@dataclass(frozen=True)
class Located:
    """Files on this machine: `path` (folder or checkpoint file), `name` for messages, `revision` for hub
    models.

    original_sha256: of the file that a converted folder was made from.
    """

    path: Path
    name: str
    revision: str | None = None
    original_sha256: str | None = None


def locate(source: str | Path, weights: Sequence[str], extras: Sequence[str] = ()) -> Located:
    """Files of `source`: a path that exists, or a hub id ("owner/name").

    `weights`: file names of which the first one present is used; `extras`: patterns of the small files
    beside it. A path is never sent to the hub. Raises ModelError where something is missing, saying what to
    do.
    """
    path = Path(os.path.expanduser(source))
    if os.path.exists(path):
        return Located(path, str(source))
    if isinstance(source, Path) or not HUB_ID.fullmatch(source):
        raise ModelError(f"{source}: there is no such folder or file, and it is no hub id (owner/name) either.")
    cached = _cached(source, weights)
    return cached if cached is not None else _fetched(source, weights, extras)


def offline() -> bool:
    """Whether the environment forbids the network (HF_HUB_OFFLINE, or the older TRANSFORMERS_OFFLINE)."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.strip().upper() in ("1", "ON", "YES", "TRUE") for value in values)


def hub_failures() -> tuple[type[Exception], ...]:
    """What the hub client raises when the hub, or a file on it, cannot be had."""
    from huggingface_hub import errors

    # HTTPError is the hub client's HTTP library's own, whichever that is; connection errors descend from it
    # alone
    return errors.HTTPError, errors.EntryNotFoundError, OSError  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Reading:
    """While libraries read a model's files: what they raise on damaged ones is a ModelError, `told` of the reason."""

    told: Callable[[str], str]

    def __enter__(self) -> None:
        """Nothing is prepared."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from huggingface_hub.errors import StrictDataclassError
        from safetensors import SafetensorError

        usual: tuple[type[Exception], ...] = (
            ValueError, RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError,
            ImportError, EOFError, UnpicklingError, SafetensorError, StrictDataclassError, *hub_failures(),
        )  # fmt: skip
        if error is not None and (isinstance(error, usual) or kind is Exception):  # tokenizers has no class of its own
            raise ModelError(self.told(short(error))) from error


def short(error: BaseException) -> str:
    """What an error says, on one line; of a model that the hub gives to some only, how to become one of them."""
    from huggingface_hub.errors import GatedRepoError

    under: BaseException | None = error
    while under is not None:
        if isinstance(under, GatedRepoError):
            return "its owner gives it to those who ask: accept the terms on its page on the hub, then `hf auth login`"
        under = under.__cause__ or under.__context__
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__


def _cached(repo: str, weights: Sequence[str]) -> Located | None:
    """The hub's cache, without a single request; None unless the weights are there."""
    from huggingface_hub import try_to_load_from_cache

    for name in weights:
        file = try_to_load_from_cache(repo, name)
        if isinstance(file, str):
            folder = Path(file).parent
            return Located(folder, repo, folder.name)
    return None


def _fetched(repo: str, weights: Sequence[str], extras: Sequence[str]) -> Located:
    if offline():
        raise ModelError(f"{repo} is not in the local cache and HF_HUB_OFFLINE is set: {REMEDY}.")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = HfApi().model_info(repo, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        chosen = next((name for name in weights if name in sizes), None)
        if chosen is None:
            raise ModelError(f"{repo}: none of {', '.join(weights)} in this hub repository.")
        log.info("downloading %s (%s, %.0f MB) into the Hugging Face cache", repo, chosen, sizes[chosen] / 1e6)
        folder = snapshot_download(repo, revision=info.sha, allow_patterns=[chosen, *extras])
    except RepositoryNotFoundError as error:
        raise ModelError(f"{repo}: there is no such model on the hub, or access to it is restricted.") from error
    except hub_failures() as error:
        raise ModelError(
            f"{repo} is not in the local cache and the hub did not answer ({short(error)}): {REMEDY}."
        ) from error
    return Located(Path(folder), repo, info.sha)
