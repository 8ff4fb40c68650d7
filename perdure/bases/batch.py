"""Batches, and rows of what the network is told."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perdure.bases.family import Condition


@dataclass(frozen=True)
class Batch:
    """One training batch: clean latents and noise (b, c, h, w), timesteps (b,), what the network is told."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    condition: Condition
    captions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, some: slice) -> "Batch":
        """Some rows."""
        condition = {name: tensor[some] for name, tensor in self.condition.items()}
        return Batch(self.latents[some], self.noise[some], self.timesteps[some], condition, self.captions[some])


def rows(condition: Condition, index: Sequence[int] | Tensor) -> Condition:
    """Some rows of a condition, in the order asked for."""
    where = torch.as_tensor(index)
    return {name: tensor[where.to(tensor.device, non_blocking=True)] for name, tensor in condition.items()}


def joined(conditions: Sequence[Condition]) -> Condition:
    """Conditions one after another."""
    return {name: torch.cat([c[name] for c in conditions]) for name in conditions[0]}


def on(condition: Condition, device: torch.device | str) -> Condition:
    """A condition on a device."""
    return {name: tensor.to(device) for name, tensor in condition.items()}
