"""The runs themselves: round by round within the time, resumed where they stopped. Each run is an ordinary lineage."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from perdure import files, records
from perdure.advise import design as designs
from perdure.advise.design import Cost, Design, Speed, duration
from perdure.bases import reading
from perdure.drawing.tools import Tools
from perdure.errors import LineageError, ModelError, PerdureError, PlanError, TrainingError
from perdure.lineage import Lineage
from perdure.plan import Plan, workload
from perdure.run import drive, pace

LEFT_OUT = (TrainingError, ModelError, PlanError)
"""What speaks against one method, and not against them all."""


def speeds(
    tools: Tools,
    plan: Plan,
    tell: Callable[[str], None],
    enough: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Speed, dict[str, str]]:
    """The speed of each method on the plan's first two concepts, and why those are left out that cannot run.

    Once two methods are measured and `enough` says that there is no time for more, the others are taken to be as slow
    as the slowest of those. Raises PerdureError where fewer than two methods can run. Nothing is kept.
    """
    costs: dict[str, Cost] = {}
    failed: dict[str, PerdureError] = {}
    images: list[float] = []
    for choice in plan.methods:
        own = plan.narrowed(choice)
        if len(costs) >= 2 and enough():
            known = costs.values()
            slowest = max(c.step for c in known), max(c.lesson for c in known)
            costs[choice.label] = Cost(*slowest, max(workload.lengths(own)))
            continue
        tell(f"measuring {choice.label} ...")
        try:
            mine = replace(tools, plan=own)
            reading.accept([(own, ())])
            found = pace.of(mine, clock, drawing=not images)
        except LEFT_OUT as error:
            failed[choice.label] = error
            continue
        images.append(found.image)
        costs[choice.label] = Cost(found.step, found.lesson, max(workload.lengths(own)))
    if len(costs) < 2:
        raise next(iter(failed.values()))
    return Speed(costs, images[0]), {label: str(error) for label, error in failed.items()}


STATE = "trial.json"
"""What has been decided and spent so far; with the lineages it is all that resuming needs."""


@dataclass(frozen=True)
class Trial:
    """A trial under way. `mark`: what was asked; `failed`: method -> why it is out; `spent`: seconds of each run."""

    mark: str
    design: Design
    speed: Speed
    failed: dict[str, str]
    spent: dict[str, float]
    used: float
    """Seconds of all calls together, loading and measuring included."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The methods that are still in it."""
        return tuple(label for label in self.design.methods if label not in self.failed)


def read(out: Path, mark: str) -> Trial | None:
    """The trial begun in a folder; None where there is none. Raises LineageError where something else was asked."""
    path = out / STATE
    if not os.path.isfile(path):
        return None
    trial: Trial = records.made(files.read_json(path), Trial, path)
    if trial.mark != mark:
        raise LineageError(
            f"{out} holds a trial of other concepts, methods or settings; give another --out folder, or delete this one"
        )
    return trial


def write(trial: Trial, out: Path) -> None:
    """Keep a trial's state."""
    files.write_json(out / STATE, asdict(trial))


def folder_of(out: Path, number: int, label: str) -> Path:
    """Where a run's lineage lies."""
    return out / f"round-{number}" / label


def finished(out: Path, number: int, label: str, lessons: int) -> bool:
    """Whether a run has taught all its lessons."""
    folder = folder_of(out, number, label)
    return (folder / "lineage.json").is_file() and len(Lineage(folder).lessons) >= lessons


def rounds(trial: Trial, out: Path) -> list[int]:
    """The complete rounds: those in which every method that is still in has finished."""
    return [
        number
        for number in _numbers(trial)
        if trial.labels and all(finished(out, number, label, trial.design.concepts) for label in trial.labels)
    ]


def conduct(
    trial: Trial, plan: Plan, tools: Tools, out: Path, seconds: float, clock: Callable[[], float],
    tell: Callable[[str], None],
) -> Trial:  # fmt: skip
    """Run rounds until the budget in seconds is used; `plan` has the concepts that are taught.

    `clock` tells the seconds used so far. A run that has begun is ended; a round is not begun where the last one says
    that it would not fit. A method that diverges or cannot run is left out from then on.
    """
    choices = {choice.label: choice for choice in plan.methods}
    for number in _numbers(trial):
        again = _next_round(trial, out, number)
        if again and clock() + again > seconds:
            needed = duration(clock() + again)
            tell(f"another round would take about {duration(again)}: --budget {needed} would do")
            break
        for label in trial.labels:
            if finished(out, number, label, trial.design.concepts):
                continue
            if clock() >= seconds:
                return trial
            tell(f"round {number}: {label}")
            own = designs.round_plan(plan, choices[label], trial.design, number)
            trial = _taught(trial, replace(tools, plan=own), out, number, label, clock)
    return trial


def _numbers(trial: Trial) -> range:
    """Of all rounds that may be run."""
    return range(1, designs.most_rounds(len(trial.design.methods)) + 1)


def _next_round(trial: Trial, out: Path, number: int) -> float:
    """Seconds that a round that has not begun will take, going by the one before it; 0 for the first and begun ones."""
    if number == 1 or (out / f"round-{number}").is_dir():
        return 0.0
    return sum(trial.spent.get(_name(number - 1, label), 0.0) for label in trial.labels)


def _taught(trial: Trial, tools: Tools, out: Path, number: int, label: str, clock: Callable[[], float]) -> Trial:
    """One run; the time is noted after every lesson. The base's row is that of the trial's first run."""
    folder, first = folder_of(out, number, label), folder_of(out, 1, trial.design.methods[0])
    lineage = drive.open_or_create(folder, tools.plan)
    base = lineage if folder == first or not (first / "lineage.json").is_file() else Lineage(first)
    trial = replace(trial, used=clock())

    def note() -> None:
        nonlocal trial
        now, name = clock(), _name(number, label)
        spent = {**trial.spent, name: trial.spent.get(name, 0.0) + now - trial.used}
        trial = replace(trial, spent=spent, used=now)
        write(trial, out)

    try:
        drive.teach_plan(tools, lineage, base, after_lesson=note)
    except LEFT_OUT as error:
        trial = replace(trial, failed={**trial.failed, label: str(error)}, used=clock())
        write(trial, out)
    return trial


def _name(number: int, label: str) -> str:
    return f"{number}/{label}"
