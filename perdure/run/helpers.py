"""One run on several processes: what the first asks of the others, and how they answer."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from perdure.bases import loading
from perdure.bases.backbone import Backbone
from perdure.bases.loading import Base
from perdure.bases.processes import several
from perdure.drawing.tools import Tools
from perdure.errors import ModelError, PerdureError, TrainingError
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.plan import Plan

log = logging.getLogger(__name__)


def join() -> None:
    """The first process goes on; the others help it from here on, and end with it (SystemExit)."""
    processes = several()
    if processes.number == 0:
        return
    backbone: Any = None
    try:
        for function, values in processes.calls():
            if function in loading.LOADERS:
                backbone = function(*values)
            else:
                function(backbone, *values)
    except PerdureError as error:
        sys.exit(f"error: process {processes.number}: {error}")
    sys.exit(0)


def load(plan: Plan, device: str | None) -> Base:
    """The base of a plan, on every process. Raises ModelError, and PlanError for settings that the base cannot have."""
    join()
    processes = several()
    if processes.count > 1 and device not in (None, processes.device):
        raise ModelError(
            f"the launcher gave its {processes.count} processes {processes.device}, not {device}; leave out --device"
        )
    load, where = loading.how(plan, device)
    backbone = load(*where)
    for own in plan.runs:
        backbone.check(own.training, own.sampling)
        if isinstance(backbone, Backbone) and own.methods[0].card.words and not len(backbone.vocabulary):
            told = "method %s learns words, which base %s has no place for: token and noun stand for each concept"
            log.warning(told, own.methods[0].name, plan.base)
    if processes.count > 1:
        processes.call(load, *where)
        processes.helping = backbone
    return backbone


def words(plan: Plan) -> str:
    """How the work of a plan is spread, in words; nothing for one process."""
    count = several().count
    sizes = sorted({plan.narrowed(choice).training.batch_size for choice in plan.methods})
    uneven = [str(size) for size in sizes if size % count]
    if count == 1:
        return ""
    if not uneven:
        return f"{count} processes share out every training batch, and the drawing of images"
    return (
        f"{count} processes share out the drawing of images; the first trains alone where training.batch_size "
        f"({', '.join(uneven)}) is not divisible by {count}"
    )


@contextmanager
def learning(tools: Tools, memory: Memory, lesson: Lesson) -> Iterator[None]:
    """Training that the other processes join where they can share out its batches evenly; else they wait."""
    processes = tools.base.processes
    if not processes.available(tools.base) or tools.plan.training.batch_size % processes.count:
        yield
        return
    processes.call(help_learn, tools.plan, memory, _on(lesson, "cpu"))
    with processes.together():
        yield


def help_learn(backbone: Base, plan: Plan, memory: Memory, lesson: Lesson) -> None:
    """What another process does in a lesson: the same on its own rows of every batch. The first keeps the result."""
    tools = Tools(plan, backbone)
    backbone.gradient_checkpointing(plan.training.gradient_checkpointing)
    with suppress(TrainingError), backbone.processes.together():
        learn(backbone, tools.method, memory, _on(lesson, str(backbone.device)), plan)


def _on(lesson: Lesson, device: str) -> Lesson:
    """A lesson with its examples on a device."""
    return replace(lesson, examples=lesson.examples.on(device), prior=lesson.prior and lesson.prior.on(device))
