"""How fast this machine is with a base: two tiny lessons with a method, timed. Nothing of them is kept."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from perdure.drawing.content import Known
from perdure.drawing.tools import Tools
from perdure.lineage.rows import Row
from perdure.plan import Plan
from perdure.plan.workload import lighter
from perdure.progress import silent
from perdure.run import drive

STEPS = 4
IMAGES = 2


@dataclass(frozen=True)
class Pace:
    """Seconds per training step, per lesson beside its steps and images, and per evaluation image."""

    step: float
    lesson: float
    image: float


def of(tools: Tools, clock: Callable[[], float] = time.perf_counter, drawing: bool = True) -> Pace:
    """The pace of the tools' plan, of one method; without `drawing` images take one step and tell nothing.

    Raises PerdureError where the method cannot run.
    """
    own = _tiny(tools.plan, drawing)
    with TemporaryDirectory(prefix="perdure-") as folder:
        return _timed(replace(tools, plan=own, watch=silent, known=Known()), Path(folder) / "tiny", clock)


def _tiny(plan: Plan, drawing: bool) -> Plan:
    """Two short lessons; one where the plan has but one concept."""
    own = lighter(plan, prompts=1, images=IMAGES if drawing else 1)
    sampling = own.sampling if drawing else own.sampling.model_copy(update={"steps": 1})
    training = own.training.model_copy(update={"steps": STEPS, "epochs": None})
    changed = {"training": training, "sampling": sampling, "concepts": own.concepts[:2], "order": None, "joint": False}
    return own.model_copy(update=changed)


def _timed(tools: Tools, folder: Path, clock: Callable[[], float]) -> Pace:
    """The pace of the last lesson: the one before it, where there is one, warms up."""
    lineage = drive.open_or_create(folder, tools.plan)
    drive.teach_plan(tools, lineage, lineage, upto=len(tools.plan.sequence) - 1)
    began = clock()
    drive.teach_plan(tools, lineage, lineage)
    whole = clock() - began
    row, name = lineage.lessons[-1], tools.plan.sequence[-1].name
    step = _step(lineage.lessons)
    spent = row.record["seconds"]["evaluate"] + _seconds(lineage.base_row, name) + STEPS * step
    return Pace(step, max(0.0, whole - spent), _seconds(row, name) / tools.plan.sampling.images_per_prompt)


def _step(rows: Sequence[Row]) -> float:
    """Median over steps; the first of a lesson is left out, since what the method prepares is logged with it."""
    steps = [log["seconds"] for row in rows for log in row.losses()[1:]]
    return float(median(steps)) if steps else 0.0  # nothing is trained


def _seconds(row: Row, name: str) -> float:
    cell = row.cell(name)
    return float(cell.record["seconds"]) if cell else 0.0
