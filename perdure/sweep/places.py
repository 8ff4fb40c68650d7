"""Where things lie in a sweep's folder.

runs/my-grid/
  grid.yaml                    the grid, resolved: paths absolute, methods with labels
  status.json                  what `perdure sweep status` says, written while a sweep runs
  naive_listed_seed-0_1a2b3c4d/   a lineage; run.json in it holds the run's value on each axis
  .sweep/
    base/<key>/model/          a lineage without lessons: the untouched base's row, shared by runs
    claims/  failures/         a lock for each run at work; a sentence for each run that failed
    logs/    slurm/            what workers printed
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perdure import files
from perdure.errors import LineageError
from perdure.lineage import Lineage, agreement, locks
from perdure.sweep.grid import DIGITS, PlannedRun

INNER = ".sweep"


def grid_file(root: Path) -> Path:
    """The resolved grid."""
    return root / "grid.yaml"


def status_file(root: Path) -> Path:
    """The last status."""
    return root / "status.json"


def base(root: Path, key: str) -> Path:
    """The lineage of the untouched base for a key; deep enough that it is not taken for a run of the sweep."""
    return root / INNER / "base" / key / "model"


def logs(root: Path) -> Path:
    """What workers print."""
    return root / INNER / "logs"


def failure(root: Path, run: str) -> Path:
    """Why a run failed, until it is tried again."""
    return root / INNER / "failures" / f"{run}.txt"


def homes(root: Path, runs: Sequence[PlannedRun]) -> dict[Path, PlannedRun]:
    """The folder of each run: one that has its fingerprint or agrees with its plan, else a new one."""
    known = {folder.name.rpartition("_")[2]: folder for folder in sorted(root.glob(f"*_{'?' * DIGITS}"))}
    found: dict[Path, PlannedRun] = {}
    for run in runs:
        alike = (folder for folder in _alike(root, run) if folder not in found)
        found[known.get(run.fingerprint[:DIGITS]) or next(alike, root / run.name)] = run
    return found


def _alike(root: Path, run: PlannedRun) -> Iterator[Path]:
    """Folders of the run's title in which the plan can go on: fingerprints change with every key that plans gain."""
    for mark in sorted(root.glob(f"{run.title}_{'?' * DIGITS}/lineage.json")):
        try:
            agreement.on_plan(Lineage(mark.parent), run.plan)
        except LineageError:
            continue
        yield mark.parent


def record(folder: Path, axes: Mapping[str, Any], fingerprint: str) -> None:
    """Keep in a run's folder which value it has on each axis; nothing is written where it stands there already."""
    facts = {"name": folder.name, "axes": dict(axes), "fingerprint": fingerprint}
    files.write_changed(folder / "run.json", facts)


@contextmanager
def claimed(root: Path, run: str) -> Iterator[bool]:
    """Hold the right to work on a run, if nobody else has it; the system takes it back from a process that ends."""
    with locks.holding(_claim(root, run)) as mine:
        yield mine


def at_work(root: Path, run: str) -> bool:
    """Whether some process works on a run now."""
    return locks.held(_claim(root, run))


def _claim(root: Path, run: str) -> Path:
    return root / INNER / "claims" / run
