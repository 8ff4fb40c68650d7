"""The engine of a Ray cluster: each stretch is a task; Ray places it, and begins it again where a node is lost."""

from collections.abc import Iterable, Sequence

import ray

from perdure.errors import PlanError
from perdure.sweep import worker
from perdure.sweep.engine import TRIES, Ended, sentence
from perdure.sweep.status import Paces
from perdure.sweep.tree import Stretch


class OnRay:
    """A cluster at an address, or one of this machine alone; all its nodes see the sweep's folder.

    `cpus`, `gpus`: what one run takes; a GPU if the cluster has any, by default.
    """

    def __init__(self, address: str | None, device: str | None, cpus: float | None, gpus: float | None) -> None:
        try:
            ray.init(address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise PlanError(f"no Ray cluster at {address or 'this machine'}: {sentence(error)}") from None
        there = ray.cluster_resources()
        self._cpus, self._device = cpus or 1.0, device
        self._gpus = gpus if gpus is not None else float("GPU" in there and device != "cpu")
        self._task = ray.remote(max_retries=TRIES, num_cpus=self._cpus, num_gpus=self._gpus)(worker.carry_out)
        self._at_work: dict[ray.ObjectRef, Stretch] = {}

    @property
    def slots(self) -> int:
        """How many stretches the cluster has room for now."""
        there = ray.cluster_resources()
        room = there.get("CPU", 0) / self._cpus
        return max(1, int(min(room, there.get("GPU", 0) / self._gpus) if self._gpus else room))

    def paces(self, stretches: Sequence[Stretch]) -> Paces:
        """Measured by a task of the size of a run."""
        task = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(worker.paces)
        try:
            found: Paces = ray.get(task.remote(stretches, self._device))
        except ray.exceptions.RayError:
            return {}
        return found

    def start(self, stretches: Iterable[Stretch]) -> None:
        """Hand stretches to the cluster."""
        for stretch in stretches:
            self._at_work[self._task.remote(stretch, self._device)] = stretch

    def ended(self, seconds: float) -> list[Ended]:
        """What has ended since, after waiting so long at most."""
        if not self._at_work:
            return []
        ready, _ = ray.wait(list(self._at_work), num_returns=1, timeout=seconds)
        return [Ended(self._at_work.pop(task), _outcome(task)) for task in ready]

    def close(self) -> None:
        """Cancel what is at work, and leave the cluster; one of this machine alone ends."""
        for task in self._at_work:
            ray.cancel(task, force=True)
        ray.shutdown()


def _outcome(task: ray.ObjectRef) -> str | None:
    try:
        told: str | None = ray.get(task)
    except ray.exceptions.RayError as error:
        return sentence(error)
    return told
