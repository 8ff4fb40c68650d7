"""One lesson: memory(t - 1) and a concept's examples in, memory(t) out. The loop fits on a screen."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from perdure import seeds
from perdure.bases import spending
from perdure.bases.backbone import Backbone
from perdure.bases.classifier import Classifier
from perdure.bases.loading import Base
from perdure.bases.processes import clip
from perdure.bases.spending import Cost
from perdure.bases.words import LiveWord, words_of
from perdure.errors import TrainingError
from perdure.lesson import optimizing, trained
from perdure.lesson.classes import ClassLesson
from perdure.lesson.examples import ONE_SIZE, Bucketed, ClassExamples, Draw, Encoded
from perdure.lesson.model import LessonModel
from perdure.lesson.trained import Trained
from perdure.memory import Memory
from perdure.method import Adapter, Context, Method, Protection, Spec, Step, Wanted, Word, WordSpec
from perdure.plan import Concept, Plan, Training, tasks

Lived = LessonModel | ClassLesson
"""The model in the middle of a lesson of either kind."""
REVISION = 3
"""Raised when the same plan teaches or measures otherwise than before; `report/rules.py` has a sentence about it."""


@dataclass(frozen=True)
class Done:
    """A step that was taken: how many are done, its loss, what that is the sum of by name, its learning rate."""

    step: int
    loss: float
    parts: Mapping[str, float]
    """`denoising`, `prior` where class images are rehearsed, and each penalty of the guard."""
    rate: float


OnStep = Callable[[Done], None]
"""Called after each step."""
Preview = Callable[[int], None]
"""(steps done) -> looks at the model as it is after them, where it wants to."""
BEHIND = ("cuda",)
"""Kinds of device that are told to go on with the next step before it is known how the last one went."""


@dataclass(frozen=True)
class Lesson:
    """What is to be learnt: the concept's name and words, the lesson's number from 1, its encoded examples."""

    concept: str
    number: int
    examples: Encoded | ClassExamples
    token: str = ""
    noun: str = ""
    phrase: str = ""
    prior: Encoded | None = None
    others: tuple[Concept, ...] = ()
    """The further concepts of a joint lesson: each has its own word where words are learnt."""
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of a classifier: the new classes, by task."""


def learn(
    backbone: Base, method: Method, memory: Memory, lesson: Lesson, plan: Plan, watch: OnStep = lambda done: None,
    checkpoint: Path | None = None, preview: Preview | None = None, fused: Callable[[Cost], None] = lambda cost: None,
    shared: Trained | None = None,
) -> Memory:  # fmt: skip
    """Train one lesson and consolidate it; nothing but the returned memory survives. `fused` hears what that cost.

    `preview` is called every `training.preview.every` steps, the model being as it would be kept then. With a
    `checkpoint` path an unfinished lesson continues where it was last saved, bit-equal on CPU. `shared`: adapters that
    it may take over, without previews. Raises TrainingError where the loss is not finite.
    """
    plan = timed(plan, len(lesson.examples))
    draw: Draw = partial(seeds.generator, plan.seed, _owner(lesson, plan))
    shapes = backbone.projections(method.adapter.targets)
    weights = method.adapter.weights(shapes, backbone.device)
    with _model(backbone, method, memory, lesson, plan, list(shapes), draw) as model:
        adapter = Adapter(weights, model.parameters)
        context = Context(
            lesson.concept, lesson.number, plan.training.steps, lesson.phrase, lesson.token, model, draw,
            partial(seeds.generator, plan.seed, "common"), lesson.others,
        )  # fmt: skip
        under = method.start(adapter, memory, context)
        with backbone.laid(under), backbone.attached(weights):
            model.begin()
            guard = method.guard(adapter, memory, context)
            told = watch, (checkpoint, optimizing.saving(plan)) if checkpoint else None, preview
            steps = partial(_descend, backbone, model, adapter, guard, lesson, plan.training, *told)
            if adapter.parameters():
                anew = shared if not (preview or under or words_of(memory)) else None
                _once(anew, partial(_content, backbone, adapter, guard, method.adapter, lesson, plan), adapter, steps)
            with spending.spent(backbone.device) as cost:
                remembered = method.consolidate.remember(adapter, memory, context)
            fused(cost)
        return model.remembered(remembered)


def timed(plan: Plan, count: int) -> Plan:
    """The plan with the steps that its epochs are for so many pictures."""
    training = plan.training.model_copy(update={"steps": tasks.steps(plan.training, count)})
    return plan if plan.training.epochs is None else plan.model_copy(update={"training": training})


@contextmanager
def _model(
    backbone: Base, method: Method, memory: Memory, lesson: Lesson, plan: Plan, projections: list[str], draw: Draw
) -> Iterator[Lived]:
    """The model of a lesson of either kind, while words that are known or learnt are spoken."""
    recall, spec = partial(method.consolidate.recall, memory, Wanted(lesson.concept)), method.adapter
    if isinstance(backbone, Classifier):
        assert isinstance(lesson.examples, ClassExamples)
        yield ClassLesson(
            backbone, lesson.examples, memory, recall(), plan, projections, draw, lesson.classes, spec.head
        )
        return
    assert isinstance(lesson.examples, Encoded)
    if isinstance(lesson.examples, Bucketed) and "replay" in method.consolidate.carries:
        raise TrainingError(f"method {plan.methods[0].label!r}: {ONE_SIZE}")
    begun = _begun(backbone, spec.words, lesson, draw) if spec.words and len(backbone.vocabulary) else {}
    known: dict[str, Callable[[], Word]] = {token: partial(_same, word) for token, word in words_of(memory).items()}
    with backbone.speaking(known | begun):
        yield LessonModel(
            backbone, lesson.examples, recall(), plan, projections, draw, bool(begun), begun, lesson.prior
        )


def _once(shared: Trained | None, content: Callable[[], str], adapter: Adapter, steps: Callable[[], object]) -> None:
    """Take the steps, unless what they come to can be taken over."""
    if shared is None:
        steps()
    else:
        shared.once(content(), adapter.parameters(), steps)


def _owner(lesson: Lesson, plan: Plan) -> str:
    """Whose random numbers a lesson draws."""
    return lesson.concept if plan.training.seed_per_lesson else "lesson"


def _same(word: Word) -> Word:
    return word


def _content(backbone: Base, adapter: Adapter, protection: Protection, spec: Spec, lesson: Lesson, plan: Plan) -> str:
    """16 hex digits of all that a lesson on the untouched base trains its adapter from; see `trained`."""
    if not isinstance(backbone, Backbone) or not isinstance(lesson.examples, Encoded):
        return ""
    others = [[concept.token, concept.noun] for concept in lesson.others]
    told = [repr(spec.words), lesson.token, lesson.noun, others, _owner(lesson, plan)]
    return trained.content(backbone, adapter, protection, told, (lesson.examples, lesson.prior), plan)


def _begun(backbone: Backbone, spec: WordSpec, lesson: Lesson, draw: Draw) -> dict[str, LiveWord]:
    """The word of each concept that the lesson teaches, by token."""
    begin = backbone.vocabulary.begin
    further = {c.token: begin(spec, c.token, c.noun, draw(f"word {c.token}")) for c in lesson.others}
    return {lesson.token: begin(spec, lesson.token, lesson.noun, draw("word")), **further}


def _descend(
    backbone: Base, model: Lived, adapter: Adapter, protection: Protection, lesson: Lesson, training: Training,
    watch: OnStep, kept: tuple[Path, Callable[[int], bool]] | None, preview: Preview | None,
) -> None:  # fmt: skip
    """The loop: loss + guard -> step, until the lesson's steps are done. `kept`: where it is saved, and whether now."""
    parameters, plain = adapter.parameters(), optimizing.make(adapter, training)
    processes, behind = backbone.processes, backbone.device.type in BEHIND
    found = optimizing.read(kept and kept[0], parameters)
    begun = optimizing.restore(processes.agreed(found), parameters, plain)
    processes.align(parameters)
    due: list[_Taken] = []
    with backbone.training(plain) as optimizer:
        for step in range(begun, training.steps):
            for group in plain.param_groups:
                group["lr"] = optimizing.learning_rate(training, step) * group["scale"]
            if protection.begin is not None:
                protection.begin(step)
            names, told = _backward(backbone, model, protection, training, step)
            processes.average(parameters)
            if protection.project is not None:
                protection.project()
            norm = clip(backbone.accelerator, parameters, training.max_grad_norm)
            due.append(_Taken(step, names, told, norm, lesson, adapter, training))
            if not behind:
                due[0].check()
            optimizer.step()
            optimizer.zero_grad()
            saves = bool(kept and kept[1](step + 1))
            shows = bool(preview and training.preview and (step + 1) % training.preview.every == 0)
            while len(due) > (behind and not (saves or shows or step + 1 == training.steps)):
                watch(due.pop(0).done())
            if kept and saves:
                optimizing.save(kept[0], step + 1, parameters, plain)
            if preview and shows:
                with optimizing.settled(plain):
                    preview(step + 1)
    optimizing.settle(plain)
    if not all(parameter.isfinite().all() for parameter in parameters):
        raise _diverged(lesson, adapter, training.steps, "")  # no later loss sees it


@dataclass
class _Taken:
    """A step of which it is still to be told how it went: what its loss is the sum of, and its gradient's norm."""

    step: int
    names: Sequence[str]
    told: Tensor
    norm: Tensor
    lesson: Lesson
    adapter: Adapter
    training: Training

    def __post_init__(self) -> None:
        """Have the numbers sent, without waiting for them."""
        numbers = torch.cat([self.told, self.norm.detach().to(self.told).view(1)])
        self._there: torch.cuda.Event | None = None
        if numbers.is_cuda:
            here = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = here.copy_(numbers, non_blocking=True)
            self._there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._there.record()
        self._numbers = numbers

    def check(self, late: bool = False) -> list[float]:
        """The numbers, once they are there. Raises TrainingError where one is not finite.

        `late`: weights and gradients are no longer those of the step, and nothing is told of them.
        """
        if self._there is not None:
            self._there.synchronize()
        *told, norm = self._numbers.tolist()
        if not math.isfinite(told[0]):
            raise _diverged(self.lesson, self.adapter, self.step, f"the loss is {told[0]}", late)
        if not math.isfinite(norm):
            if late:
                raise _diverged(self.lesson, self.adapter, self.step, "a gradient is not finite or too large", late)
            held = [(k, p.grad) for k, p in enumerate(self.adapter.parameters()) if p.grad is not None]
            spoilt = next((k for k, grad in held if not grad.isfinite().all()), held[0][0])
            raise _diverged(self.lesson, self.adapter, self.step, spoilt)
        return told

    def done(self) -> Done:
        """What is told of the step."""
        loss, *parts = self.check(late=True)
        rate = optimizing.learning_rate(self.training, self.step)
        return Done(self.step + 1, loss, dict(zip(self.names, parts, strict=True)), rate)


def _backward(
    backbone: Base, model: Lived, protection: Protection, training: Training, step: int
) -> tuple[list[str], Tensor]:
    """The gradient of a step's loss, the mean over its batches; of what that is the sum of the names, and the values
    (1 + names,), the loss first.
    """
    count, told, portion = training.accumulate, [], backbone.processes.portion
    for number in range(step * count, (step + 1) * count):
        batch, predicted, parts = model.step(number, portion)
        taken = Step(number, batch, predicted, portion)
        parts |= {name: price(taken) for name, price in protection.penalties.items()}
        loss = sum(parts.values(), torch.zeros_like(next(iter(parts.values()))))
        told.append(torch.stack([part.detach().to(loss) for part in (loss, *parts.values())]))
        backbone.accelerator.backward(loss / count if count > 1 else loss)
    return list(parts), backbone.processes.mean(torch.stack(told).mean(dim=0) if count > 1 else told[0])


def _diverged(lesson: Lesson, adapter: Adapter, step: int, what: str | int, late: bool = False) -> TrainingError:
    """`what` was not finite at a step, or the gradient of that parameter; a weight that is not comes before them,
    unless it is `late` and may have been spoilt since.
    """
    names = [*adapter.weights.named(), *(f"part {k} of the learnt words" for k in range(len(adapter.word_parameters)))]
    how = what if isinstance(what, str) else f"the gradient of {names[what]} is not finite or too large"
    spoilt = [name for name, p in zip(names, adapter.parameters(), strict=True) if not p.isfinite().all()]
    told = f"{spoilt[0]} is not finite after step {step}" if spoilt and not late else f"{how} at step {step + 1}"
    return TrainingError(
        f"lesson {lesson.number} ({lesson.concept}) diverged: {told}; the memory is as it was. "
        "Try a smaller training.learning_rate"
    )
