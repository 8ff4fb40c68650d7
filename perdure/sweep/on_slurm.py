"""The engine of a Slurm cluster, by submitit: what is ready at one time is a job array."""

import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from perdure.errors import PlanError
from perdure.sweep import places, worker
from perdure.sweep.engine import Ended, Lives, sentence
from perdure.sweep.status import Paces
from perdure.sweep.tree import Stretch

LOOK = 60.0
"""Seconds between two looks at the queue."""
SHORT = {
    "time": "timeout_min", "gpus": "gpus_per_node", "cpus": "cpus_per_task", "memory": "mem_gb",
    "parallel": "slurm_array_parallelism",
}  # fmt: skip
"""Our words for submitit's parameters; `time` in minutes, `memory` in GB, `parallel` jobs of an array at once."""
USUAL = {"timeout_min": 24 * 60, "name": "perdure"}
GENERIC = {"name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node"}
FORWARDED = {"partition", "account", "qos", "constraint", "exclude", "nodelist", "gres", "mem", "setup", "use_srun"}
"""What submitit knows of any cluster, and of Slurm."""


@dataclass(frozen=True)
class Job:
    """A stretch as submitit calls it; a job that is preempted or out of time is queued again, and goes on."""

    stretch: Stretch
    device: str | None

    def __call__(self) -> str | None:
        """Carry it out."""
        return worker.carry_out(self.stretch, self.device)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What to do in its place when it is stopped: the same, for lineages go on by themselves."""
        return submitit.helpers.DelayedSubmission(self)


class OnSlurm:
    """Jobs on a cluster whose nodes see the sweep's folder.

    `parameters`: those of SHORT, those of submitit, or any other of sbatch; `cluster`: `local` tries it without Slurm.
    """

    def __init__(self, root: Path, parameters: Mapping[str, Any], device: str | None) -> None:
        given = dict(parameters)
        self._device, self._cluster = device, given.pop("cluster", "slurm")
        try:
            self._executor = submitit.AutoExecutor(root / places.INNER / "slurm", cluster=self._cluster)
            self._slots = int(given.get("parallel", 0))
            self._executor.update_parameters(**_named(given))
        except (RuntimeError, ValueError, NameError, AssertionError) as error:
            raise PlanError(f"Slurm: {sentence(error)}") from None
        self._at_work: dict[str, tuple[submitit.Job[str | None], Stretch]] = {}
        self._lives, self._queue = Lives(), _Queue()

    @property
    def slots(self) -> int:
        """How many jobs at once, where that is known; else as many as there are."""
        return self._slots or max(1, len(self._at_work))

    def paces(self, stretches: Sequence[Stretch]) -> Paces:
        """Not known: measuring would have to wait in the queue."""
        return {}

    def start(self, stretches: Iterable[Stretch]) -> None:
        """Submit stretches as one array."""
        tasks = [Job(stretch, self._device) for stretch in stretches]
        if tasks:
            try:
                jobs = self._executor.submit_array(tasks)
            except RuntimeError as error:  # of submitit: sbatch refused it
                raise PlanError(f"Slurm refused the jobs: {sentence(error)}") from None
            self._at_work |= {job.job_id: (job, task.stretch) for job, task in zip(jobs, tasks, strict=True)}

    def ended(self, seconds: float) -> list[Ended]:
        """What has ended since, after waiting so long at most; jobs that were lost are submitted again."""
        done = [name for name, (job, _) in self._at_work.items() if self._has_ended(job)]
        lost = self._queue.lost(set(self._at_work) - set(done))
        if not done and not lost:
            time.sleep(seconds)
            return []
        found = [_outcome(*self._at_work.pop(name)) for name in done]
        again = []
        for job, stretch in map(self._at_work.pop, lost):
            if ended := self._lives.lost(stretch, str(job.paths.stderr)):
                found.append(ended)
            else:
                again.append(stretch)
        self.start(again)
        return found

    def _has_ended(self, job: submitit.Job[str | None]) -> bool:
        return bool(job.paths.result_pickle.exists() if self._cluster == "slurm" else job.done())

    def close(self) -> None:
        """Cancel what is queued or at work."""
        for job, _ in self._at_work.values():
            job.cancel(check=False)


class _Queue:
    """Slurm's queue, looked at now and then; it needs no accounts, as `sacct` would."""

    def __init__(self) -> None:
        self._missed: set[str] = set()
        self._looked = time.monotonic()

    def lost(self, jobs: set[str]) -> set[str]:
        """Jobs of those given that the queue has not known at two looks in a row."""
        if not jobs or time.monotonic() - self._looked < LOOK:
            return set()
        self._looked = time.monotonic()
        told = subprocess.run(["squeue", "--array", "--noheader", "--format=%i"], capture_output=True, text=True)
        if told.returncode:
            return set()
        missing = jobs - set(told.stdout.split())
        lost, self._missed = missing & self._missed, missing
        return lost


def _outcome(job: submitit.Job[str | None], stretch: Stretch) -> Ended:
    error = job.exception()
    if error is None:
        return Ended(stretch, job.result())
    trace = [line for line in str(error).splitlines() if line and line[0] not in " -Y"]  # its last line says what
    return Ended(stretch, f"{trace[-1] if trace else error}; see {job.paths.stderr}")


def _named(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by submitit's names: its own words, those of its Slurm executor, else options of sbatch."""
    words = {SHORT.get(key, key): value for key, value in given.items()}
    named = {key: value for key, value in words.items() if key in GENERIC or key.startswith("slurm_")}
    named |= {f"slurm_{key}": value for key, value in words.items() if key in FORWARDED}
    rest = {key: value for key, value in words.items() if not named.keys() & {key, f"slurm_{key}"}}
    return {**USUAL, **named, **({"slurm_additional_parameters": rest} if rest else {})}
