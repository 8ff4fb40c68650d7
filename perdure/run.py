"""The whole story: for each concept, teach it, then draw and score everything learnt so far."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from perdure import agreement, drift, examples, files, pictures, sample, sharing, soundness, spread, trackers
from perdure import memory as memories
from perdure import plan as plans
from perdure.analysis.analyse import after_run as compare_lessons
from perdure.backbones import loading
from perdure.errors import GateRefused, PlanError, TrainingError
from perdure.evaluate import Tools, evaluate, record_concept
from perdure.examples import Examples
from perdure.lineage import Lineage, Row
from perdure.memory import Memory
from perdure.pictures import Picture
from perdure.plan import JOINT, Concept, Plan, describe, fingerprint
from perdure.progress import Watch, silent
from perdure.train import REVISION, Lesson, learn, steps_done


def run(
    plan: Plan,
    out: Path,
    watch: Watch = silent,
    device: str | None = None,
    after_lesson: Callable[[], object] = lambda: None,
    track: Sequence[str] = (),
) -> list[Lineage]:
    """Run a plan: one lineage per method below `out`, resumed where it stopped, and tracked. Raises PerdureError."""
    trackers.check(track)
    if problems := pictures.check(plan.concepts, [plan]):
        raise PlanError(problems)
    backbone = spread.load(plan, device)
    tools = Tools(plan, backbone, watch)
    each = [replace(tools, plan=own) for own in (*map(plan.narrowed, plan.methods), *([plan.joined()] * plan.joint))]
    for own in each:
        own.check_tokens()
    lineages = [open_or_create(out / own.plan.methods[0].label, own.plan) for own in each]  # refusals before training
    for own, lineage in zip(each, lineages, strict=True):
        with trackers.following(track, own.plan, lineage) as tracker:
            teach_plan(replace(own, tracker=tracker), lineage, lineages[0], after_lesson)
    return lineages


def open_or_create(folder: Path, plan: Plan) -> Lineage:
    """The lineage of a plan of one method: new, one that the same plan has begun, or one without any lesson."""
    identity = loading.identity(plan.base, plan.vae)
    if soundness.is_model(folder):
        lineage = Lineage(folder)
        if not lineage.lessons:
            return sharing.renewed(lineage, plan, identity, loading.versions())
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
            sharing.adopt_base_row(lineage, first)
        for concepts in lessons[len(lineage.lessons) : upto]:
            _lesson(tools, lineage, concepts, unseen=plan.sequence, gate=None)
            after_lesson()
        if len(lineage.lessons) == len(lessons):
            compare_lessons(lineage)


def teach(
    lineage: Lineage, concept: Concept, watch: Watch = silent, gate: float | None = None, device: str | None = None
) -> Row:
    """Teach one more concept to a model. Raises GateRefused where an older concept falls by more than `gate`."""
    with lineage.locked():  # held while the base is loaded: what is read of the model stays true
        known = lineage.plan()
        data = {**known.model_dump(by_alias=True), "concepts": [*known.concepts, concept]}
        plan = plans.build(data, where="teach", new=False)
        if problems := pictures.check([concept], [plan]):
            raise PlanError(problems)
        agreement.on_base(lineage, loading.identity(plan.base, plan.vae))
        tools = Tools(plan, spread.load(plan, device), watch)
        tools.check_tokens()
        row = _lesson(tools, lineage, (concept,), unseen=(), gate=gate)
        lineage.write_plan(plan)
    return row


def _lesson(
    tools: Tools, lineage: Lineage, concepts: tuple[Concept, ...], unseen: Sequence[Concept], gate: float | None
) -> Row:
    """One lesson from first image to commit; what a killed run has finished of it is kept."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    rows = lineage.lessons
    number = len(rows) + 1
    name = concepts[0].name if len(concepts) == 1 else JOINT
    lesson_of = {taught: row.name for row in rows for taught in row.concepts} | {c.name: name for c in concepts}
    later = [c for c in unseen if c.name not in lesson_of] if tools.plan.sampling.unseen else []
    for concept in (*concepts, *later):
        record_concept(tools, lineage, concept)
    for concept in concepts:
        evaluate(tools, lineage, concept, Memory(), concept.name, lineage.base_row.folder / "cells" / concept.name)
    staged = lineage.stage(number, name, _begun(tools, rows, concepts))
    keep = {c.name for c in unseen}
    if not staged.memory.is_file():
        before = memories.load(rows[-1].memory, lineage.store) if rows else Memory()
        try:
            after = _learn(tools, staged, before, number, name, concepts)
        except TrainingError:
            lineage.discard(staged, keep)
            raise
        memories.save(after, staged.memory, lineage.store)
    after = memories.load(staged.memory, lineage.store)  # drawn from what is on disk, never from live weights
    started = time.perf_counter()
    taught = [*map(lineage.concept, lineage.concepts), *concepts]
    for concept in (*taught, *later):
        called = lesson_of.get(concept.name, concept.name)
        evaluate(tools, lineage, concept, after, called, staged.folder / "cells" / concept.name, taught)
    drift.record(tools, lineage, after, staged.folder)
    if gate is not None and rows:
        _check_gate(lineage, rows[-1], staged, gate)
    _write_record(tools, lineage, staged, after, concepts, time.perf_counter() - started)
    done = lineage.commit(staged, keep)
    tools.tracker.lesson(lineage, done)
    return done


def _begun(tools: Tools, rows: Sequence[Row], concepts: tuple[Concept, ...]) -> str:
    """Fingerprint of all that a lesson starts from: the memory before it, and what is to be learnt."""
    before = rows[-1].record["memory"] if rows else ""
    return fingerprint([before, [[describe(c), tools.sketch(c).facts["digest"]] for c in concepts]])


def _learn(tools: Tools, staged: Row, memory: Memory, number: int, name: str, concepts: tuple[Concept, ...]) -> Memory:
    """Encode, train, log."""
    plan = tools.plan
    parts = [
        examples.encode(tools.backbone, tools.pictures(c).training, plan.training, plan.seed, c.name) for c in concepts
    ]
    first, own, prior = concepts[0], examples.together(parts), _prior(tools, concepts)
    lesson = Lesson(name, number, own, first.token, first.noun, first.phrase, prior, concepts[1:])
    checkpoint = staged.folder / "checkpoint.safetensors"
    done = steps_done(checkpoint)
    kept = [row for row in staged.losses() if row["step"] <= done]
    files.write_text(staged.log, "".join(json.dumps(row) + "\n" for row in kept))
    tools.backbone.gradient_checkpointing(plan.training.gradient_checkpointing)
    progress = tools.watch(f"lesson {number} {name}", plan.training.steps)
    with progress as advance:
        advance(done, "")
        clock = time.perf_counter()

        def watch(step: int, loss: float, rate: float) -> None:
            nonlocal clock
            now = time.perf_counter()
            row = {"step": step, "loss": round(loss, 6), "rate": rate, "seconds": round(now - clock, 4)}
            files.append_json(staged.log, row)  # at once, so that a kill loses no step that the checkpoint holds
            tools.tracker.step(number, step, loss, rate)
            advance(1, f"loss {loss:.4f}  {1 / max(now - clock, 1e-9):.1f} steps/s")
            clock = now

        with spread.learning(tools, memory, lesson):
            after = learn(tools.backbone, tools.method, memory, lesson, plan, watch, checkpoint)
    checkpoint.unlink(missing_ok=True)
    return after


def _prior(tools: Tools, concepts: tuple[Concept, ...]) -> Examples | None:
    """Class images drawn by the untouched base, encoded: prior preservation (Ruiz et al. 2023)."""
    prior = tools.plan.training.prior
    if prior is None:
        return None
    sampling = tools.plan.sampling
    each = sampling.model_copy(update={"images_per_prompt": prior.images, "seed": sampling.seed + 1})
    drawn: list[Picture] = []
    for prompt in dict.fromkeys(prior.prompt.replace("{class}", concept.noun) for concept in concepts):
        with tools.watch(f"drawing {prior.images} x {prompt!r}", prior.images) as advance:
            images = sample.draw(tools.backbone, [prompt], each, tools.plan.training.resolution, advance)
        drawn += [Picture(image, prompt) for image in images]
    return examples.encode(tools.backbone, drawn, tools.plan.training, tools.plan.seed, "prior")


def _check_gate(lineage: Lineage, before: Row, staged: Row, gate: float) -> None:
    """Refuse the staged lesson if a concept's first measure fell by more than `gate`."""
    fallen = []
    for name in lineage.concepts:
        old, new = before.cell(name), staged.cell(name)
        if old is None or new is None:
            continue
        measure = next(iter(old.scores))
        drop = old.scores[measure] - new.scores[measure]
        if old.record["measures"][measure]["direction"] == "lower":
            drop = -drop
        if drop > gate:
            fallen.append(f"{name} fell from {old.scores[measure]:.3f} to {new.scores[measure]:.3f} ({measure})")
    if fallen:
        lineage.discard(staged)
        told = "; ".join(fallen)
        raise GateRefused(f"lesson refused, the model is unchanged: {told}; the gate allows a drop of {gate:g}")


def _write_record(
    tools: Tools, lineage: Lineage, staged: Row, memory: Memory, concepts: tuple[Concept, ...], evaluating: float
) -> None:
    """The lesson's facts, last of all."""
    losses = staged.losses()
    earlier = set().union(*(memories.packs_of(row.memory) for row in lineage.lessons)) if lineage.lessons else set()
    new = memories.packs_of(staged.memory) - earlier
    files.write_json(
        staged.folder / "lesson.json",
        {
            "concepts": [c.name for c in concepts],
            "method": tools.plan.methods[0].model_dump(mode="json"),
            "steps": len(losses),
            "seconds": {"train": round(sum(row["seconds"] for row in losses), 2), "evaluate": round(evaluating, 2)},
            "knows": tools.method.consolidate.knows,
            "strict": tools.method.consolidate.strict,
            "carries": memory.bytes_by_name(),
            "bytes": {"carried": memory.nbytes, "stored": files.size_of(lineage.store / pack for pack in new)},
            "peak_memory": loading.peak_memory(tools.backbone.device),
            "final_loss": losses[-1]["loss"] if losses else None,
            "memory": memory.digest,
            "device": str(tools.backbone.device),
            "precision": tools.plan.training.precision,
            "fingerprint": tools.plan.fingerprint(),
            "versions": loading.versions(),
            "revision": REVISION,
        },
    )
