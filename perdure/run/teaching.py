"""One lesson, from its first picture to the commit: teach, then draw and score everything learnt so far."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from perdure import files
from perdure import memory as memories
from perdure.bases import loading, spending
from perdure.bases.classifier import Classifier
from perdure.drawing import evaluate, sample, scenes
from perdure.drawing.draw import side_by_side
from perdure.drawing.tools import Tools, record_concept
from perdure.errors import GateRefused, TrainingError
from perdure.lesson import examples, trained
from perdure.lesson.brought import Brought, bring
from perdure.lesson.examples import Encoded
from perdure.lesson.optimizing import steps_done
from perdure.lesson.train import REVISION, Done, Lesson, Preview, learn, timed
from perdure.lineage import Lineage, history
from perdure.lineage.commons import taken_over
from perdure.lineage.rows import Row, taught_by
from perdure.memory import Memory
from perdure.photos.pictures import Picture
from perdure.plan import JOINT, Concept, Plan, build, describe, fingerprint, yaml_file
from perdure.progress import Advance
from perdure.report import sheet, states
from perdure.run import harm, helpers
from perdure.run.trackers import NOBODY, Tracker


def lesson(
    tools: Tools, lineage: Lineage, concepts: tuple[Concept, ...], unseen: Sequence[Concept] = (),
    gate: float | None = None, tracker: Tracker = NOBODY, last: bool = True, own: Mapping[str, Any] | None = None,
    brought: Brought | None = None,
) -> Row:  # fmt: skip
    """One lesson from first image to commit; what a killed run has finished of it is kept.

    unseen: concepts that may be drawn before they are taught; gate: the most that an older one may fall; last: whether
    none is planned after it; own: `training` of this lesson alone; brought: what was learnt elsewhere, instead of
    training. Raises GateRefused (it is set aside), PerdureError.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    rows = lineage.lessons
    number = len(rows) + 1
    name = concepts[0].name if len(concepts) == 1 else JOINT
    known = {*lineage.concepts, *(c.name for c in concepts)}
    later = [c for c in unseen if c.name not in known] if tools.plan.sampling.unseen else []
    _draw_before(tools, lineage, concepts, later, gate is not None)
    staged = lineage.stage(number, name, _begun(tools, rows, concepts, {**(own or {}), **_origin(brought)}))
    keep = {c.name for c in unseen}
    if not staged.memory.is_file():
        before = memories.load(rows[-1].memory, lineage.store) if rows else Memory()
        try:
            after = learn_lesson(tools, staged, before, concepts, tracker, brought, lineage)
        except TrainingError:
            lineage.discard(staged, keep)
            raise
        memories.save(after, staged.memory, lineage.store)
    after = memories.load(staged.memory, lineage.store)  # drawn from what is on disk, never from live weights
    started = time.perf_counter()
    _score(tools, lineage, staged, after, concepts, later, last or tools.plan.sampling.rows == "all")
    noted = harm.noted(tools, lineage, staged, gate)
    more = {**noted, "training": dict(own or {}), **_origin(brought)}
    write_record(tools, lineage, staged, after, concepts, started, more)
    if "refusal" in noted:
        raise _refused(lineage, staged, **noted["refusal"])
    done = lineage.commit(staged, keep)
    tracker.lesson(lineage, done)
    return done


def _origin(brought: Brought | None) -> dict[str, Any]:
    """What the record says of a lesson that was learnt elsewhere."""
    return {} if brought is None else {"brought": dict(brought.facts)}


def _score(
    tools: Tools, lineage: Lineage, staged: Row, memory: Memory, concepts: Sequence[Concept], later: Sequence[Concept],
    whole: bool,
) -> None:  # fmt: skip
    """Draw and score every concept learnt so far and those that come `later`; only what it taught if not `whole`."""
    lesson_of = _lesson_of(lineage.lessons) | {c.name: staged.name for c in concepts}
    taught = [*map(lineage.concept, lineage.concepts), *concepts]
    drawn = (*taught, *later) if whole else concepts
    evaluate.row(tools, lineage, memory, drawn, lesson_of, staged, taught, whole)


def _draw_before(
    tools: Tools, lineage: Lineage, concepts: Sequence[Concept], later: Sequence[Concept], gated: bool
) -> None:
    """Record the lesson's concepts and draw them by the base; for a gate, what the last lesson's row has left out."""
    scenes.prepare(tools)
    for concept in (*concepts, *later):
        record_concept(tools, lineage, concept)
    evaluate.row(tools, lineage, Memory(), concepts, {}, lineage.base_row)
    taught, lesson_of = [*map(lineage.concept, lineage.concepts)], _lesson_of(lineage.lessons)
    if gated and taught and any((row := lineage.lessons[-1]).cell(concept.name) is None for concept in taught):
        memory = memories.load(row.memory, lineage.store)
        evaluate.row(tools, lineage, memory, taught, lesson_of, row, taught)


def _lesson_of(rows: Sequence[Row]) -> dict[str, str]:
    """Concept -> the name of the lesson that taught it."""
    return {name: row.name for name, row in taught_by(rows).items()}


def with_training(plan: Plan, own: Mapping[str, Any]) -> Plan:
    """A model's plan with the training settings that one lesson has of its own. Raises PlanError."""
    data = plan.model_dump(by_alias=True)
    merged = yaml_file.merge(data["training"], own)
    return build({**data, "training": merged}, where="--set", new=False) if own else plan


def _begun(tools: Tools, rows: Sequence[Row], concepts: tuple[Concept, ...], own: Mapping[str, Any]) -> str:
    """Fingerprint of all that a lesson starts from: the memory before it, what is to be learnt, settings of its own."""
    before = rows[-1].record["memory"] if rows else ""
    learnt = [[describe(c), tools.sketch(c).facts["digest"]] for c in concepts]
    return fingerprint([before, learnt, *([dict(own)] if own else [])])


def learn_lesson(
    tools: Tools, staged: Row, memory: Memory, concepts: tuple[Concept, ...], tracker: Tracker, brought: Brought | None,
    lineage: Lineage | None = None,
) -> Memory:  # fmt: skip
    """Encode, train, log; or take what was learnt elsewhere, or trained in another lineage than this one."""
    plan, number, name = tools.plan, staged.number, staged.name
    lesson = lesson_of(tools, number, name, concepts, brought is None)
    if brought is not None:
        return bring(tools.backbone, tools.method, memory, lesson, plan, brought)
    plan = timed(plan, len(lesson.examples))
    checkpoint = staged.folder / "checkpoint.safetensors"
    done = steps_done(checkpoint)
    kept = [row for row in staged.losses() if row["step"] <= done]
    files.write_text(staged.log, "".join(json.dumps(row) + "\n" for row in kept))
    tools.base.gradient_checkpointing(plan.training.gradient_checkpointing)
    with tools.watch(f"lesson {number} {name}", plan.training.steps) as advance:
        advance(done, "")
        told = _Told(staged, tracker, advance)
        preview = _previews(tools, staged, concepts, told)
        with helpers.learning(tools, memory, lesson):
            after = learn(
                tools.base, tools.method, memory, lesson, plan, told.step, checkpoint, preview,
                lambda cost: files.write_json(_cost_file(staged), asdict(cost)),
                trained.beside(tools.known.commons, lineage, staged, told.again),
            )  # fmt: skip
    checkpoint.unlink(missing_ok=True)
    return after


class _Told:
    """What is told of the steps of a lesson: a line of its log each, the tracker, the bar."""

    def __init__(self, staged: Row, tracker: Tracker, advance: Advance) -> None:
        self._staged, self._tracker, self._advance = staged, tracker, advance
        self.go_on()

    def go_on(self) -> None:
        """Count the seconds of the next step from here on."""
        self._clock = time.perf_counter()

    def step(self, step: Done) -> None:
        """A step was taken."""
        seconds = time.perf_counter() - self._clock
        parts = {name: float(f"{part:.6g}") for name, part in step.parts.items()}
        row = {
            "step": step.step, "loss": round(step.loss, 6), "parts": parts, "rate": step.rate,
            "seconds": round(seconds, 4),
        }  # fmt: skip
        files.append_json(self._staged.log, row)  # at once, so that a kill loses no step that the checkpoint holds
        self._tracker.step(self._staged.number, step)
        self._advance(1, f"loss {step.loss:.4f}  {1 / max(seconds, 1e-9):.1f} steps/s")
        self.go_on()

    def again(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Steps were taken in another lineage, whose log is there."""
        for row in rows:
            self._tracker.step(self._staged.number, Done(row["step"], row["loss"], row["parts"], row["rate"]))
            self._advance(1, f"loss {row['loss']:.4f}")


def _previews(tools: Tools, staged: Row, concepts: tuple[Concept, ...], told: _Told) -> Preview | None:
    """What draws the concepts being learnt, as `training.preview` says, from the live weights and words."""
    asked, plan = tools.plan.training.preview, tools.plan
    if asked is None:
        return None
    templates = {c.name: asked.prompts or (c.prompts or getattr(plan.sampling.prompts, c.kind))[:1] for c in concepts}
    prompts = [t.replace("{concept}", concept.phrase) for concept in concepts for t in templates[concept.name]]
    sampling = plan.sampling.model_copy(update={"images_per_prompt": asked.images})

    @torch.no_grad()
    def preview(step: int) -> None:
        with suppress(TrainingError):  # what is no picture yet may become one; the loss tells where it does not
            images = sample.draw(tools.backbone, prompts, sampling, tools.side)
            files.write_png(staged.folder / "previews" / f"{step:06d}.png", side_by_side(images))
        told.go_on()

    return preview


def _cost_file(staged: Row) -> Path:
    """What consolidating cost, until the lesson's record says it: a run that is killed while drawing goes on."""
    return staged.folder / "fusing.json"


def lesson_of(tools: Tools, number: int, name: str, concepts: tuple[Concept, ...], trained: bool = True) -> Lesson:
    """What is to be learnt, encoded, and rehearsed where it is `trained`: pictures, or a classifier's classes."""
    plan, first = tools.plan, concepts[0]
    if isinstance(tools.base, Classifier):
        tasks = [examples.encode_classes(tools.base, tools.pictures(c).training, plan.training) for c in concepts]
        new = {concept.name: concept.classes for concept in concepts}
        return Lesson(name, number, examples.together_classes(tasks), others=concepts[1:], classes=new)
    parts = [
        examples.encode(tools.base, tools.pictures(c).training, plan.training, plan.seed, c.name) for c in concepts
    ]
    own, prior = examples.together(parts), _prior(tools, concepts) if trained else None
    return Lesson(name, number, own, first.token, first.noun, first.phrase, prior, concepts[1:])


def _prior(tools: Tools, concepts: tuple[Concept, ...]) -> Encoded | None:
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


def _refused(lineage: Lineage, staged: Row, told: Sequence[str], gate: float) -> GateRefused:
    """Set a lesson aside with a sheet of every concept before and after it; the refusal in words."""
    name = lineage.folder
    sheet.draw(states.of_lesson(lineage, lineage.rows[-1], staged), staged.folder / states.FILE)
    kept = history.refuse(lineage, staged)
    return GateRefused(
        f"lesson refused, the model is unchanged: {'; '.join(told)}; the gate allows a drop of {gate:g}. "
        f"It is kept beside the model until the next lesson, with its pictures ({kept.folder / states.FILE}): "
        f"`perdure accept {name}` takes it all the same, `perdure retry {name} --set training.steps=N` teaches it "
        f"again from the same start, `perdure drop {name}` drops it"
    )


def write_record(
    tools: Tools, lineage: Lineage, staged: Row, memory: Memory, concepts: tuple[Concept, ...], started: float,
    more: Mapping[str, Any],
) -> None:  # fmt: skip
    """The lesson's facts, last of all; `started`: when its scoring was."""
    losses, spared = staged.losses(), [cell.record.get("shared", {}).get("spared", 0.0) for cell in staged.drawn]
    evaluating, shared = time.perf_counter() - started + sum(spared), taken_over(staged, losses)
    new = staged.packs.difference(*(row.packs for row in lineage.lessons))
    files.write_json(
        staged.folder / "lesson.json",
        {
            "concepts": [c.name for c in concepts],
            "method": tools.plan.methods[0].model_dump(mode="json"),
            "steps": len(losses),
            "seconds": {"train": round(sum(row["seconds"] for row in losses), 2), "evaluate": round(evaluating, 2)},
            "fusing": files.read_json(_cost_file(staged)) if _cost_file(staged).is_file() else {},
            "knows": tools.method.consolidate.knows,
            "strict": tools.method.consolidate.strict,
            "carries": memory.bytes_by_name(),
            "bytes": {"carried": memory.nbytes, "stored": files.size_of(lineage.store / pack for pack in new)},
            "peak_memory": spending.peak_memory(tools.base.device),
            "final_loss": losses[-1]["loss"] if losses else None,
            "memory": memory.digest,
            "device": str(tools.base.device),
            "precision": tools.plan.training.precision,
            "compiled": tools.plan.performance.compile_training,
            "fingerprint": tools.plan.fingerprint(),
            "versions": loading.versions(),
            "revision": REVISION,
            **({"shared": shared} if shared else {}),
            **more,
        },
    )
    _cost_file(staged).unlink(missing_ok=True)
