"""One lesson: memory(t - 1) and a concept's examples in, memory(t) out. The loop fits on a screen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from perdure import files, seeds
from perdure.backbones.backbone import Backbone
from perdure.errors import TrainingError
from perdure.examples import Draw, Examples
from perdure.memory import Memory
from perdure.method import Adapter, Context, Method
from perdure.plan import Training

Watch = Callable[[int, float, float], None]
"""Called after each step with (steps done, loss, learning rate)."""


@dataclass(frozen=True)
class Lesson:
    """What is to be learnt: the concept's name, the lesson's number from 1, its encoded examples."""

    concept: str
    number: int
    examples: Examples
    prior: Examples | None = None


def learn(
    backbone: Backbone,
    method: Method,
    memory: Memory,
    lesson: Lesson,
    training: Training,
    seed: int,
    watch: Watch = lambda step, loss, rate: None,
    checkpoint: Path | None = None,
) -> Memory:
    """Train one lesson and consolidate it; nothing but the returned memory survives.

    With a `checkpoint` path and `training.checkpoint_every`, an unfinished lesson continues where it was, bit-equal on
    CPU. Raises TrainingError where the loss is no longer finite.
    """
    draw: Draw = partial(seeds.generator, seed, lesson.concept if training.seed_per_lesson else "lesson")
    context = Context(lesson.concept, lesson.number, draw)
    with backbone.attached(method.adapter) as adapter:
        under = method.start(adapter, memory, context)
        with backbone.laid(under):
            _descend(backbone, method, memory, adapter, context, lesson, training, draw, watch, checkpoint)
        return method.consolidate.remember(adapter, memory, context)


def _descend(
    backbone: Backbone,
    method: Method,
    memory: Memory,
    adapter: Adapter,
    context: Context,
    lesson: Lesson,
    training: Training,
    draw: Draw,
    watch: Watch,
    checkpoint: Path | None,
) -> None:
    """The loop: loss + guard -> step, until the lesson's steps are done."""
    parameters = adapter.parameters()
    plain = torch.optim.AdamW(
        parameters, training.learning_rate, training.betas, training.epsilon, training.weight_decay, fused=True
    )
    with backbone.training(plain) as optimizer:
        for step in range(_restore(checkpoint, parameters, plain), training.steps):
            for group in plain.param_groups:
                group["lr"] = learning_rate(training, step)
            loss = _loss(backbone, lesson, training, draw, step)
            if method.guard.penalty is not None:
                loss = loss + method.guard.penalty(adapter, memory, context)
            if not math.isfinite(loss.item()):
                raise _diverged(lesson, f"loss is {loss.item()} at step {step + 1}")
            backbone.accelerator.backward(loss)
            if method.guard.project is not None:
                method.guard.project(adapter, memory, context)
            backbone.accelerator.clip_grad_norm_(parameters, training.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            watch(step + 1, loss.item(), learning_rate(training, step))
            if checkpoint and training.checkpoint_every and (step + 1) % training.checkpoint_every == 0:
                _save(checkpoint, step + 1, parameters, plain)
    # no later loss sees what the last step did
    if not all(parameter.isfinite().all() for parameter in parameters):
        raise _diverged(lesson, "the adapter is not finite after the last step")


def _diverged(lesson: Lesson, how: str) -> TrainingError:
    return TrainingError(
        f"lesson {lesson.number} ({lesson.concept}) diverged: {how}; the memory is as it was. "
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


def _loss(backbone: Backbone, lesson: Lesson, training: Training, draw: Draw, step: int) -> Tensor:
    batch = lesson.examples.batch(backbone, training.batch_size, draw, step)
    loss = backbone.loss(batch, training.min_snr)
    if lesson.prior is not None and training.prior is not None:
        batch = lesson.prior.batch(backbone, training.batch_size, draw, step, purpose="prior ")
        loss = loss + training.prior.weight * backbone.loss(batch, training.min_snr)
    return loss


def steps_done(checkpoint: Path) -> int:
    """Steps of an unfinished lesson that its checkpoint holds; 0 without one."""
    return int(load_file(checkpoint)["step"]) if checkpoint.is_file() else 0


def _save(path: Path, step: int, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """An unfinished lesson: parameters and AdamW moments, by position."""
    tensors = {"step": torch.tensor(step)}
    for i, parameter in enumerate(parameters):
        state = optimizer.state[parameter]
        parts = {"value": parameter.detach(), "first": state["exp_avg"], "second": state["exp_avg_sq"]}
        tensors |= {f"{i}.{name}": part for name, part in parts.items()}
    files.write_bytes(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


def _restore(path: Path | None, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Put an unfinished lesson back; returns the number of steps already done."""
    if path is None or not path.is_file():
        return 0
    tensors = load_file(path)
    step = int(tensors["step"])
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"{i}.value"])
            moments: dict[str, Any] = {"exp_avg": tensors[f"{i}.first"], "exp_avg_sq": tensors[f"{i}.second"]}
            optimizer.state[parameter] = {name: m.to(parameter) for name, m in moments.items()} | {
                "step": torch.tensor(float(step), device=parameter.device)
            }
    return step
