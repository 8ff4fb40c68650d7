"""What a sweep shows: a live table on a terminal, a plain line for each finished lesson elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from perdure.sweep import Moment, Task, status
from perdure.sweep.status import RunStatus
from perdure.sweep.tree import total

Show = Callable[[Moment], None]
COLOURS = {"done": "green", "running": "bold", "failed": "red", "waiting": "dim"}
FIRST = {"running": 0, "failed": 1, "done": 2, "waiting": 3}
OTHER_LINES = 6
"""Lines of the screen that the table's own frame and notes take."""


@contextmanager
def showing(console: Console) -> Iterator[Show]:
    """A function that shows how things stand, again and again."""
    if not console.is_terminal:
        yield _Lines(console).show
        return
    with Live(console=console, auto_refresh=False) as live:
        rows = max(4, console.height - OTHER_LINES)
        yield lambda moment: live.update(table(moment, rows), refresh=True)


class _Lines:
    """Says what is new since the last time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: dict[str, RunStatus] = {}

    def show(self, moment: Moment) -> None:
        """One line for each lesson, and for each run that failed."""
        lessons = sum(one.total for one in moment.statuses.values())
        done = sum(one.lessons for one in moment.statuses.values())
        for name, now in moment.statuses.items():
            before = self._seen.get(name)
            if before is not None and now.lessons > before.lessons:
                left = "" if not moment.left else f"; about {status.duration(moment.left)} left"
                told = (
                    f"{name}: lesson {now.lessons} of {now.total} done{_scores(now, ', ')} ({done} of {lessons}{left})"
                )
                self._console.print(Text(told), soft_wrap=True)
            if before is not None and now.state == "failed" != before.state:
                self._console.print(Text(f"{name}: failed: {now.problem}"), soft_wrap=True)
        self._seen = dict(moment.statuses)


def table(moment: Moment, rows: int | None = None) -> Group:
    """The runs as a table of so many rows at most: those at work first, then failed ones."""
    statuses = list(moment.statuses.values())
    axes = [axis for axis in _axes(statuses) if len({one.axes.get(axis) for one in statuses}) > 1] or ["method"]
    shown = Table()
    for column in (*(axis.split(".")[-1] for axis in axes), "state", "lesson", "last scores", "left"):
        shown.add_column(column, no_wrap=column in ("state", "lesson"))
    sorted_ = sorted(statuses, key=lambda one: FIRST[one.state])
    for one in sorted_[:rows]:
        values = [Text(str(one.axes.get(axis, ""))) for axis in axes]
        left = moment.left_of.get(one.name)
        spare = "" if left is None else status.duration(left)
        state = Text(one.state, style=COLOURS[one.state])
        shown.add_row(*values, state, _lesson(one), Text(_scores(one)), spare)
    counts = {state: sum(one.state == state for one in statuses) for state in FIRST}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    hidden = f" ({len(statuses) - rows} more not shown)" if rows is not None and len(statuses) > rows else ""
    known = "unknown until the first lesson is done" if moment.left is None else status.duration(moment.left)
    unfinished = any(one.state in ("running", "waiting") for one in statuses)
    foot = f"{told}{hidden}" + (f"; time left: {known}" if unfinished else "")
    return Group(shown, *(Text(note) for note in moment.notes), Text(foot))


def _axes(statuses: Sequence[RunStatus]) -> list[str]:
    return list(dict.fromkeys(axis for one in statuses for axis in one.axes))


def _lesson(one: RunStatus) -> str:
    inside = f", {one.lesson} {one.step}/{one.steps}" if one.step and one.step < one.steps else ""
    return f"{one.lessons} of {one.total}{inside}"


def _scores(one: RunStatus, lead: str = "") -> str:
    return "".join(
        f"{lead or ('  ' if i else '')}{name} {value:.3f}" for i, (name, value) in enumerate(one.scores.items())
    )


def amount(todo: Task) -> str:
    """How much a sweep is, and how much of it is left, in words."""
    runs = todo.grid.runs
    axes = {axis: len({run.axes[axis] for run in runs}) for axis in runs[0].axes}
    product = " x ".join(f"{count} {axis.split('.')[-1]}{'s' if count > 1 else ''}" for axis, count in axes.items())
    lessons = sum(total(run.plan) for run in runs)
    there = {folder.name: status.lessons_in(folder) for folder in todo.homes}
    todo_lessons = sum(
        stretch.lessons - max(stretch.begin, there.get(stretch.folder.name, 0)) for stretch in todo.stretches
    )
    work = [status.work_of(stretch, there.get(stretch.folder.name, 0)) for stretch in todo.stretches]
    steps, images = sum(one[0] for one in work), sum(one[1] for one in work)
    spared = lessons - sum(there.values()) - todo_lessons
    shared = f" ({spared} of the rest are shared)" if spared else ""
    return (
        f"{todo.grid.name}: {len(runs)} runs ({product}), {lessons} lessons; {sum(there.values())} are done.\n"
        f"To do: {todo_lessons} lessons{shared}, {steps:,} training steps, {images:,} images."
    )


def estimate(moment: Moment, slots: int) -> str:
    """How long it would take, and how that is known."""
    if moment.left is None:
        return "Time: unknown until the first lesson is done."
    finished = sum(one.lessons for one in moment.statuses.values())
    source = f"at the pace of the {finished} finished lessons" if finished else "by a few steps and images just timed"
    return f"Time: about {status.duration(moment.left)} with {slots} at once, {source}."
