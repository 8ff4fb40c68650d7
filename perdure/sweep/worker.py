"""One stretch carried out, in whatever process: the base model is loaded once and kept for the next stretch."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from perdure.bases import loading
from perdure.bases.loading import Base
from perdure.drawing import evaluate
from perdure.drawing.content import Known
from perdure.drawing.tools import Tools, record_concept
from perdure.errors import PerdureError
from perdure.lineage import Lineage, branching
from perdure.lineage.commons import Commons
from perdure.memory import Memory
from perdure.plan import workload
from perdure.run import drive, pace
from perdure.sweep import places
from perdure.sweep.engine import BUSY
from perdure.sweep.status import Paces, Spent
from perdure.sweep.tree import BASE, Stretch


@lru_cache(maxsize=1)
def _base(load: Callable[..., Base], where: tuple[Any, ...]) -> Base:
    return load(*where)


@lru_cache(maxsize=1)
def _known(root: Path) -> Known:
    """What the runs of a sweep have drawn."""
    return Known(Commons(root))


def carry_out(stretch: Stretch, device: str | None = None) -> str | None:
    """Do a stretch; None when it is done, else why not, in a sentence."""
    with places.claimed(stretch.root, stretch.run) as mine:
        if not mine:
            return BUSY
        try:
            _do(stretch, device)
        except PerdureError as error:
            return str(error)
    return None


def paces(stretches: Iterable[Stretch], device: str | None = None) -> Paces:
    """Try out each method, once: what a lesson would cost here. A method that cannot run is left out.

    An image is timed with the first, for it takes all methods about as long.
    """
    found: Paces = {}
    image: float | None = None
    for stretch in stretches:
        method = (stretch.axes or {}).get("method", "")
        if not method or method in found:
            continue
        try:
            one = pace.of(_tools(stretch, device), drawing=image is None)
        except PerdureError:
            continue  # its run will say so
        steps, image = workload.lengths(stretch.plan)[0], one.image if image is None else image
        found[method] = Spent(one.lesson + steps * one.step, steps, image, 1)
    return {**found, "": sum(found.values(), Spent())}


def _tools(stretch: Stretch, device: str | None) -> Tools:
    plan = stretch.plan
    return Tools(plan, _base(*loading.how(plan, device)), known=_known(stretch.root))


def _do(stretch: Stretch, device: str | None) -> None:
    if stretch.donor and not (stretch.folder / "lineage.json").is_file():
        branching.branch(Lineage(stretch.donor), stretch.folder, stretch.plan, stretch.begin)
    lineage = drive.open_or_create(stretch.folder, stretch.plan)
    tools = _tools(stretch, device)
    if stretch.lessons == BASE:
        draw_base(tools, lineage, _others(stretch.folder))
        return
    places.record(stretch.folder, stretch.axes or {}, stretch.plan.fingerprint())
    drive.teach_plan(tools, lineage, Lineage(stretch.base) if stretch.base else lineage, upto=stretch.lessons)


def _others(folder: Path) -> Iterable[Lineage]:
    """The other lineages of the untouched base: what they have drawn alike is not drawn again."""
    marks = sorted(folder.parent.parent.glob("*/model/lineage.json"))
    return [Lineage(mark.parent) for mark in marks if mark.parent != folder]


def draw_base(tools: Tools, lineage: Lineage, others: Iterable[Lineage] = ()) -> None:
    """Row 0 alone: every concept as the untouched base draws it, taken from other lineages where they have it."""
    with lineage.locked():
        for other in others:
            branching.adopt_base_row(lineage, other)
        for concept in tools.plan.sequence:
            record_concept(tools, lineage, concept)  # drops what was taken of another concept by that name
            evaluate.row(tools, lineage, Memory(), [concept], {}, lineage.base_row)
