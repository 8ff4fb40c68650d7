"""The text encoders of a pipeline: there, or dropped while nothing new is to be read.

Beside a transformer they weigh as much as it does, and a lesson's prompts stay what they are. Where it is wished, each
list of prompts is read once, its condition kept in main memory, and the encoders are given up before the network works;
a list that was not read yet brings them back from the disk. Where they stay, the conditions of the latest lists do too.
The same lists are read, so results stay the same bits.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from perdure.bases.batch import on
from perdure.bases.family import Condition, Family

KEPT = 64 << 20
"""Bytes of conditions that stay beside encoders which stay: those of a hundred prompts of SDXL, of four of FLUX.2."""
Fetch = Callable[[str], Any]
"""(name of a pipeline's text encoder) -> it, read anew."""


class Encoders:
    """Reads prompts by a family's `encode`."""

    def __init__(self, pipe: Any, family: Family, device: torch.device) -> None:
        self._pipe, self._family, self._device = pipe, family, device
        self._fetch: Fetch | None = None
        self._gone: list[str] = []
        self._known: dict[tuple[str, ...], Condition] = {}

    def give_up(self, fetch: Fetch) -> None:
        """From now on the encoders are dropped where they are not needed."""
        self._fetch = fetch

    def read(self, prompts: Sequence[str], learning: bool) -> Condition:
        """The condition of some prompts; learning: with words in them that are learnt or may change."""
        key = tuple(prompts)
        if not learning and key in self._known:
            self._known[key] = self._known.pop(key)  # the latest are at the end
            return on(self._known[key], self._device)
        self.back()
        condition = dict(self._family.encode(self._pipe, list(prompts)))
        if not learning:
            self._keep(key, condition)
        return condition

    def _keep(self, key: tuple[str, ...], condition: Condition) -> None:
        """Keep a condition: in main memory where the encoders are given up, else in the place of the oldest."""
        self._known[key] = on(condition, "cpu" if self._fetch else self._device)
        while self._fetch is None and _bytes(self._known.values()) > KEPT:
            del self._known[next(iter(self._known))]

    def drop(self) -> None:
        """Give the encoders up, if that is wished."""
        if self._fetch is None:
            return
        named = ((n, m) for n, m in self._pipe.components.items() if n.startswith("text_encoder"))
        gone = [name for name, module in named if isinstance(module, nn.Module)]
        self._pipe.register_modules(**dict.fromkeys(gone))
        self._gone += gone

    def back(self) -> None:
        """Read those again that were given up."""
        if self._fetch is None:
            return
        for name in self._gone:
            module = self._fetch(name).requires_grad_(False).eval()
            self._pipe.register_modules(**{name: module.to(self._device)})
        self._gone = []


def _bytes(conditions: Iterable[Condition]) -> int:
    return sum(tensor.nbytes for condition in conditions for tensor in condition.values())
