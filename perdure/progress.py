"""Progress of long work, shown or not: `with watch("lesson 2/5 teapot", 300) as advance: advance(1, "loss 0.12")`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int, str], None]
Watch = Callable[[str, int], AbstractContextManager[Advance]]


@contextmanager
def silent(what: str, total: int) -> Iterator[Advance]:
    """Nobody watches."""
    yield lambda count, note: None


def named(watch: Watch, name: str) -> Watch:
    """A watch that says whose work it is."""
    return lambda what, total: watch(f"{name}: {what}", total)


def on(console: Console) -> Watch:
    """Bars on a terminal; one plain line per finished task elsewhere (logs, CI)."""

    left = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    columns = (*left, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    shown: list[Progress] = []  # one display for all bars that are open

    @contextmanager
    def bars(what: str, total: int) -> Iterator[Advance]:
        if not shown:
            shown.append(Progress(*columns, console=console, refresh_per_second=4))
            shown[0].start()
        progress = shown[0]
        task = progress.add_task(what, total=total, note="")
        try:
            yield lambda count, note: progress.update(task, advance=count, note=note)
        finally:
            if all(other.id == task for other in progress.tasks):
                shown.clear()
                progress.stop()
            else:
                progress.console.print(f"{what}: {total}", highlight=False)
                progress.remove_task(task)

    @contextmanager
    def lines(what: str, total: int) -> Iterator[Advance]:
        last = ""

        def advance(count: int, note: str) -> None:
            nonlocal last
            last = note

        yield advance
        console.print(f"{what}: {total} {last}".rstrip(), highlight=False)

    return bars if console.is_terminal else lines
