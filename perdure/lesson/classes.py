"""A lesson of a classifier: the pictures of a task's classes, and the model as a method sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.bases.classifier import Classifier
from perdure.errors import TrainingError
from perdure.lesson.examples import ClassBatch, ClassExamples, Draw
from perdure.lesson.model import OverNetwork
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Portion
from perdure.parts import head
from perdure.plan import Head, Plan

TILES = 8
"""Tiles a side of the pictures that show no class."""


@dataclass
class ClassLesson(OverNetwork):
    """`method.Model` over a classifier: the task's pictures, the rows of its head, the model before and now."""

    backbone: Classifier
    examples: ClassExamples
    memory: Memory
    """What the lesson began with."""
    past: Delta
    """What lay under the base before this lesson."""
    plan: Plan
    projections: Sequence[str]
    """The projections that the lesson's adapter may move."""
    random: Draw
    tasks: Mapping[str, Sequence[str]]
    """The new classes, by task."""
    learns: bool = True
    """Whether rows of a head are learnt."""
    rows: nn.Parameter | None = field(init=False, default=None)
    """The rows (own, d) of the new classes."""

    def __post_init__(self) -> None:
        """Every class has a column, the new ones last."""
        known = head.classes_of(self.memory)
        self._task = {name: number for number, own in enumerate(known.values()) for name in own}
        self._new = [name for own in self.tasks.values() for name in own]
        self._task |= dict.fromkeys(self._new, len(known))  # tasks that are taught together are one
        self._column = {name: number for number, name in enumerate(self._task)}
        before = head.rows_of(self.memory)
        self._before = None if before is None else before.to(self.backbone.device)
        if self.learns:
            columns = self.backbone.width + (self.head.kind == "linear")
            self.rows = nn.Parameter(torch.zeros(len(self._new), columns, device=self.backbone.device))

    @property
    def head(self) -> Head:
        """How the head is."""
        return self.plan.training.head or head.PLAIN

    # --- what the loop asks ---------------------------------------------------------------------------------------

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learnt beside the weights."""
        return [] if self.rows is None else [self.rows]

    @torch.no_grad()
    def begin(self) -> None:
        """Set the rows to what they begin with, by the features as the lesson finds them."""
        if self.rows is not None:
            centres = head.means(*self.embedded(), self._new) if self.head.begin == "means" else None
            generator = self.random("head")
            self.rows.copy_(head.begun(self.head, len(self._new), self.backbone.width, centres, generator))

    def step(self, number: int, portion: Portion) -> tuple[ClassBatch, Tensor, dict[str, Tensor]]:
        """The own part of a step's batch, what is predicted for it, and what the loss is the sum of."""
        batch = portion.of(self.examples.batch(self.plan.training.batch_size, self.random, number))
        predicted = self.predict(batch)
        return batch, predicted, {"cross_entropy": self.error(batch, predicted).mean()}

    def remembered(self, memory: Memory) -> Memory:
        """A memory with the new classes, and their rows."""
        return head.with_classes(memory, self.tasks, self.rows)

    # --- what a method may ask ------------------------------------------------------------------------------------

    @property
    def latents(self) -> Tensor:
        """The task's pictures as bytes (n, 3, h, w)."""
        return self.examples.pictures

    @property
    def captions(self) -> Sequence[str]:
        """The class of each."""
        return self.examples.captions

    @property
    def calibration(self) -> Sequence[str]:
        """There are no prompts."""
        return self._no_prompts()

    @property
    def told(self) -> Sequence[str]:
        """No projection reads text."""
        return ()

    def features(self, prompts: Sequence[str]) -> Tensor:
        """There are no prompts."""
        return self._no_prompts()

    def tokens(self, prompts: Sequence[str]) -> Sequence[Tensor]:
        """There are no prompts."""
        return self._no_prompts()

    def draw(self, prompts: Sequence[str], count: int, under: Delta | None = None, **sampling: Any) -> Tensor:
        """A classifier draws nothing."""
        return self._no_prompts()

    def _no_prompts(self) -> NoReturn:
        label = self.plan.methods[0].label
        raise TrainingError(f"method {label!r} asks for prompts, or pictures drawn of them, which a classifier has not")

    def batches(self, purpose: str, count: int, size: int) -> list[ClassBatch]:
        """Batches of the task's own pictures."""
        return [self.examples.batch(size, self.random, k, f"{purpose} ") for k in range(count)]

    def batch_of(self, latents: Tensor, captions: Sequence[str], purpose: str, step: int) -> ClassBatch:
        """A batch of other pictures (b, 3, h, w), as bytes, of classes that are known."""
        generator = self.random(f"{purpose} cut", step)
        cut = [self.examples.cut(picture, generator) for picture in latents.to(self.backbone.device)]
        return ClassBatch(torch.stack(cut), tuple(captions))

    def predict(self, batch: ClassBatch, prompts: Sequence[str] | None = None) -> Tensor:
        """Logits (b, C) of all classes known, the new ones last, with their graph; prompts say nothing here."""
        rows = [rows for rows in (self._before, self.rows) if rows is not None]
        return head.logits(self._features(batch.pictures), torch.cat(rows), self.head)

    def before(self, batch: ClassBatch, prompts: Sequence[str] | None = None) -> Tensor:
        """Logits (b, C') of the classes known before this lesson, as the model was then."""
        return self.under(self.past, batch, prompts)

    @torch.no_grad()
    def under(self, delta: Delta, batch: ClassBatch, prompts: Sequence[str] | None = None) -> Tensor:
        """The same with a delta under the base and nothing else."""
        assert self._before is not None  # nothing is asked before the first lesson
        with self.backbone.bare(), self.backbone.laid(delta):
            return head.logits(self._features(batch.pictures), self._before, self.head)

    def error(self, batch: ClassBatch, predicted: Tensor) -> Tensor:
        """Cross entropy of each picture (b,), among the classes of its own task or, `logits: all`, all known ones."""
        wanted = torch.tensor([self._column[name] for name in batch.captions], device=predicted.device)
        if self.head.logits == "own":
            tasks = torch.tensor(list(self._task.values()), device=predicted.device)
            predicted = predicted.masked_fill(tasks[None] != tasks[wanted][:, None], -torch.inf)
        return F.cross_entropy(predicted, wanted, reduction="none")

    def loss(self, batch: ClassBatch) -> Tensor:
        """The lesson's own loss of a batch, a scalar: its mean cross entropy."""
        return self.error(batch, self.predict(batch)).mean()

    def difference(self, now: Tensor, before: Tensor) -> Tensor:
        """Mean squared difference of logits, over the classes that were known before."""
        return (now[:, : before.shape[1]] - before).square().mean()

    def general(self, count: int, copies: int) -> list[list[ClassBatch]]:
        """Pictures that show no class: tiles of the task's own, each from another picture, shuffled.

        Colours and textures stay, things do not; there are no other pictures that a lesson may see. The class that
        each is said to show is drawn at random among the new ones.
        """
        return [[self._shuffled(copies * number + copy) for copy in range(copies)] for number in range(count)]

    def _shuffled(self, number: int) -> ClassBatch:
        generator, side = self.random("general", number), self.backbone.side // TILES
        picked = torch.randint(len(self.examples), (TILES * TILES,), generator=generator)
        order = torch.randperm(TILES * TILES, generator=generator)
        own = self.examples.pictures[picked, :, : side * TILES, : side * TILES]
        tiles = own.unfold(2, side, side).unfold(3, side, side).flatten(2, 3)  # (k, 3, k, side, side)
        chosen = torch.stack([tiles[k, :, int(place)] for k, place in enumerate(order)], dim=1)
        rows = chosen.view(3, TILES, TILES, side, side).permute(0, 1, 3, 2, 4).reshape(3, TILES * side, TILES * side)
        label = self._new[int(torch.randint(len(self._new), (), generator=generator))]
        whole = F.pad(rows[None].float(), [0, self.backbone.side - TILES * side] * 2, mode="replicate")
        return ClassBatch(whole.to(torch.uint8), (label,))

    def embedded(self) -> tuple[Tensor, Sequence[str]]:
        """Features (n, width) of the task's own pictures as the model now is, on the CPU, and the class of each."""
        pictures = self.backbone.middle(self.examples.pictures)
        return self.backbone.all_features(pictures, self.plan.training), self.examples.captions

    def _features(self, pictures: Tensor) -> Tensor:
        return self.backbone.features(pictures, self.plan.training)
