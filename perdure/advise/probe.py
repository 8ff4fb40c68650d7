"""Measuring before planning: two tiny lessons with each method give its seconds per step, per lesson and per image."""

import time
from collections.abc import Callable
from dataclasses import replace

from perdure.advise.design import Cost, Speed
from perdure.bases import reading
from perdure.drawing.evaluate import Tools
from perdure.errors import ModelError, PerdureError, PlanError, TrainingError
from perdure.plan import Plan
from perdure.run import pace

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
        own = plan.narrowed(choice)
        if len(costs) >= 2 and enough():
            known = costs.values()
            slowest = max(c.step for c in known), max(c.lesson for c in known)
            costs[choice.label] = Cost(*slowest, own.training.steps)
            continue
        tell(f"measuring {choice.label} ...")
        try:
            mine = replace(tools, plan=own)
            reading.accept([(own, ())])
            found = pace.measure(mine, clock, drawing=not images)
        except LEFT_OUT as error:
            failed[choice.label] = error
            continue
        images.append(found.image)
        costs[choice.label] = Cost(found.step, found.lesson, own.training.steps)
    if len(costs) < 2:
        raise next(iter(failed.values()))
    return Speed(costs, images[0]), {label: str(error) for label, error in failed.items()}
