"""What a piece of work takes: seconds, and bytes of main and of CUDA memory."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def peak_memory(device: torch.device) -> int:
    """Most bytes held at once: of a CUDA device since its peak was reset, else of main memory since we began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if resource is None:
        held = psutil.Process().memory_info()
        return int(getattr(held, "peak_wset", held.rss))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass
class Cost:
    """What a piece of work took: seconds, and the most bytes of main and of CUDA memory beyond those held before it."""

    seconds: float = 0.0
    memory: int = 0
    device_memory: int = 0


LOOK = 0.005
"""Seconds between two looks at the memory in use: a shorter peak can be missed."""


@contextmanager
def spent(device: torch.device) -> Iterator[Cost]:
    """What is done inside is measured, and told when it is over."""
    cost, over, process = Cost(), threading.Event(), psutil.Process()

    def held() -> tuple[int, int]:
        return process.memory_info().rss, torch.cuda.memory_allocated(device) if device.type == "cuda" else 0

    def look() -> None:
        main, own = held()
        cost.memory = max(cost.memory, main - before[0])
        cost.device_memory = max(cost.device_memory, own - before[1])

    def watch() -> None:
        while not over.wait(LOOK):
            look()

    before, started = held(), time.perf_counter()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield cost
    finally:
        over.set()
        watcher.join()
        look()
        cost.seconds = round(time.perf_counter() - started, 4)
