"""A frozen network of whatever task: adapters on top of its projections, deltas underneath, gradients of them."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from perdure.bases import offloading
from perdure.bases.attaching import Attaching, gradients
from perdure.bases.laying import Layer, Laying, Moved
from perdure.bases.processes import accelerator, several
from perdure.bases.quantising import quantised
from perdure.errors import ModelError
from perdure.memory.delta import Delta
from perdure.method import Targets, Weights


class Network:
    """A frozen network. Weights under a context manager are swapped and restored, never written to."""

    def __init__(
        self, network: Any, targets: Mapping[Targets, str], precision: str = "fp32", device: torch.device | None = None,
        offload: bool = False,
    ) -> None:  # fmt: skip
        """`targets`: role -> regular expression of the whole names of the linear layers that play it; `offload`: its
        blocks wait in main memory.
        """
        self.processes = several()
        self._wanted = precision, device
        self.accelerator = accelerator(*self._wanted)
        found: torch.device = self.accelerator.device
        self.device = torch.device("cpu") if found.type == "cpu" else found  # a move to "cpu:0" copies: other last bits
        if offload:
            offloading.place(network, self.device)
        self.network = (network if offload else network.to(self.device)).requires_grad_(False).eval()
        self.dtype: torch.dtype = self.network.dtype  # asked once: the libraries walk all modules to answer
        self._targets = targets
        self._take_apart()

    def _take_apart(self) -> None:
        """Find the projections of the network, for what is put on and under them."""
        layers = {n: m for n, m in self.network.named_modules() if isinstance(m, Layer)}
        attention = self._targets["attention"]
        self._linears = {n: m for n, m in layers.items() if isinstance(m, nn.Linear) and re.fullmatch(attention, n)}
        self._attaching = Attaching(self.network, self._linears)
        self._laying = Laying(layers, self.dtype, self.device)
        self._few_bits = any(map(quantised, self._linears.values()))

    def projections(self, targets: Targets) -> dict[str, tuple[int, int]]:
        """Names and shapes (out, in) of the target projections. Raises ModelError where there are none."""
        names = [name for name in self._linears if re.fullmatch(self._targets[targets], name)]
        if not names:
            raise ModelError(f"targets: {targets} is nothing in this base ({type(self.network).__name__})")
        return {name: (self._linears[name].out_features, self._linears[name].in_features) for name in names}

    def attached(self, weights: Weights, instead: bool = False) -> AbstractContextManager[None]:
        """The network with trainable changes of some projections on top, or `instead` of those that are there."""
        return (self._attaching.instead if instead else self._attaching.attached)(weights)

    def bare(self) -> AbstractContextManager[None]:
        """The network with what is attached to it switched off."""
        return self._attaching.bare()

    def weight(self, projection: str) -> Tensor:
        """The weight (out, in) of a projection as it now is, with whatever is laid under it, float32."""
        return self._laying.weight(projection).to(self.device)

    def gradients(self, loss: Callable[[], Tensor], projections: Sequence[str]) -> dict[str, Tensor]:
        """Gradient (out, in) of a loss with respect to the weights of some projections, as if they were free."""
        found = gradients(loss, {name: self._linears[name] for name in projections}, self.dtype)
        return {name: gradient.to(self.device) for name, gradient in found.items()}

    def layers(self, projections: Sequence[str]) -> dict[str, nn.Linear]:
        """The network's layers by projection, to be watched."""
        return {name: self._linears[name] for name in projections}

    def laid(self, delta: Delta) -> AbstractContextManager[None]:
        """The network with this delta under it and no other. Raises ModelError where it does not fit the base."""
        return self._laying.laid(delta)

    def ready(self, delta: Delta) -> Callable[[], AbstractContextManager[None]]:
        """The same, made once to be laid many times."""
        return self._laying.ready(delta)

    def moved(self) -> Moved:
        """What lies under the network now, as shapes."""
        return self._laying.moved()

    def as_first(self, moved: Moved) -> AbstractContextManager[None]:
        """On all processes: the network with what the first has under it."""
        return self._laying.as_first(moved)

    @contextmanager
    def training(self, optimizer: torch.optim.Optimizer) -> Iterator[Any]:
        """The optimizer of one lesson, prepared; neither it nor its loss scale is left to the next."""
        try:
            yield self.accelerator.prepare(optimizer)
        finally:
            self.accelerator = accelerator(*self._wanted)
