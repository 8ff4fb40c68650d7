"""Several prompts in one picture, each in its region: what a network says under each of them, blended by masks.

Two places where it may be blended. In attention to text (Gu et al. 2023, Mix-of-Show, section 3.3): every layer's
output is put together of what it is under each prompt. In the noise (Bar-Tal et al. 2023, MultiDiffusion): the whole
network is asked under each prompt, and what it predicts is put together.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.errors import ModelError

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


Own = Callable[[Tensor, str], Tensor]
"""(rows of what a network is told, its name in a condition) -> a region's in the rows of the pictures."""
Words = Callable[[Mapping[str, Any], Own], dict[str, Any]]
"""(keyword arguments of a network or a layer, Own) -> the same in the words of a region."""


class Asking:
    """Asks a network, or layers of it, again in the words of each region, and blends the answers.

    Only the last `count` rows are asked again, those of the prompt: before them come those that are guided away from,
    or they have a turn of their own.
    """

    def __init__(
        self, regions: Regions, count: int, steps: Callable[[], int], turns: Callable[[], int] = lambda: 1
    ) -> None:
        """steps: how many the pipeline takes; turns: how often it asks its network in each, the prompt's rows first."""
        self.regions = regions
        self._count, self._steps, self._turns = count, steps, turns
        self._call, self._sides = 0, (0, 0)

    def begin(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward of the network begins; a hook."""
        latents: Tensor = args[0] if args else kwargs["hidden_states"]
        tokens = math.isqrt(latents.shape[1])  # latents come as a sequence where a family packs them
        height, width = latents.shape[-2:] if latents.ndim == 4 else (tokens, tokens)
        self._call, self._sides = self._call + 1, (height, width)

    @property
    def over(self) -> bool:
        """Whether there are no regions in this forward."""
        turn, step = (self._call - 1) % self._turns(), (self._call - 1) // self._turns() + 1
        return turn > 0 or step > self.regions.until * self._steps()

    def layer(self, words: Words) -> Callable[..., Any]:
        """A hook of a layer (b, tokens, width) of attention to text."""

        def ask(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], said: Tensor) -> Tensor:
            return said if self.over else self.blended(said, [*self._again(layer, args, kwargs, words)])

        return ask

    def network(self, words: Words) -> Callable[..., Any]:
        """A hook of a whole network, which gives a tuple of one: latents, or their tokens."""

        def ask(
            network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], said: tuple[Tensor, ...]
        ) -> tuple[Tensor, ...]:
            if self.over:
                return said
            answers = [answer[0] for answer in self._again(network, args, kwargs, words)]
            if said[0].ndim == 4:
                return (self.regions.blended(said[0], answers),)
            return (self.blended(said[0], answers),)

        return ask

    def blended(self, said: Tensor, answers: Sequence[Tensor]) -> Tensor:
        """Answers as sequences (b, tokens, c), blended as latents are."""
        sides = cells(self._sides, said.shape[1])
        outside, *inside = (answer.transpose(1, 2).reshape(len(answer), -1, *sides) for answer in (said, *answers))
        return self.regions.blended(outside, inside).flatten(2).transpose(1, 2)

    def pictures(self, said: Tensor, answers: Sequence[Tensor]) -> Tensor:
        """The same, in the rows of the pictures alone."""
        return torch.cat([said[: -self._count], self.blended(said, answers)[-self._count :]])

    def shares(self, tokens: int) -> Tensor:
        """Each region's share (regions, tokens) of a layer's cells."""
        return self.regions.shares(*cells(self._sides, tokens))[0].flatten(1)

    def worded(self, kwargs: Mapping[str, Any], number: int, words: Words) -> dict[str, Any]:
        """Keyword arguments in the words of a region."""

        def own(rows: Tensor, name: str) -> Tensor:
            row = self.regions.prompts[name][number].to(rows)
            return torch.cat([rows[: -self._count], row.expand_as(rows[-self._count :])])

        return words(kwargs, own)

    def _again(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], words: Words) -> Iterator[Any]:
        for number in range(len(self.regions.masks)):
            with self.regions.within(number):
                answer = module.forward(*args, **self.worded(kwargs, number, words))
            yield answer


@contextmanager
def hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Hooks for a while."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def forwarded(layers: Sequence[nn.Module], by: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Layers whose forward is another one for a while; by: (their own) -> it."""
    try:
        for layer in layers:
            layer.forward = by(layer.forward)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def cells(latents: tuple[int, int], tokens: int) -> tuple[int, int]:
    """Rows and columns of a layer's cells: those of the latents, halved and rounded up until there are as many.

    Raises ModelError where they never are.
    """
    height, width = latents
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != tokens:
        raise ModelError(f"a layer of {tokens} cells is no grid over {latents[0]} x {latents[1]} latents: no regions")
    return height, width
