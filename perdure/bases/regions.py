"""Several prompts in one picture, each in its region: what a network says under each of them, blended by masks.

Two places where it may be blended. In cross-attention (Gu et al. 2023, Mix-of-Show, section 3.3): every layer's output
is put together of what it is under each prompt. In the noise (Bar-Tal et al. 2023, MultiDiffusion): the whole network
is asked under each prompt, and what it predicts is put together.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

How = Literal["attention", "noise"]
Under = Callable[[], AbstractContextManager[None]]
"""The network with what belongs to one region under it."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Where which prompt holds.

    masks: (regions, h, w) in [0, 1] of the whole picture, at any size; rows go down. prompts: their condition, a row
    each. base: weight in [0, 1] of the picture's own prompt inside regions. feather: cells of the layer that blends,
    over which a region fades at its borders. until: part in (0, 1] of the steps, from the first on, that have regions.
    under: for each region what lies under the network there; by default what lies there elsewhere.
    """

    masks: Tensor
    prompts: Mapping[str, Tensor]
    how: How = "attention"
    base: float = 0.0
    feather: int = 0
    until: float = 1.0
    under: Sequence[Under] = ()

    def on(self, device: torch.device | str) -> "Regions":
        """The same with its tensors on a device, and with nothing of its own under them."""
        prompts = {name: tensor.to(device) for name, tensor in self.prompts.items()}
        return replace(self, masks=self.masks.to(device), prompts=prompts, under=())

    def within(self, number: int) -> AbstractContextManager[None]:
        """The network as it is to be for one region."""
        return self.under[number]() if self.under else nullcontext()

    def shares(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Each region's share (regions, h, w) of what they say together, and the weight (h, w) of that; float32.

        A cell belongs to all regions that touch it: none is too small for any layer.
        """
        masks = F.adaptive_max_pool2d(self.masks.float(), (height, width))
        if self.feather:
            side = 2 * self.feather + 1
            masks = F.avg_pool2d(masks[None], side, stride=1, padding=self.feather, count_include_pad=False)[0]
        total = masks.sum(dim=0)
        return masks / total.clamp(min=torch.finfo(total.dtype).tiny), (1 - self.base) * total.clamp(max=1)

    def blended(self, outside: Tensor, inside: Sequence[Tensor]) -> Tensor:
        """What is said under the picture's own prompt and under each region's, all (..., h, w), as one.

        With n the masks' sum: outside where n = 0, else base * outside + (1 - base) * sum(mask * inside) / n; the
        weight of the second falls with n where a mask fades. Under one mask of ones, sayings that are equal stay so to
        the bit.
        """
        shares, weight = self.shares(*outside.shape[-2:])
        together = sum(share.to(said) * said for share, said in zip(shares, inside, strict=True))
        return torch.lerp(outside, torch.as_tensor(together), weight.to(outside).expand_as(outside))
