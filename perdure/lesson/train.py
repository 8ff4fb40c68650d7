"""One lesson: memory(t - 1) and a concept's examples in, memory(t) out. The loop fits on a screen."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perdure import seeds
from perdure.bases.backbone import Backbone
from perdure.bases.processes import clip
from perdure.bases.words import LiveWord
from perdure.errors import LineageError, TrainingError
from perdure.lesson.examples import Draw, Examples
from perdure.lesson.model import LessonModel
from perdure.memory import Memory, tensors
from perdure.method import Adapter, Context, Method, Protection, Step, Wanted, Word, WordSpec, with_word, words_of
from perdure.plan import Concept, Plan, Training

CALLED = {"exp_avg": "first", "exp_avg_sq": "second"}
"""Names of AdamW's moments in a checkpoint; other optimizers' state is stored under its own names."""
STORED = {called: name for name, called in CALLED.items()}
REVISION = 2
"""Raised when the same plan teaches otherwise than before, with a sentence about it in `report/outdated.py`."""


@dataclass(frozen=True)
class Done:
    """A step that was taken: how many are done, its loss, what that is the sum of by name, its learning rate."""

    step: int
    loss: float
    parts: Mapping[str, float]
    """`denoising`, `prior` where class images are rehearsed, and each penalty of the guard."""
    rate: float


Watch = Callable[[Done], None]
"""Called after each step."""


@dataclass(frozen=True)
class Lesson:
    """What is to be learnt: the concept's name and words, the lesson's number from 1, its encoded examples."""

    concept: str
    number: int
    examples: Examples
    token: str = ""
    noun: str = ""
    phrase: str = ""
    prior: Examples | None = None
    others: tuple[Concept, ...] = ()
    """The further concepts of a joint lesson: each has its own word where words are learnt."""


def learn(
    backbone: Backbone,
    method: Method,
    memory: Memory,
    lesson: Lesson,
    plan: Plan,
    watch: Watch = lambda done: None,
    checkpoint: Path | None = None,
) -> Memory:
    """Train one lesson and consolidate it; nothing but the returned memory survives.

    With a `checkpoint` path and `training.checkpoint_every`, an unfinished lesson continues where it was, bit-equal on
    CPU. Raises TrainingError where the loss is no longer finite.
    """
    draw: Draw = partial(seeds.generator, plan.seed, lesson.concept if plan.training.seed_per_lesson else "lesson")
    spec = method.adapter
    shapes = backbone.projections(spec.targets)
    weights = spec.weights(shapes, backbone.device)
    begun = _begun(backbone, spec.words, lesson, draw) if spec.words and len(backbone.vocabulary) else {}
    adapter = Adapter(weights, [parameter for word in begun.values() for parameter in word.parameters()])
    words: dict[str, Callable[[], Word]] = {
        token: partial(lambda w: w, known) for token, known in words_of(memory).items()
    }
    words |= begun
    with backbone.speaking(words):
        past = method.consolidate.recall(memory, Wanted(lesson.concept))
        model = LessonModel(backbone, lesson.examples, past, plan, list(shapes), draw, bool(begun))
        context = Context(
            lesson.concept, lesson.number, plan.training.steps, lesson.phrase, lesson.token, model, draw,
            partial(seeds.generator, plan.seed, "common"), lesson.others,
        )  # fmt: skip
        under = method.start(adapter, memory, context)
        with backbone.laid(under), backbone.attached(weights):
            protection = method.guard(adapter, memory, context)
            _descend(backbone, adapter, protection, lesson, plan.training, draw, watch, checkpoint)
            remembered = method.consolidate.remember(adapter, memory, context)
    for token, word in begun.items():
        remembered = with_word(remembered, token, word())
    return remembered


def _begun(backbone: Backbone, spec: WordSpec, lesson: Lesson, draw: Draw) -> dict[str, LiveWord]:
    """The word of each concept that the lesson teaches, by token."""
    begin = backbone.vocabulary.begin
    further = {c.token: begin(spec, c.token, c.noun, draw(f"word {c.token}")) for c in lesson.others}
    return {lesson.token: begin(spec, lesson.token, lesson.noun, draw("word")), **further}


def _descend(
    backbone: Backbone,
    adapter: Adapter,
    protection: Protection,
    lesson: Lesson,
    training: Training,
    draw: Draw,
    watch: Watch,
    checkpoint: Path | None,
) -> None:
    """The loop: loss + guard -> step, until the lesson's steps are done."""
    parameters, plain = adapter.parameters(), _optimizer(adapter, training)
    processes = backbone.processes
    begun = _restore(processes.agreed(_read(checkpoint, parameters)), parameters, plain)
    processes.align(parameters)
    with backbone.training(plain) as optimizer:
        for step in range(begun, training.steps):
            for group in plain.param_groups:
                group["lr"] = learning_rate(training, step) * group["scale"]
            if protection.begin is not None:
                protection.begin(step)
            parts = _parts(backbone, adapter, protection, lesson, training, draw, step)
            loss = sum(parts.values(), torch.zeros_like(parts["denoising"]))
            told = processes.mean(torch.stack([part.detach().to(loss) for part in (loss, *parts.values())])).tolist()
            if not math.isfinite(told[0]):
                raise _diverged(lesson, adapter, step, f"the loss is {told[0]}")
            backbone.accelerator.backward(loss)
            processes.average(parameters)
            if protection.project is not None:
                protection.project()
            if (spoilt := clip(backbone.accelerator, parameters, training.max_grad_norm)) is not None:
                raise _diverged(lesson, adapter, step, spoilt)
            optimizer.step()
            optimizer.zero_grad()
            named = dict(zip(parts, told[1:], strict=True))
            watch(Done(step + 1, told[0], named, learning_rate(training, step)))
            if checkpoint and training.checkpoint_every and (step + 1) % training.checkpoint_every == 0:
                _save(checkpoint, step + 1, parameters, plain)
    if not all(parameter.isfinite().all() for parameter in parameters):
        raise _diverged(lesson, adapter, training.steps, "")  # no later loss sees it


def _parts(
    backbone: Backbone, adapter: Adapter, protection: Protection, lesson: Lesson, training: Training, draw: Draw,
    step: int,
) -> dict[str, Tensor]:  # fmt: skip
    """What the loss of one step on this process's share of the batch is the sum of: denoising, prior, penalties."""
    share = backbone.processes.share
    batch = share.of(lesson.examples.batch(backbone, training.batch_size, draw, step, times=training.times))
    if adapter.word_parameters:  # the prompt changes with every step
        batch = backbone.reworded(batch, batch.captions)
    predicted = backbone.predict(batch)
    parts = {"denoising": backbone.error(batch, predicted, training.min_snr).mean()}
    if lesson.prior is not None and training.prior is not None:
        own = share.of(lesson.prior.batch(backbone, training.batch_size, draw, step, "prior ", training.times))
        parts["prior"] = training.prior.weight * backbone.loss(own, training.min_snr)
    taken = Step(step, batch, predicted, share)
    return parts | {name: price(taken) for name, price in protection.penalties.items()}


def _diverged(lesson: Lesson, adapter: Adapter, step: int, what: str | int) -> TrainingError:
    """`what` was not finite at a step, or the gradient of that parameter; a weight that is not comes before them."""
    names = [*adapter.weights.named(), *(f"part {k} of the learnt words" for k in range(len(adapter.word_parameters)))]
    how = what if isinstance(what, str) else f"the gradient of {names[what]} is not finite or too large"
    spoilt = [name for name, p in zip(names, adapter.parameters(), strict=True) if not p.isfinite().all()]
    told = f"{spoilt[0]} is not finite after step {step}" if spoilt else f"{how} at step {step + 1}"
    return TrainingError(
        f"lesson {lesson.number} ({lesson.concept}) diverged: {told}; the memory is as it was. "
        "Try a smaller training.learning_rate"
    )


def learning_rate(training: Training, step: int) -> float:
    """The rate of one step (from 0): linear warm-up, then constant or a cosine down to 0."""
    if step < training.warmup:
        return training.learning_rate * (step + 1) / training.warmup
    if training.schedule == "constant":
        return training.learning_rate
    progress = (step - training.warmup) / max(1, training.steps - training.warmup)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(adapter: Adapter, training: Training) -> torch.optim.Optimizer:
    """AdamW over the adapter's weights, and over its words at their own rate.

    Raises TrainingError where it needs a library that is not installed.
    """
    words = (training.word_learning_rate or training.learning_rate) / training.learning_rate
    groups = [
        {"params": list(parameters), "scale": scale}
        for scale, parameters in ((1.0, list(adapter.weights.named().values())), (words, adapter.word_parameters))
        if parameters
    ]
    settings: dict[str, Any] = {
        "lr": training.learning_rate, "betas": training.betas, "eps": training.epsilon,
        "weight_decay": training.weight_decay,
    }  # fmt: skip
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, **settings, fused=True)
    try:
        optimizers = import_module("bitsandbytes.optim")
    except ImportError:
        raise TrainingError(
            "training.optimizer: adamw_8bit needs bitsandbytes; pip install 'perdure[8bit]', or take adamw"
        ) from None
    eight_bit: torch.optim.Optimizer = optimizers.AdamW8bit(groups, **settings)
    return eight_bit


def steps_done(checkpoint: Path) -> int:
    """Steps of an unfinished lesson that its checkpoint holds; 0 without one. Raises LineageError."""
    return int(_read(checkpoint).get("step", torch.tensor(0)))


def _save(path: Path, step: int, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """An unfinished lesson: parameters and the optimizer's state of each, by position."""
    kept = {"step": torch.tensor(step)}
    for i, parameter in enumerate(parameters):
        kept[f"{i}.value"] = parameter
        for name, part in optimizer.state[parameter].items():
            if name != "step":  # one for all
                kept[f"{i}.{CALLED.get(name, name)}"] = part
    tensors.write(path, kept)


def _read(path: Path | None, parameters: Sequence[Tensor] = ()) -> dict[str, Tensor]:
    """An unfinished lesson as it was saved; empty if there is none. Raises LineageError naming a damaged file."""
    if path is None or not (path.exists() or path.is_symlink()):
        return {}
    remedy = "delete it, and the lesson begins anew"
    kept = tensors.read(path, remedy)
    parts = [name.partition(".")[2] for name in kept if name.startswith("0.")]
    shapes = {"step": torch.Size(), **{f"{i}.value": parameter.shape for i, parameter in enumerate(parameters)}}
    named = [*shapes, *(f"{i}.{part}" for i in range(len(parameters)) for part in parts)]
    wrong = [name for name in named if name not in kept or kept[name].shape != shapes.get(name, kept[name].shape)]
    if wrong:
        raise LineageError(f"{path} is damaged: {wrong[0]!r} is missing or of another shape; {remedy}")
    return kept


def _restore(kept: dict[str, Tensor], parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Put an unfinished lesson back; returns the number of steps already done."""
    if not kept:
        return 0
    step = int(kept["step"])
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(kept[f"{i}.value"])
            own = {name.partition(".")[2]: t for name, t in kept.items() if name.startswith(f"{i}.")}
            counted = torch.tensor(float(step), device=parameter.device) if "first" in own else step
            optimizer.state[parameter] = {"step": counted} | {
                STORED.get(name, name): t.to(parameter.device) for name, t in own.items() if name != "value"
            }
    return step
