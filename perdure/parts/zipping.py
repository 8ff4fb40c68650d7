"""ZipLoRA: which columns of two changes are taken, learnt so that the merged model predicts what each of them does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Consolidate, Context
from perdure.parts.consolidate import captions, whole

IMAGES = 4
"""Images that are drawn of each past concept: the paper has its photographs."""


@dataclass(frozen=True)
class Zipped:
    """D = m_1 * D_1 + m_2 * D_2, a factor for each input column; the factors start at 1 and are what is trained."""

    matrices: Mapping[str, tuple[Tensor, Tensor]]
    mergers: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, one: Delta, two: Delta, device: torch.device) -> "Zipped":
        """Two deltas that move the same projections."""
        matrices = {name: (one[name].matrix().to(device), two[name].matrix().to(device)) for name in two}

        def ones(matrix: Tensor) -> Tensor:
            return nn.Parameter(torch.ones(matrix.shape[1], device=device))

        return cls(matrices, {name: (ones(first), ones(second)) for name, (first, second) in matrices.items()})

    def only(self, number: int) -> "Zipped":
        """One of the two as it is."""
        one, two = float(number == 0), float(number == 1)
        fixed = {
            name: (torch.full_like(a, one).detach(), torch.full_like(b, two).detach())
            for name, (a, b) in self.mergers.items()
        }
        return Zipped(self.matrices, fixed)

    @property
    def projections(self) -> Sequence[str]:
        """Names of the projections that it changes."""
        return list(self.matrices)

    def named(self) -> dict[str, Tensor]:
        """The factors."""
        return {f"merger {k} of {name}": m for name, own in self.mergers.items() for k, m in enumerate(own, 1)}

    def change(self, projection: str) -> Tensor:
        """m_1 * D_1 + m_2 * D_2."""
        (one, two), (first, second) = self.matrices[projection], self.mergers[projection]
        return first * one + second * two

    def delta(self) -> Delta:
        """All changes."""
        return Delta({name: Change.full(self.change(name)) for name in self.matrices})

    def alike(self) -> Tensor:
        """sum over projections of mean |m_1 m_2|: how far both want the same columns."""
        return torch.stack([(a * b).abs().mean() for a, b in self.mergers.values()]).sum()


def zipped(weight: float, steps: int, rate: float) -> Consolidate:
    """What is merged so far and the new change, merged as a pair (Shah et al. 2023, ZipLoRA, section 4).

    Minimises ||merged - each alone||^2 of the predictions, each on its own noised images under its own captions, plus
    weight * sum mean |m_1 m_2|, in `steps` steps, or as many as the lesson has if they are fewer. Own images are the
    lesson's; those of past concepts are drawn, by what is merged so far. Past captions are carried.
    """

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        new, device = adapter.weights.delta(), adapter.parameters()[0].device
        merged = _merged(memory, new, context, device, weight, steps, rate) if context.lesson > 1 else new
        return captions(adapter, memory.with_delta(merged), context)

    return Consolidate(remember, whole)


def _merged(
    memory: Memory, new: Delta, context: Context, device: torch.device, weight: float, steps: int, rate: float
) -> Delta:
    both = Zipped.of(memory.delta(), new, device)
    descent = torch.optim.Adam(list(both.named().values()), lr=rate)
    teachers, batches = (both.only(0), both.only(1)), _batches(memory, context, min(steps, context.steps))
    with torch.enable_grad():
        for pair in batches:
            wanted = []
            for batch, teacher in zip(pair, teachers, strict=True):
                with torch.no_grad(), context.model.replaced(teacher):
                    wanted.append(context.model.predict(batch))
            descent.zero_grad()
            with context.model.replaced(both):  # until gradients are there: checkpointing computes predictions again
                losses = [F.mse_loss(context.model.predict(b), w) for b, w in zip(pair, wanted, strict=True)]
                (losses[0] + losses[1] + weight * both.alike()).backward()  # type: ignore[no-untyped-call]
            descent.step()
    return both.delta()


def _batches(memory: Memory, context: Context, steps: int) -> list[tuple[Any, Any]]:
    """For each step a noised image of a past concept, drawn, and one of the lesson's."""
    model = context.model
    texts = [own[0] for own in memory.facts["captions"].values()]
    drawn = model.draw(texts, IMAGES)
    chosen = torch.randint(len(drawn), (steps,), generator=context.generator("zip", context.lesson)).tolist()
    past = [model.batch_of(drawn[k : k + 1], [texts[k // IMAGES]], "zip past", step) for step, k in enumerate(chosen)]
    return list(zip(past, model.batches("zip", steps, 1), strict=True))
