"""Measuring before planning: two tiny lessons with each method give its seconds per step, per lesson and per image."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from perdure import run
from perdure.advise.design import Cost, Speed, shortened
from perdure.errors import ModelError, PerdureError, PlanError, TrainingError
from perdure.evaluate import Tools
from perdure.plan import MethodChoice, Plan
from perdure.progress import silent
from perdure.rows import Row

STEPS = 4
IMAGES = 2
LEFT_OUT = (TrainingError, ModelError, PlanError)
"""What speaks against one method, and not against them all."""


def measure(
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
        full = plan.narrowed(choice).training.steps
        if len(costs) >= 2 and enough():
            known = costs.values()
            costs[choice.label] = Cost(max(c.step for c in known), max(c.lesson for c in known), full)
            continue
        tell(f"measuring {choice.label} ...")
        own = _tiny(plan, choice, drawing=not images)
        with TemporaryDirectory(prefix="perdure-") as folder:
            try:
                replace(tools, plan=plan.narrowed(choice)).check_tokens()
                step, lesson, image = _timed(replace(tools, plan=own, watch=silent), Path(folder) / choice.label, clock)
            except LEFT_OUT as error:
                failed[choice.label] = error
                continue
        images.append(image)
        costs[choice.label] = Cost(step, lesson, full)
    if len(costs) < 2:
        raise next(iter(failed.values()))
    return Speed(costs, images[0]), {label: str(error) for label, error in failed.items()}


def _tiny(plan: Plan, choice: MethodChoice, drawing: bool) -> Plan:
    """Two short lessons with a method; `drawing`: images take all the steps that the plan wants, else one."""
    own = shortened(plan, prompts=1, images=IMAGES if drawing else 1).narrowed(choice)
    sampling = own.sampling if drawing else own.sampling.model_copy(update={"steps": 1})
    training = own.training.model_copy(update={"steps": STEPS})
    return own.model_copy(update={"training": training, "sampling": sampling, "concepts": own.concepts[:2]})


def _timed(tools: Tools, folder: Path, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Seconds (per step, per lesson beside its steps, per image) of the second of two lessons: the first warms up."""
    lineage = run.open_or_create(folder, tools.plan)
    run.teach_plan(tools, lineage, lineage, upto=1)
    began = clock()
    run.teach_plan(tools, lineage, lineage)
    whole = clock() - began
    row, name = lineage.lessons[-1], tools.plan.sequence[1].name
    step = _step(lineage.lessons)
    spent = row.record["seconds"]["evaluate"] + _seconds(lineage.base_row, name) + STEPS * step
    return step, max(0.0, whole - spent), _seconds(row, name) / tools.plan.sampling.images_per_prompt


def _step(rows: Sequence[Row]) -> float:
    """Median over steps; the first of a lesson is left out, since what the method prepares is logged with it."""
    return float(median(log["seconds"] for row in rows for log in row.losses()[1:]))


def _seconds(row: Row, name: str) -> float:
    cell = row.cell(name)
    return float(cell.record["seconds"]) if cell else 0.0
