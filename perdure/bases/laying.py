"""What lies under a frozen network: a delta, folded into float32 weights or a branch beside half-precision ones."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import Tensor, nn

from perdure.bases.processes import several
from perdure.bases.quantising import quantised, shape_of, weight_of
from perdure.errors import ModelError
from perdure.memory.delta import Change, Delta, balanced

Placed = tuple[nn.Parameter, ...]
"""What stands for one projection's change: the moved weight of a float32 base; else the factors of a branch, from the
input on: one of the weight's shape, or A (r, in) and B (out, r); of a convolution A (r, in, k, k) and B (out, r, 1, 1).
"""
Layer = nn.Linear | nn.Conv2d
"""What a delta can lie under; of a convolution a change is a matrix (out, in k k)."""
Moved = Mapping[str, tuple[tuple[torch.Size, torch.dtype], ...]]
"""Projection -> shapes and kinds of what stands for its change."""


class Laying:
    """Lays deltas under the projections of a network, always on its own weights, and takes them off without a trace.

    A float32 base takes base + delta as its weight. A half-precision base keeps its own, in which a change a few
    hundred times smaller would be rounded away: y = W x + D x, with D or its factors rounded by themselves, each entry
    by at most 2^-8 (bfloat16) or 2^-11 (float16) of itself. So does a base in few bits.
    """

    def __init__(
        self, layers: Mapping[str, Layer], dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> None:
        """dtype, device: of what enters the layers; by default they are where their weights are."""
        self._layers, self._dtype, self._device = layers, dtype, device
        self._untouched = {name: module.weight for name, module in layers.items()}
        self.placed: dict[str, Placed] = {}
        """Projection -> what stands for its change now; another object where something else lies there."""
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def laid(self, delta: Delta) -> AbstractContextManager[None]:
        """The network with this delta under it and no other. Raises ModelError where it does not fit the base."""
        return self.ready(delta)()

    def ready(self, delta: Delta) -> Callable[[], AbstractContextManager[None]]:
        """The same, made once to be laid many times."""
        for name, change in delta.items():
            if name not in self._layers:
                raise ModelError(f"this memory moves {name!r}, which the base lacks; it was taught on another base")
            out, *into = shape_of(self._layers[name])
            if change.shape != (shape := (out, math.prod(into))):
                raise ModelError(f"this memory's {name!r} is {change.shape}, the base's {shape}")
        made = {name: self._made(name, change) for name, change in delta.items()}
        return lambda: self._under(made)

    def moved(self) -> Moved:
        """What lies under the network now, as shapes."""
        return {name: tuple((t.shape, t.dtype) for t in placed) for name, placed in self.placed.items()}

    @contextmanager
    def as_first(self, moved: Moved) -> Iterator[None]:
        """On all processes: the network with what the first has under it, which is `moved`."""
        received: dict[str, Placed] = {}
        for name, parts in moved.items():
            device, leads = self._untouched[name].device, several().number == 0
            own = self.placed[name] if leads else tuple(torch.empty(s, dtype=d, device=device) for s, d in parts)
            received[name] = _frozen(*(broadcast(part.detach().clone()) for part in own))
        with self._under(received):
            yield

    def weight(self, projection: str) -> Tensor:
        """A projection's weight (out, in) float32, with what lies under it."""
        own = weight_of(self._layers[projection], self._dtype)
        placed = self.placed.get(projection)
        return own if placed is None or self._folds(projection) else own + _product(placed).to(own.device)

    def _folds(self, projection: str) -> bool:
        return self._untouched[projection].dtype == torch.float32 and not quantised(self._layers[projection])

    def _made(self, name: str, change: Change) -> Placed:
        weight = self._untouched[name]
        if self._folds(name):
            return _frozen(weight + _matrix(change, weight.device).view_as(weight))
        whole, device = shape_of(self._layers[name]), self._device or weight.device
        dtype = self._dtype if quantised(self._layers[name]) else weight.dtype
        if change.dense is not None:
            return _frozen(change.dense.to(device, dtype).view(whole))
        a, b = balanced(*(factor.to(device) for factor in change.stacked()))
        shapes = (len(a), *whole[1:]), (*b.shape, *(1 for _ in whole[2:]))
        return _frozen(*(t.to(dtype).view(shape) for t, shape in zip((a, b), shapes, strict=True)))

    @contextmanager
    def _under(self, placed: dict[str, Placed]) -> Iterator[None]:
        before = self.placed
        self._place(placed)
        try:
            yield
        finally:
            self._place(before)

    def _place(self, placed: dict[str, Placed]) -> None:
        for handle in self._handles:
            handle.remove()
        for name in self.placed:
            self._layers[name].weight = self._untouched[name]
        self.placed = placed
        self._handles = []
        for name, parts in placed.items():
            if self._folds(name):
                (self._layers[name].weight,) = parts
            else:
                self._handles.append(self._layers[name].register_forward_hook(_branch(parts)))


def _frozen(*tensors: Tensor) -> Placed:
    return tuple(nn.Parameter(tensor.detach(), requires_grad=False) for tensor in tensors)


def _matrix(change: Change, device: torch.device) -> Tensor:
    """A change (out, in) float32, put together on CUDA devices in float64: none of their shortcuts apply to that."""
    if device.type != "cuda" or change.dense is not None:
        return change.matrix().to(device)
    moved = Change(tuple((a.to(device, torch.float64), b.to(device, torch.float64)) for a, b in change.pairs))
    return moved.matrix().float()


def _product(factors: Placed) -> Tensor:
    """The change (out, in) float32 of a branch."""
    first, *rest = (factor.float().flatten(1) for factor in factors)
    return rest[0] @ first if rest else first


def _branch(factors: Placed) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
    def add(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        y = inputs[0].to(factors[0].dtype)
        for number, factor in enumerate(factors):
            if factor.dim() == 2:
                y = F.linear(y, factor)
            elif number == 0:
                y = F.conv2d(y, factor, None, module.stride, module.padding, module.dilation)
            else:
                y = F.conv2d(y, factor)
        return output + y

    return add
