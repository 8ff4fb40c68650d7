"""Locks between processes: held by one that is alive, and by nobody else, whatever ended it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from perdure import files
from perdure.errors import LineageError

LOCK = ".lock"
"""The lock file in a model's folder."""
GLANCE = 0.02
"""Seconds between two attempts: who only looks whether a lock is held holds it for a moment."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only writer of a model. Raises LineageError where another process is."""
    with holding(folder / LOCK) as mine:
        if not mine:
            raise LineageError(f"{folder} is being written by another process; wait for it")
        yield


@contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Hold a lock file while the block runs; False where another process holds it. Nothing is written into it.

    Raises LineageError where it cannot be opened (a link or a pipe, say), or its file system has no locks.
    """
    try:
        files.make_folder(path.parent)
        handle = files.open_plain(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise LineageError(f"cannot write to {path.parent}: {path.name} cannot be opened ({error.strerror})") from None
    with open(handle, "rb"):
        yield _locked(handle, path)


def held(path: Path) -> bool:
    """Whether some process holds a lock file now. Raises LineageError."""
    try:
        handle = files.open_plain(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LineageError(f"cannot read {path}: {error.strerror}") from None
    with open(handle, "rb"):
        return not _locked(handle, path)


def _locked(handle: int, path: Path) -> bool:
    """Lock an open file, with `flock` or what Windows has for it; the system unlocks it when it is closed."""
    try:
        if filelock.lock_descriptor(handle, blocking=False):
            return True
        time.sleep(GLANCE)
        return filelock.lock_descriptor(handle, blocking=False)
    except OSError as error:
        raise LineageError(
            f"{path}: its file system has no locks ({error.strerror}), and two writers would spoil the model; "
            "keep it on one that has (a local disk, NFS 4, Lustre mounted with `flock`)"
        ) from None
