"""Trainable changes on top of a frozen network: low-rank pairs as peft layers, anything else by hooks."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from perdure.bases.quantising import beside, quantised
from perdure.method import Weights
from perdure.parts.adapter import LowRank


class Attaching:
    """Puts changes on projections of a network, switches them off for a while, takes them off again without a trace."""

    def __init__(self, network: Any, linears: Mapping[str, nn.Linear]) -> None:
        self._network, self._linears = network, linears
        self._layers: list[Any] = []
        self.muted = False
        """Whether what is attached is switched off."""
        self.busy = False
        """Whether anything is attached."""

    @contextmanager
    def attached(self, weights: Weights) -> Iterator[None]:
        """The network with these changes."""
        self.busy = True
        try:
            plain = self._hooks(weights, lambda: self.muted)
            with self._peft_layers(weights) if isinstance(weights, LowRank) else plain:
                yield
        finally:
            self.busy = False

    @contextmanager
    def bare(self) -> Iterator[None]:
        """The network with what is attached to it switched off."""
        self.muted = True
        for layer in self._layers:
            layer.scaling["lesson"] = 0.0
        try:
            yield
        finally:
            self.muted = False
            for layer in self._layers:
                layer.scaling["lesson"] = 1.0

    @contextmanager
    def instead(self, weights: Weights) -> Iterator[None]:
        """The network with these changes in the place of those attached."""
        with self.bare(), self._hooks(weights, lambda: False):
            yield

    @contextmanager
    def _peft_layers(self, weights: LowRank) -> Iterator[None]:
        names = list(weights.projections)
        rank = next(iter(weights.factors.values()))[0].shape[0]
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
        with torch.random.fork_rng():  # peft draws initial values, which ours replace
            inject_adapter_in_model(config, self._network, adapter_name="lesson")
        try:
            self._layers = [self._network.get_submodule(name) for name in names]
            for layer, (a, b) in zip(self._layers, weights.factors.values(), strict=True):
                layer.lora_A["lesson"].weight, layer.lora_B["lesson"].weight = a, b
            yield
        finally:
            for name in names:
                parent, _, child = name.rpartition(".")
                setattr(self._network.get_submodule(parent), child, self._linears[name])
            self._layers = []
            del self._network.peft_config

    @contextmanager
    def _hooks(self, weights: Weights, muted: Callable[[], bool]) -> Iterator[None]:
        def adding(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
            def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
                if muted():
                    return output
                (x,) = inputs
                return output + F.linear(x, weights.change(name).to(x.dtype))

            return add

        handles = [self._linears[name].register_forward_hook(adding(name)) for name in weights.projections]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def gradients(loss: Callable[[], Tensor], layers: Mapping[str, nn.Linear], dtype: torch.dtype) -> dict[str, Tensor]:
    """Gradient (out, in) of a loss with respect to the weights of some layers, as if they were free, float32."""
    frozen = {name: layer for name, layer in layers.items() if quantised(layer)}
    changes = {name: beside(layer, dtype) for name, layer in frozen.items()}
    free = [changes[n][0] if n in changes else layer.weight.requires_grad_(True) for n, layer in layers.items()]
    try:
        found = torch.autograd.grad(loss(), free)
    finally:
        for _, hook in changes.values():
            hook.remove()
        for weight in free:
            weight.requires_grad_(False)
    return dict(zip(layers, (gradient.float() for gradient in found), strict=True))


def input_norms(run: Callable[[], object], layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Norm (in,) of all rows that enter each layer while something runs, float32."""
    squares: dict[str, Tensor] = {}

    def add(name: str, rows: Tensor) -> None:
        own = rows.float().square().sum(dim=0)
        squares[name] = squares[name] + own if name in squares else own

    with _watched(layers, add):
        run()
    return {name: total.sqrt() for name, total in squares.items()}


def grams(run: Callable[[], object], layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """X^T X (in, in) of all rows X that enter each layer while something runs, float64: of float32 sums the least
    directions would be rounding, and along some of them X^T X would be negative.

    Layers into which the same rows go share one tensor: what enters them first is compared, bit by bit.
    """
    first: dict[tuple[tuple[int, ...], str], str] = {}
    leader: dict[str, str] = {}
    totals: dict[str, Tensor] = {}

    def add(name: str, rows: Tensor) -> None:
        if name not in leader:
            bits = rows.contiguous().cpu().view(torch.uint8).numpy().tobytes()
            leader[name] = first.setdefault((tuple(rows.shape), hashlib.sha256(bits).hexdigest()), name)
        if leader[name] == name:
            rows = (rows.cpu() if rows.device.type == "mps" else rows).double()  # there is no float64 on MPS
            own = rows.T @ rows
            totals[name] = totals[name] + own if name in totals else own

    with _watched(layers, add):
        run()
    return {name: totals[leader[name]] for name in layers if name in leader}


@contextmanager
def _watched(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Each layer's input is shown, as rows (n, in), before the layer sees it."""

    def seeing(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: see(name, inputs[0].detach().flatten(0, -2))

    handles = [layer.register_forward_pre_hook(seeing(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
