"""The runs of a plan side by side, each in a process of its own with one thread: where there are several cores."""

import itertools
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from perdure.errors import ModelError, PerdureError
from perdure.plan import Plan
from perdure.progress import Advance, Watch

Work = Callable[[Plan, int, Path, str | None, Watch, Callable[[], object]], object]
"""Carries out one of a plan's runs: plan, its number, folder, device, bars, what is called after a lesson."""

GLANCE = 1.0
"""Seconds after which it is looked whether all processes are alive."""


def carry_out(
    work: Work, plan: Plan, out: Path, workers: int, watch: Watch, device: str | None,
    after_lesson: Callable[[], object],
) -> None:  # fmt: skip
    """Do the work of all runs of a plan, so many at once. Raises PerdureError, what the first to fail raised.

    The others are stopped then, and by Ctrl-C: lineages are whole at any moment, and the same command goes on.
    """
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    waiting, shown = deque(range(len(plan.runs))), _Shown(watch)
    at_work: dict[int, Any] = {}
    try:
        while waiting or at_work:
            while waiting and len(at_work) < workers:
                number = waiting.popleft()
                at_work[number] = context.Process(target=_run, args=(work, plan, number, out, device, told))
                with unheard_interrupts():
                    at_work[number].start()
            with suppress(queue.Empty):
                number, what, *values = told.get(timeout=GLANCE)
                if what == "ended":
                    at_work.pop(number).join()
                    _raised(*values)
                elif what == "lesson":
                    with suppress(PerdureError):  # what the others write meanwhile; the next one shows it
                        after_lesson()
                else:
                    shown.take(number, what, *values)
                continue
            if lost := [n for n, process in at_work.items() if process.exitcode is not None and told.empty()]:
                name = plan.runs[lost[0]].methods[0].label
                raise ModelError(
                    f"the process of {name} ended before its work (killed, or out of memory?); start again"
                )
    finally:
        shown.close()
        for process in at_work.values():
            process.kill()
            process.join()


@contextmanager
def unheard_interrupts() -> Iterator[None]:
    """Processes that are started inside never hear Ctrl-C, not even while starting: whoever started them ends them."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's alone
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard or signal.SIG_DFL)


def _raised(error: type[PerdureError] | None, message: str) -> None:
    if error is not None:
        raise error(message)


class _Shown:
    """What the processes do, as bars of this one."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._bars: dict[tuple[int, int], tuple[ExitStack, Advance]] = {}

    def take(self, number: int, what: str, bar: int, *values: Any) -> None:
        """A bar of a process begins, goes on or ends."""
        if what == "begin":
            stack = ExitStack()
            self._bars[number, bar] = stack, stack.enter_context(self._watch(*values))
        elif what == "advance":
            self._bars[number, bar][1](*values)
        else:
            self._bars.pop((number, bar))[0].close()

    def close(self) -> None:
        """End what is left."""
        for stack, _ in self._bars.values():
            stack.close()


# --- in the processes -------------------------------------------------------------------------------------------------


def _run(work: Work, plan: Plan, number: int, out: Path, device: str | None, told: Any) -> None:
    """One run of the plan in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it is not inherited: Windows
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    label, bars = plan.runs[number].methods[0].label, itertools.count()
    failed: tuple[type[PerdureError] | None, str] = None, ""

    @contextmanager
    def watch(what: str, total: int) -> Iterator[Advance]:
        bar = next(bars)
        told.put((number, "begin", bar, f"{label}: {what}", total))
        try:
            yield lambda count, note: told.put((number, "advance", bar, count, note))
        finally:
            told.put((number, "end", bar))

    try:
        work(plan, number, out, device, watch, lambda: told.put((number, "lesson")))
    except PerdureError as error:
        failed = type(error), str(error)
    told.put((number, "ended", *failed))


def end_with_parent() -> None:
    """Wait for the end of the process that started this one, and end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
