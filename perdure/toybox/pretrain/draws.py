"""Random draws with owners: every generator is derived from (seed, purpose, position) and nothing else."""

import hashlib

import numpy as np
import torch


def draw_seed(seed: int, purpose: str, *position: int | str) -> int:
    """A 63-bit seed that belongs to one draw; different purposes or positions never share one."""
    name = "/".join(map(str, (seed, purpose, *position)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def numpy_draws(seed: int, purpose: str, *position: int | str) -> np.random.Generator:
    """NumPy's generator for one draw."""
    return np.random.default_rng(draw_seed(seed, purpose, *position))


def torch_draws(seed: int, purpose: str, *position: int | str) -> torch.Generator:
    """A CPU generator of torch for one draw (CPU also when training runs elsewhere, so that bits agree)."""
    return torch.Generator().manual_seed(draw_seed(seed, purpose, *position))


class Shuffle:
    """Which items a run sees: item `position` of an endless sequence of permutations of `count` items.

    With `in_order` the first of them is the identity.
    """

    def __init__(self, seed: int, purpose: str, count: int, in_order: bool = False) -> None:
        self._seed, self._purpose, self._count, self._in_order = seed, purpose, count, in_order
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def take(self, start: int, size: int) -> list[tuple[int, int]]:
        """Pairs (item, epoch) of the positions start..start+size-1."""
        return [self._at(position) for position in range(start, start + size)]

    def _at(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self._count)
        if epoch != self._epoch:
            draws = numpy_draws(self._seed, self._purpose, epoch)
            ordered = self._in_order and epoch == 0
            self._epoch = epoch
            self._permutation = np.arange(self._count) if ordered else draws.permutation(self._count)
        return int(self._permutation[offset]), epoch
