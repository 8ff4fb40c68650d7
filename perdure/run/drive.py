"""The whole story: a plan carried out lesson by lesson, and one more concept for a model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from perdure import plan as plans
from perdure.analysis.analyse import after_run as compare_lessons
from perdure.bases import loading, reading
from perdure.drawing.evaluate import Tools, record_concept
from perdure.errors import PlanError
from perdure.lineage import Lineage, agreement, branching
from perdure.lineage.lineage import is_model
from perdure.lineage.rows import Row
from perdure.photos import pictures
from perdure.plan import Concept, Plan
from perdure.progress import Watch, silent
from perdure.run import helpers, teaching, trackers
from perdure.run.trackers import NOBODY, Tracker


def run(
    plan: Plan,
    out: Path,
    watch: Watch = silent,
    device: str | None = None,
    after_lesson: Callable[[], object] = lambda: None,
    track: Sequence[str] = (),
    tell: Callable[[Sequence[str]], object] = lambda notes: None,
) -> list[Lineage]:
    """Run a plan: one lineage per method below `out`, resumed where it stopped, and tracked. Raises PerdureError.

    `tell` is given what should be known of the plan's words before anything is taught, a sentence each.
    """
    trackers.check(track)
    if problems := pictures.check(plan.concepts, [plan]):
        raise PlanError(problems)
    backbone = helpers.load(plan, device)
    tools = Tools(plan, backbone, watch)
    each = [replace(tools, plan=own) for own in plan.runs]
    tell(reading.accept((own, _taught(out / own.methods[0].label)) for own in plan.runs))
    lineages = [open_or_create(out / own.plan.methods[0].label, own.plan) for own in each]  # refusals before training
    for own, lineage in zip(each, lineages, strict=True):
        with trackers.following(track, own.plan, lineage) as tracker:
            teach_plan(own, lineage, lineages[0], after_lesson, tracker=tracker)
    return lineages


def _taught(folder: Path) -> list[str]:
    """Names of the concepts that the lineage in a folder has been taught; none where there is no lineage."""
    return Lineage(folder).concepts if is_model(folder) else []


def open_or_create(folder: Path, plan: Plan) -> Lineage:
    """The lineage of a plan of one method: new, one that the same plan has begun, or one without any lesson."""
    identity = loading.identity(plan.base, plan.vae)
    if is_model(folder):
        lineage = Lineage(folder)
        if not lineage.lessons:
            return branching.renewed(lineage, plan, identity, loading.versions())
        agreement.on_plan(lineage, plan)
        agreement.on_base(lineage, identity)
        return lineage
    return Lineage.create(folder, plan, identity, loading.versions())


def teach_plan(
    tools: Tools,
    lineage: Lineage,
    first: Lineage,
    after_lesson: Callable[[], object] = lambda: None,
    upto: int | None = None,
    tracker: Tracker = NOBODY,
) -> None:
    """Teach what the plan wants and the lineage has not learnt, up to so many lessons; the base's row is `first`'s."""
    plan = tools.plan
    lessons = [plan.sequence] if plan.joint else [(concept,) for concept in plan.sequence]
    with lineage.locked():
        agreement.on_plan(Lineage(lineage.folder), plan)  # read again: taught, undone or begun anew since, perhaps
        lineage.write_plan(plan)
        for concept in plan.sequence:
            if concept.name in lineage.concepts:
                record_concept(tools, lineage, concept)  # refuses images that have changed
        if lineage is not first:
            branching.adopt_base_row(lineage, first)
        for number, concepts in enumerate(lessons[:upto], start=1):
            if number <= len(lineage.lessons):
                continue
            teaching.lesson(tools, lineage, concepts, plan.sequence, tracker=tracker, last=number == len(lessons))
            after_lesson()
        if len(lineage.lessons) == len(lessons):
            compare_lessons(lineage)


def teach(
    lineage: Lineage, concept: Concept, watch: Watch = silent, gate: float | None = None, device: str | None = None,
    tell: Callable[[Sequence[str]], object] = lambda notes: None,
) -> Row:  # fmt: skip
    """Teach one more concept to a model. Raises GateRefused where an older concept falls by more than `gate`.

    `tell` is given what should be known of its words before it is taught.
    """
    with lineage.locked():  # held while the base is loaded: what is read of the model stays true
        known = lineage.plan()
        data = {**known.model_dump(by_alias=True), "concepts": [*known.concepts, concept]}
        plan = plans.build(data, where="teach", new=False)
        if problems := pictures.check([concept], [plan]):
            raise PlanError(problems)
        agreement.on_base(lineage, loading.identity(plan.base, plan.vae))
        tools = Tools(plan, helpers.load(plan, device), watch)
        tell(reading.accept([(plan, lineage.concepts)]))
        row = teaching.lesson(tools, lineage, (concept,), gate=gate)
        lineage.write_plan(plan)
    return row
