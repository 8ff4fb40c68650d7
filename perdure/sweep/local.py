"""The engine of this machine: one process for each device, each with its own copy of the base model."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from perdure.run.beside import end_with_parent, unheard_interrupts
from perdure.sweep import places, worker
from perdure.sweep.engine import Ended, Lives, sentence
from perdure.sweep.status import Paces
from perdure.sweep.tree import Stretch


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def workers(wanted: int | None, device: str | None, runs: int) -> int:
    """How many processes: as wanted, else one a CUDA device, one on mps, one a core."""
    if wanted is not None:
        return wanted
    if device in (None, "cuda") and torch.cuda.is_available():
        there = torch.cuda.device_count()
    elif device in (None, "mps") and torch.backends.mps.is_available():
        there = 1
    else:
        there = cores()
    return max(1, min(there, runs))


class Local:
    """Processes that are started when they are needed, and replaced when they die."""

    def __init__(self, root: Path, count: int, device: str | None) -> None:
        self._root, self._device = root, device
        self._pools: dict[int, _Pool | None] = dict.fromkeys(range(count))
        self._idle = deque(self._pools)
        self._queue: deque[Stretch] = deque()
        self._at_work: dict[Future[str | None], tuple[int, Stretch]] = {}
        self._lives = Lives()

    @property
    def slots(self) -> int:
        """How many processes there are."""
        return len(self._pools)

    def paces(self, stretches: Sequence[Stretch]) -> Paces:
        """Measured in the first process, which keeps the base model for its first stretch; nothing where that fails."""
        with unheard_interrupts():
            future = self._pool(0).executor.submit(worker.paces, stretches, self._device)
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            self._pools[0] = None
        return {} if error else future.result()

    def _pool(self, number: int) -> "_Pool":
        pool = self._pools[number] = self._pools[number] or _Pool(self._root, number, self.slots, self._device)
        return pool

    def start(self, stretches: Iterable[Stretch]) -> None:
        """Take stretches; each process has one at a time."""
        self._queue.extend(stretches)
        while self._idle and self._queue:
            number, stretch = self._idle.popleft(), self._queue.popleft()
            with unheard_interrupts():
                future = self._pool(number).executor.submit(worker.carry_out, stretch, self._device)
            self._at_work[future] = number, stretch

    def ended(self, seconds: float) -> list[Ended]:
        """What has ended since, after waiting so long at most; stretches of dead processes are begun again."""
        found = []
        for future in wait(self._at_work, seconds, FIRST_COMPLETED).done:
            number, stretch = self._at_work.pop(future)
            self._idle.append(number)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                self._pools[number] = None
                if ended := self._lives.lost(stretch, str(places.logs(self._root))):
                    found.append(ended)
                else:
                    self._queue.appendleft(stretch)
            else:
                found.append(Ended(stretch, sentence(error) if error else future.result()))
        self.start(())
        return found

    def close(self) -> None:
        """End the processes; those at work are killed, for lineages are whole at any moment."""
        at_work = {number for number, _ in self._at_work.values()}
        for number, pool in self._pools.items():
            if pool is not None:
                if number in at_work:
                    pool.process.kill()
                pool.executor.shutdown(cancel_futures=True)


class _Pool:
    """A pool of one process, and that process."""

    def __init__(self, root: Path, number: int, count: int, device: str | None) -> None:
        before = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        arguments = (str(places.logs(root)), number, count, device)
        self.executor = ProcessPoolExecutor(1, context, _begin, arguments)
        self.executor.submit(os.getpid)  # starts the process
        (self.process,) = set(multiprocessing.active_children()) - before


def _begin(logs: str, number: int, count: int, device: str | None) -> None:
    """What a worker process does first: its share of the machine, its log, and an end when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it is not inherited: Windows
    threading.Thread(target=end_with_parent, daemon=True).start()
    Path(logs).mkdir(parents=True, exist_ok=True)
    log = os.open(Path(logs) / f"worker-{number}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, cores() // count)))
    if device in (None, "cuda") and torch.cuda.device_count() > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        devices = visible.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]  # before the first use of CUDA here
