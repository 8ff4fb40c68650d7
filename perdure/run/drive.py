"""The whole story: a plan carried out lesson by lesson, and one more concept for a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perdure import memory as memories
from perdure import method as methods
from perdure import plan as plans
from perdure import progress
from perdure.analysis.analyse import after_run as compare_lessons
from perdure.bases import families, loading, reading
from perdure.bases.processes import several
from perdure.drawing import drift
from perdure.drawing.content import Known
from perdure.drawing.evaluate import score_later
from perdure.drawing.tools import Tools, record_concept
from perdure.errors import LineageError, PlanError
from perdure.lesson.brought import Brought, check, refuse
from perdure.lineage import Lineage, agreement, branching, history
from perdure.lineage.commons import Commons
from perdure.lineage.lineage import is_model
from perdure.lineage.rows import Cell, Row
from perdure.photos import pictures
from perdure.plan import Concept, Plan, yaml_file
from perdure.plan.choice import CLASSIFICATION
from perdure.progress import Watch, silent
from perdure.run import beside, helpers, teaching, trackers
from perdure.run.trackers import NOBODY, Tracker


def run(
    plan: Plan,
    out: Path,
    watch: Watch = silent,
    device: str | None = None,
    after_lesson: Callable[[], object] = lambda: None,
    track: Sequence[str] = (),
    tell: Callable[[Sequence[str]], object] = lambda notes: None,
    workers: int = 1,
) -> list[Lineage]:
    """Run a plan: one lineage per method below `out`, resumed where it stopped, and tracked. Raises PerdureError.

    `tell` is given what should be known of the plan's words before anything is taught, a sentence each; `workers`: how
    many methods are run side by side, in processes of their own with one thread each, if none is tracked.
    """
    trackers.check(track)
    if problems := pictures.check(plan.concepts, [plan]):
        raise PlanError(problems)
    if workers > 1 and len(plan.runs) > 1 and not track and several().count == 1:
        lineages = _opened(plan, out, tell)
        beside.carry_out(one, plan, out, workers, watch, device, after_lesson)
        Commons(out).forget()
        return lineages
    backbone = helpers.load(plan, device)
    tools = Tools(plan, backbone, watch, Known(Commons(out, len(plan.runs) > 1)))
    lineages = _opened(plan, out, tell)
    for own, lineage in zip(plan.runs, lineages, strict=True):
        named = progress.named(watch, own.methods[0].label) if len(plan.runs) > 1 else watch
        with trackers.following(track, own, lineage) as tracker:
            teach_plan(replace(tools, plan=own, watch=named), lineage, lineages[0], after_lesson, tracker=tracker)
    Commons(out).forget()
    return lineages


def one(
    plan: Plan, number: int, out: Path, device: str | None, watch: Watch, after_lesson: Callable[[], object]
) -> None:
    """One of a plan's runs by itself, whose lineages are there; its place among them is `number`, from 0."""
    own = plan.runs[number]
    first = lineage = Lineage(out / plan.runs[0].methods[0].label)
    if number:
        lineage = Lineage(out / own.methods[0].label)
    tools = Tools(own, helpers.load(own, device), watch, Known(Commons(out)))
    teach_plan(tools, lineage, first, after_lesson)


def _opened(plan: Plan, out: Path, tell: Callable[[Sequence[str]], object]) -> list[Lineage]:
    """The lineage of each run; what is refused is refused before anything is trained."""
    tell(reading.accept((own, _taught(out / own.methods[0].label)) for own in plan.runs))
    return [open_or_create(out / own.methods[0].label, own) for own in plan.runs]


def _taught(folder: Path) -> list[str]:
    """Names of the concepts that the lineage in a folder has been taught; none where there is no lineage."""
    return Lineage(folder).concepts if is_model(folder) else []


def open_or_create(folder: Path, plan: Plan) -> Lineage:
    """The lineage of a plan of one method: new, one that the same plan has begun, or one without any lesson."""
    identity = loading.known(plan)
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
    with agreement.writing(lineage):
        agreement.on_plan(Lineage(lineage.folder), plan)  # read again: taught, undone or begun anew since, perhaps
        lineage.write_plan(plan)
        for concept in plan.sequence:
            if concept.name in lineage.concepts:
                record_concept(tools, lineage, concept)  # refuses images that have changed
        if lineage is not first:
            branching.adopt_base_row(lineage, first)
        if plan.training.text_encoders == "drop":
            _read(tools)
        for number, concepts in enumerate(lessons[:upto], start=1):
            if number <= len(lineage.lessons):
                continue
            teaching.lesson(tools, lineage, concepts, plan.sequence, tracker=tracker, last=number == len(lessons))
            after_lesson()
        if len(lineage.lessons) == len(lessons):
            compare_lessons(lineage, families.reads_text(plan.base, plan.family))


def _read(tools: Tools) -> None:
    """Have the prompts of the whole plan read while the text encoders are there."""
    plan = tools.plan
    for concept in plan.sequence:
        tools.backbone.encode_prompts(list(dict.fromkeys(pictures.contents(concept).captions)))
        tools.backbone.encode_prompts(plan.prompts_for(concept))
    tools.backbone.encode_negative(plan.sampling.negative_prompt)


def teach(
    lineage: Lineage, concept: Concept, watch: Watch = silent, gate: float | None = None, device: str | None = None,
    tell: Callable[[Sequence[str]], object] = lambda notes: None, own: Mapping[str, Any] | None = None,
    brought: Brought | None = None, scoring: bool = True,
) -> Row:  # fmt: skip
    """Teach one more concept to a model. Raises GateRefused where an older concept falls by more than `gate`.

    `tell` is given what should be known of its words before it is taught. `own`: keys of `training` for this lesson
    alone, those that `plan.choice.LESSONS_OWN` names; sampling and scoring stay the model's, so that scores compare.
    `brought`: what was learnt of it elsewhere; nothing is trained then, and its pictures are what it is scored against.
    `scoring`: False leaves the scores to `score`.
    """
    if gate is not None and not scoring:
        raise PlanError("a gate needs scores: leave out --max-forgetting, or --no-scores")
    with agreement.writing(lineage):  # held while the base is loaded: what is read of the model stays true
        return _teach(lineage, concept, watch, gate, device, tell, dict(own or {}), brought, scoring)


def retry(
    lineage: Lineage, watch: Watch = silent, gate: float | None = None, device: str | None = None,
    tell: Callable[[Sequence[str]], object] = lambda notes: None, own: Mapping[str, Any] | None = None,
) -> Row:  # fmt: skip
    """Teach the refused lesson again from the same start, or else the one that was undone last.

    `own` goes on top of the settings that it had of its own; without a `gate` that of the refusal counts again. Raises
    GateRefused, and LineageError where there is no such lesson, or it taught no single concept.
    """
    with agreement.writing(lineage):
        row = history.again(lineage)
        if len(row.concepts) != 1:
            raise LineageError(f"{lineage.folder}: lesson {row.number} ({row.name}) taught no single concept")
        if file := row.record.get("brought", {}).get("file"):
            raise LineageError(
                f"{lineage.folder}: lesson {row.number} was not trained here; teach it --from {file} again"
            )
        settings = yaml_file.merge(row.record.get("training", {}), dict(own or {}))
        refusal = row.record.get("refusal")
        bound = refusal["gate"] if gate is None and refusal else gate
        return _teach(lineage, lineage.concept(row.concepts[0]), watch, bound, device, tell, settings)


def _teach(
    lineage: Lineage, concept: Concept, watch: Watch, gate: float | None, device: str | None,
    tell: Callable[[Sequence[str]], object], own: Mapping[str, Any], brought: Brought | None = None,
    scoring: bool = True,
) -> Row:  # fmt: skip
    if gate is not None and any(cell is not None and not cell.scores for cell in _last_cells(lineage)):
        raise LineageError(
            f"{lineage.folder} has pictures without scores, which a gate needs; `perdure score {lineage.folder}` first"
        )
    known = lineage.plan()
    data = {**known.model_dump(by_alias=True), "concepts": [*known.concepts, concept]}
    plan = plans.build(data, where="teach", new=False)
    taught = teaching.with_training(plan, own)
    if problems := pictures.check([concept], [taught]):
        raise PlanError(problems)
    if brought is not None:
        refuse(plan.methods[0].name, methods.of(plan.methods[0]))
    agreement.on_base(lineage, loading.known(plan))
    tools = Tools(taught, helpers.load(taught, device), watch, scoring=scoring)
    tell(reading.accept([(plan, lineage.concepts)]))
    if brought is not None:
        check(tools.backbone, brought)  # before anything is drawn
    row = teaching.lesson(tools, lineage, (concept,), gate=gate, own=own, brought=brought)
    lineage.write_plan(plan)
    return row


def _last_cells(lineage: Lineage) -> list[Cell | None]:
    return [row.cell(name) for row in lineage.lessons[-1:] for name in lineage.concepts]


def score(lineage: Lineage, watch: Watch = silent, device: str | None = None) -> int:
    """Score what was drawn without scorers; how many cells. Raises ImageError where a concept's photos are gone."""
    with agreement.writing(lineage):
        plan = lineage.plan()
        if plan.task == CLASSIFICATION:
            return 0  # what pictures are taken for is told as they are looked at
        agreement.on_base(lineage, loading.known(plan))
        tools = Tools(plan, helpers.load(plan, device), watch)
        taught: list[Concept] = []
        count = 0
        for row in lineage.rows:
            taught += map(lineage.concept, row.concepts)
            count += sum(score_later(tools, lineage, concept, row, taught) for concept in plan.concepts)
            if row.number:
                drift.record(tools, lineage, memories.load(row.memory, lineage.store), row.folder)
    return count
