"""Delta: a weight difference for each projection, kept exactly and as small as exactness allows.

A change of one projection is a stack of factor pairs (A, B), meaning the sum of B @ A, while their rank is below
break-even; one dense matrix after. All tensors are float32 on the CPU.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from perdure.memory.tensors import digest_of

Pair = tuple[Tensor, Tensor]
"""Factors of one low-rank update: A (r, in) and B (out, r)."""


@dataclass(frozen=True)
class Change:
    """The change of one projection (out, in): factor pairs or a dense matrix, never both."""

    pairs: tuple[Pair, ...] = ()
    dense: Tensor | None = None

    @classmethod
    def low_rank(cls, a: Tensor, b: Tensor) -> "Change":
        """B @ A, kept as factors while they are smaller than the product."""
        return cls((_frozen(a, b),)).compact()

    @classmethod
    def full(cls, matrix: Tensor) -> "Change":
        """A dense matrix (out, in)."""
        return cls(dense=matrix.detach().to("cpu", torch.float32).contiguous().clone())

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        if self.dense is not None:
            return self.dense.shape[0], self.dense.shape[1]
        a, b = self.pairs[0]
        return b.shape[0], a.shape[1]

    @property
    def rank(self) -> int | None:
        """Sum of the pairs' ranks (an upper bound of the matrix rank); None once dense."""
        return None if self.dense is not None else sum(a.shape[0] for a, _ in self.pairs)

    def stacked(self) -> Pair:
        """The pairs as one: A (sum of ranks, in), B (out, sum of ranks)."""
        return torch.cat([a for a, _ in self.pairs]), torch.cat([b for _, b in self.pairs], dim=1)

    def matrix(self) -> Tensor:
        """The change itself, (out, in) float32; pairs are summed in the order in which they were learnt."""
        if self.dense is not None:
            return self.dense
        total = self.pairs[0][1] @ self.pairs[0][0]
        for a, b in self.pairs[1:]:
            total = total + b @ a
        return total

    def compact(self) -> "Change":
        """The same change, dense if its factors would need at least as many numbers (rank (out + in) >= out in)."""
        out, into = self.shape
        if self.rank is None or self.rank * (out + into) < out * into:
            return self
        return Change.full(self.matrix())

    def plus(self, other: "Change") -> "Change":
        """The sum of two changes of one projection."""
        if self.dense is None and other.dense is None:
            return Change(self.pairs + other.pairs).compact()
        return Change.full(self.matrix() + other.matrix())

    def without(self, before: "Change | None", after: "Change") -> "Change | None":
        """This change minus what `after` has gained over `before`; None where nothing is left.

        Pairs that were gained are left out as they stand; what is dense is reckoned in float64 and rounded once.
        """
        stacks = [change for change in (self, before, after) if change is not None]
        if all(change.dense is None for change in stacks):
            gained = [pair for pair in after.pairs if before is None or not _among(pair, before.pairs)]
            if all(_among(pair, self.pairs) for pair in gained):
                left = tuple(pair for pair in self.pairs if not _among(pair, gained))
                return Change(left) if left else None
        gained_matrix = after.matrix().double() - (0 if before is None else before.matrix().double())
        return Change.full(self.matrix().double() - gained_matrix)

    def tensors(self) -> dict[str, Tensor]:
        """Named parts: `dense`, or `0.A`, `0.B`, `1.A`, ..."""
        if self.dense is not None:
            return {"dense": self.dense}
        return {f"{i}.{letter}": t for i, pair in enumerate(self.pairs) for letter, t in zip("AB", pair, strict=True)}

    @classmethod
    def from_tensors(cls, parts: Mapping[str, Tensor]) -> "Change":
        """Inverse of `tensors`."""
        if "dense" in parts:
            return cls(dense=parts["dense"])
        return cls(tuple((parts[f"{i}.A"], parts[f"{i}.B"]) for i in range(len(parts) // 2)))


@dataclass(frozen=True)
class Delta(Mapping[str, Change]):
    """Projection name -> its change. Projections that are not named are not moved."""

    changes: Mapping[str, Change] = field(default_factory=dict)

    def __getitem__(self, projection: str) -> Change:
        return self.changes[projection]

    def __iter__(self) -> Iterator[str]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __add__(self, other: "Delta") -> "Delta":
        """The exact sum, projection by projection."""
        return self.combined(other, Change.plus)

    def combined(self, other: "Delta", combine: Callable[[Change, Change], Change]) -> "Delta":
        """`combine(mine, theirs)` where both move a projection; the only change there is elsewhere."""
        names = dict.fromkeys(chain(self, other))
        return Delta(
            {
                name: combine(self[name], other[name])
                if name in self and name in other
                else (self[name] if name in self else other[name])
                for name in names
            }
        )

    def without(self, before: "Delta", after: "Delta") -> "Delta":
        """This delta minus what `after` has gained over `before`, projection by projection."""
        left = {n: one.without(before.changes.get(n), after[n]) if n in after else one for n, one in self.items()}
        return Delta({name: change for name, change in left.items() if change is not None})

    @property
    def digest(self) -> str:
        """SHA-256 over the parts of every projection's change: equal digests mean bit-equal deltas, kept alike."""
        parts = {n: {part: digest_of(t) for part, t in change.tensors().items()} for n, change in self.items()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for change in self.values() for t in change.tensors().values())


def balanced(a: Tensor, b: Tensor) -> Pair:
    """Factors of the same product whose largest entries are of one size: float16 has few small numbers.

    They are scaled by a power of two, which is exact.
    """
    sizes = [float(factor.abs().max()) for factor in (a, b)]
    shift = 2.0 ** round(math.log2(sizes[0] / sizes[1]) / 2) if all(sizes) and all(map(math.isfinite, sizes)) else 1.0
    return a / shift, b * shift


def _among(pair: Pair, pairs: Iterable[Pair]) -> bool:
    return any(torch.equal(pair[0], a) and torch.equal(pair[1], b) for a, b in pairs)


def _frozen(*tensors: Tensor) -> Pair:
    a, b = (t.detach().to("cpu", torch.float32).contiguous().clone() for t in tensors)
    return a, b
