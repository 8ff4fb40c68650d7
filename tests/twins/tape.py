"""Lessons of perdure, with what they drew, computed and remembered written down, to hold a plain loop against."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import planned
from PIL import Image
from torch import Tensor

from perdure import method, seeds
from perdure.bases import loading
from perdure.lesson import examples
from perdure.lesson.examples import Examples
from perdure.lesson.model import LessonModel
from perdure.lesson.train import Done, Lesson, learn
from perdure.memory import Memory
from perdure.method import Adapter, Method, Protection, Wanted
from perdure.parts.adapter import LowRank, Masked, Selected
from perdure.parts.guard import preserving
from perdure.photos.pictures import Picture
from perdure.plan.training import Preserve, Prior, Training

TAUGHT = [("dog", "zwz"), ("cat", "sbu"), ("clock", "uwu")]
"""Noun, which is also the concept's name, and token."""
PLAIN = Training(resolution=32, steps=6, batch_size=2, learning_rate=1e-2, epsilon=1e-3, max_grad_norm=0.3)
FULL = PLAIN.model_copy(
    update={
        "steps": 3, "prior": Prior(images=2, weight=0.5), "preserve": Preserve(weight=2.0), "min_snr": 0.5,
        "schedule": "cosine", "warmup": 1, "weight_decay": 0.1, "word_learning_rate": 2e-2,
        "gradient_checkpointing": True,
    }
)  # fmt: skip
"""Everything at once that a lesson can have."""


@dataclass
class Tape:
    """One lesson: inputs, what was computed from them step by step, and the memory after it."""

    training: Training
    concept: str
    token: str
    noun: str
    latents: Tensor
    captions: tuple[str, ...]
    draw: Callable[..., torch.Generator]
    weights: Any = None
    """Start: factors of pairs (projection -> (A, B)), or values of chosen entries (projection -> (k,))."""
    logits: Any = None
    index: Any = None
    word: list[Tensor] = field(default_factory=list)
    batches: dict[str, list[Any]] = field(default_factory=dict)
    """Purpose -> batches in the order in which they were asked for."""
    parameters: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradients: list[list[Tensor]] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    recall: Any = None

    def begin(self, adapter: Adapter) -> None:
        """Write down where the lesson begins."""
        copied = partial(_copied, adapter.weights)
        self.weights, self.logits, self.index = copied("factors", "values"), copied("logits"), copied("index")
        self.word = [p.detach().clone() for p in adapter.word_parameters]

    def step(self, adapter: Adapter) -> None:
        """Write down the gradients of one step, before they are clipped."""
        self.gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in adapter.parameters()])

    def watching(self, chosen: Method) -> Method:
        """The same method, watched."""

        def guard(adapter: Adapter, memory: Memory, context: Any) -> Protection:
            inner = chosen.guard(adapter, memory, context)
            self.begin(adapter)

            def project() -> None:
                self.step(adapter)
                if inner.project is not None:
                    inner.project()

            return replace(inner, project=project)

        def remember(adapter: Adapter, memory: Memory, context: Any) -> Memory:
            self.parameters = [p.detach().clone() for p in adapter.parameters()]
            return chosen.consolidate.remember(adapter, memory, context)

        return replace(chosen, guard=guard, consolidate=replace(chosen.consolidate, remember=remember))

    def recalled(self, concept: str | None = None, features: Tensor | None = None) -> dict[str, Tensor]:
        """What the memory lays under the base, for a concept, or for a prompt by its text features."""
        wanted = Wanted(concept, None if features is None else lambda: features)
        return {name: change.matrix() for name, change in self.recall(self.memory, wanted).items()}


def _copied(weights: LowRank | Masked | Selected, *names: str) -> Any:
    """A field of the weights by one of its names, its tensors copied."""
    parts = {**vars(weights), **(vars(weights.low) if isinstance(weights, Masked) else {})}
    for name in names:
        if name in parts:
            return {
                n: tuple(t.detach().clone() for t in own) if isinstance(own, tuple) else own.detach().clone()
                for n, own in parts[name].items()
            }
    return None


@contextmanager
def _batches_kept(tape: Tape):
    """Every batch that is made while this is open is written down under its purpose."""
    own, other = Examples.batch, LessonModel.batch_of

    def keep(purpose: str, batch: Any) -> Any:
        tape.batches.setdefault(purpose, []).append(batch)
        return batch

    def batch(self, backbone, size, draw, step, purpose="", times="default"):
        return keep(purpose, own(self, backbone, size, draw, step, purpose, times))

    def batch_of(self, latents, captions, purpose, step):
        return keep(purpose, other(self, latents, captions, purpose, step))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Examples, "batch", batch)
        patch.setattr(LessonModel, "batch_of", batch_of)
        yield


def lessons(backbone, training: Training) -> list[Lesson]:
    """Three concepts of three pictures, each with a caption of its own."""
    made = []
    for number, (noun, token) in enumerate(TAUGHT, start=1):
        noise = np.random.default_rng(number).integers(0, 256, (3, 32, 40, 3), dtype=np.uint8)
        texts = (f"a photo of {token} {noun}", f"{token} {noun} in snow", f"the {token} {noun} on a beach")
        shown = [Picture(Image.fromarray(pixels), text) for pixels, text in zip(noise, texts, strict=True)]
        prior = [Picture(picture.image, f"a photo of a {noun}") for picture in shown[:2]]
        encoded, beside = (examples.encode(backbone, some, training, 0, noun) for some in (shown, prior))
        made.append(
            Lesson(noun, number, encoded, token, noun, f"{token} {noun}", beside if training.prior else None)
        )  # fmt: skip
    return made


def taped(folder, name: str, options: dict[str, Any], training: Training) -> list[Tape]:
    """Three lessons of a method on a pipeline, one after another."""
    backbone = loading.load(str(folder), device="cpu")
    backbone.gradient_checkpointing(training.gradient_checkpointing)
    plan = planned(training)
    plan = plan.model_copy(update={"sampling": plan.sampling.model_copy(update={"steps": 3, "guidance": 4.0})})
    chosen = method.get(name, options)
    if training.preserve:
        chosen = preserving(chosen, training.preserve.weight, training.preserve.prompts)
    tapes: list[Tape] = []
    memory = Memory()
    for lesson in lessons(backbone, training):
        tape = Tape(
            training, lesson.concept, lesson.token, lesson.noun, lesson.examples.latents, lesson.examples.captions,
            partial(seeds.generator, plan.seed, lesson.concept), recall=chosen.consolidate.recall,
        )  # fmt: skip

        def watch(done: Done, tape: Tape = tape) -> None:
            tape.losses.append(done.loss)

        with _batches_kept(tape):
            memory = learn(backbone, tape.watching(chosen), memory, lesson, plan, watch)
        tape.memory = memory
        tapes.append(tape)
    return tapes


def agree(folder, name: str, options: dict[str, Any], training: Training, twin: Any, model: Any, loose=1e-3) -> None:
    """Three lessons and their twin agree: the loss and the gradients of each step, what the steps led to, the memory.

    `twin(model, tapes)` yields for each lesson what it went through, and what is recalled of each concept asked for.
    `loose`: the tolerance of what is recalled.
    """
    tapes = taped(folder, name, options, training)
    for tape, (done, recalled) in zip(tapes, twin(model, tapes), strict=True):
        torch.testing.assert_close(torch.tensor(tape.losses), torch.tensor(done.losses), rtol=5e-5, atol=1e-6)
        for step, (own, other) in enumerate(zip(tape.gradients, done.gradients, strict=True)):
            close(own, other, 1e-3, f"gradients of step {step}")
        close(tape.parameters, done.parameters, 1e-3, "parameters after the last step")
        for concept, matrices in recalled.items():
            own_recall = tape.recalled(concept)
            assert own_recall.keys() == matrices.keys()
            close(
                [own_recall[n] for n in matrices],
                list(matrices.values()),
                loose,
                f"recall of {concept}",
            )
        weighs = [part / loss for part, loss in zip(done.penalties, done.losses, strict=True)]
        assert not any(weighs) or max(weighs) > 1e-3, f"a penalty of no weight is not tested: {max(weighs):.0e}"


def close(own: list[Tensor], twin: list[Tensor], tolerance: float, what: str) -> None:
    """Each of two lists of tensors differs from its twin by at most a share of the largest of them."""
    size = max(float(tensor.detach().abs().max()) for tensor in twin)
    for number, (one, two) in enumerate(zip(own, twin, strict=True)):
        apart = float((one - two.detach()).abs().max()) / size if one.numel() else 0.0
        assert one.shape == two.shape and apart <= tolerance, f"{what}, tensor {number}: apart by {apart:.1e}"
