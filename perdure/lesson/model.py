"""What a method sees of the model in the middle of a lesson."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from perdure.bases import attaching, calibration
from perdure.bases.backbone import Backbone
from perdure.bases.batch import Batch
from perdure.bases.network import Network
from perdure.bases.words import LiveWord, with_word
from perdure.drawing import sample
from perdure.errors import TrainingError
from perdure.lesson.examples import Draw, Encoded
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Portion, Weights
from perdure.plan import Plan


class OverNetwork:
    """What a method asks of a network alone, whatever it is for; of both kinds of lesson."""

    backbone: Network
    projections: Sequence[str]
    """The projections that the lesson's adapter may move."""

    def predict(self, batch: Any) -> Tensor:
        """What the model predicts for a batch, with its graph."""
        raise NotImplementedError

    def weight(self, projection: str) -> Tensor:
        """A projection's weight (out, in) with what is laid under it."""
        return self.backbone.weight(projection)

    def laid(self, delta: Delta) -> AbstractContextManager[None]:
        """The model with another delta under it."""
        return self.backbone.laid(delta)

    @contextmanager
    def replaced(self, weights: Weights) -> Iterator[None]:
        """The untouched base with these live changes in the place of the lesson's."""
        with self.backbone.laid(Delta()), self.backbone.attached(weights, instead=True):
            yield

    def gradients(self, loss: Callable[[], Tensor]) -> Mapping[str, Tensor]:
        """Gradient (out, in) of a loss with respect to each target projection's weight."""
        with torch.enable_grad():
            return self.backbone.gradients(loss, self.projections)

    @torch.no_grad()
    def input_norms(self, batch: Any) -> Mapping[str, Tensor]:
        """Norm (in,) of what enters each target projection for a batch, over its images and their tokens or patches."""
        return attaching.input_norms(lambda: self.predict(batch), self.backbone.layers(self.projections))

    @torch.no_grad()
    def grams(self, run: Callable[[], object]) -> Mapping[str, Tensor]:
        """X^T X (in, in) of all rows that enter each target projection while something runs; one tensor an input."""
        return attaching.grams(run, self.backbone.layers(self.projections))


@dataclass
class LessonModel(OverNetwork):
    """`method.Model` over a backbone: the lesson's examples, and the model before, now, and under any delta."""

    backbone: Backbone
    examples: Encoded
    past: Delta
    """What lay under the base before this lesson."""
    plan: Plan
    projections: Sequence[str]
    """The projections that the lesson's adapter may move."""
    random: Draw
    word: bool = False
    """Whether the lesson learns a word: what its captions say then changes as it goes."""
    words: Mapping[str, LiveWord] = field(default_factory=dict)
    """The words that are trained, by token."""
    prior: Encoded | None = None
    """Class images that are rehearsed."""

    # --- what the loop asks ---------------------------------------------------------------------------------------

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learnt beside the weights."""
        return [parameter for word in self.words.values() for parameter in word.parameters()]

    def begin(self) -> None:
        """Words are begun where they are made."""

    def step(self, number: int, portion: Portion) -> tuple[Batch, Tensor, dict[str, Tensor]]:
        """The own part of a step's batch, what is predicted for it, and what the loss is the sum of."""
        training = self.plan.training
        size, times = training.batch_size, training.times
        batch = portion.of(self.examples.batch(self.backbone, size, self.random, number, times=times))
        if self.word:  # the prompt changes with every step
            batch = self.backbone.reworded(batch, batch.captions)
        predicted = self.backbone.predict(batch)
        parts = {"denoising": self.backbone.error(batch, predicted, training.min_snr).mean()}
        if self.prior is not None and training.prior is not None:
            own = portion.of(self.prior.batch(self.backbone, size, self.random, number, "prior ", times))
            parts["prior"] = training.prior.weight * self.backbone.loss(own, training.min_snr)
        return batch, predicted, parts

    def remembered(self, memory: Memory) -> Memory:
        """A memory with the words as they stand."""
        for token, word in self.words.items():
            memory = with_word(memory, token, word())
        return memory

    # --- what a method may ask ------------------------------------------------------------------------------------

    @property
    def latents(self) -> Tensor:
        """Latents (n, c, h, w) of the concept's own examples."""
        return self.examples.latents

    @property
    def captions(self) -> Sequence[str]:
        """The caption of each."""
        return self.examples.captions

    @property
    def calibration(self) -> Sequence[str]:
        """Diverse captions that mention no concept, in words that the base knows."""
        return calibration.captions(self.plan.base)

    @property
    def told(self) -> Sequence[str]:
        """The target projections that read text: keys and values of cross-attention."""
        reading = self.backbone.projections("cross_kv")
        return [name for name in self.projections if name in reading]

    @torch.no_grad()
    def features(self, prompts: Sequence[str]) -> Tensor:
        """Text features (prompts, tokens, width)."""
        return self.backbone.encode_prompts(prompts)["text"].float()

    @torch.no_grad()
    def tokens(self, prompts: Sequence[str]) -> Sequence[Tensor]:
        """Text features (tokens, width) of each prompt, from its first own token to its end token."""
        return [text[own] for text, own in zip(self.features(prompts), self.backbone.spans(prompts), strict=True)]

    @torch.no_grad()
    def batches(self, purpose: str, count: int, size: int) -> list[Batch]:
        """Noised batches of the concept's own examples."""
        times = self.plan.training.times
        plain = [self.examples.batch(self.backbone, size, self.random, k, f"{purpose} ", times) for k in range(count)]
        return [self.backbone.reworded(batch, batch.captions) for batch in plain] if self.word else plain

    def batch_of(self, latents: Tensor, captions: Sequence[str], purpose: str, step: int) -> Batch:
        """A noised batch of other images (b, c, h, w)."""
        generator, like = self.random(f"{purpose} noise", step), latents.to(self.examples.parts[0].latents)
        plain = self.backbone.noised(
            like, self.examples.told(self.backbone, latents), captions, generator, self.plan.training.times
        )
        return self.backbone.reworded(plain, captions)

    def predict(self, batch: Batch, prompts: Sequence[str] | None = None) -> Tensor:
        """What the model predicts for a batch, with its graph."""
        return self.backbone.predict(batch if prompts is None else self.backbone.reworded(batch, prompts))

    def before(self, batch: Batch, prompts: Sequence[str] | None = None) -> Tensor:
        """What the model predicted before this lesson."""
        return self.under(self.past, batch, prompts)

    @torch.no_grad()
    def under(self, delta: Delta, batch: Batch, prompts: Sequence[str] | None = None) -> Tensor:
        """What the base predicts with a delta under it and nothing else."""
        with self.backbone.bare(), self.backbone.laid(delta):
            return self.predict(batch, prompts)

    def error(self, batch: Batch, predicted: Tensor) -> Tensor:
        """Mean squared error of a prediction, for each image of the batch (b,)."""
        return self.backbone.error(batch, predicted)

    def loss(self, batch: Batch) -> Tensor:
        """The lesson's own loss of a batch, a scalar: its mean error, weighted as `training.min_snr` says."""
        return self.backbone.loss(batch, self.plan.training.min_snr)

    def difference(self, now: Tensor, before: Tensor) -> Tensor:
        """Mean squared difference of two predictions."""
        return (now - before).square().mean()

    def general(self, count: int, copies: int) -> list[list[Batch]]:
        """For each of some calibration prompts, noised copies of an image that the model draws for it."""
        prompts = self.calibration[:: max(1, len(self.calibration) // count)][:count]
        drawn = self.draw(prompts, 1).unsqueeze(1)
        return [
            [self.batch_of(image, [prompt], "calibration", copies * number + copy) for copy in range(copies)]
            for number, (image, prompt) in enumerate(zip(drawn, prompts, strict=True))
        ]

    def embedded(self) -> NoReturn:
        """There are no classes."""
        raise TrainingError(f"method {self.plan.methods[0].label!r} asks for classes, which only a classifier has")

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], count: int, under: Delta | None = None, **sampling: Any) -> Tensor:
        """Latents (prompts x count, c, h, w) drawn by the model as it was before this lesson, or under a delta alone.

        `sampling`: settings that differ from the plan's, such as `steps` and `guidance`.
        """
        own_seed = self.random("replay").initial_seed() % 2**32
        wanted = {"images_per_prompt": count, "seed": own_seed, **sampling}
        settings = self.plan.sampling.model_copy(update=wanted)
        drawing = self.past if under is None else under
        with self.backbone.bare(), self.backbone.laid(drawing):
            return sample.draw_latents(self.backbone, prompts, settings, self.plan.training.resolution)
