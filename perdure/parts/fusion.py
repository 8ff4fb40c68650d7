"""One delta out of several concepts' deltas, each of them trained on the untouched base: no data, no drawing.

Deltas are given in the order in which they were learnt, and move the same projections. One alone has nothing to be
fused with and stays as it is.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Consolidate, Context
from perdure.parts.consolidate import whole

Fusion = Callable[[Sequence[Delta]], Delta]
Scope = Literal["whole", "matrix"]
"""Among what the largest entries are counted: all of a delta's, as in the paper, or each projection's, as in peft."""
NOTHING = 1e-5
"""Singular values up to this are no direction of KnOTS: what its code drops."""


# --- what is carried --------------------------------------------------------------------------------------------------


def all_at_once(fuse: Fusion) -> Consolidate:
    """Keep every concept's delta; recall what is made of all of them, which is fused once a lesson and kept beside."""

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        kept = [*memory.facts.get("kept", []), context.concept]
        now = memory.with_delta(adapter.weights.delta(), f"own/{context.concept}").with_facts(kept=kept)
        return now.with_delta(fuse([now.delta(f"own/{concept}") for concept in kept]))

    return Consolidate(remember, whole, strict=False, carries=frozenset({"own", "delta"}))


def running(fuse: Callable[[Delta, Delta, int], Delta], brings: bool = False) -> Consolidate:
    """Carry what is fused so far; `fuse` makes the next of it, of the new delta and of the lesson's number, from 2.

    `brings` True where the deltas need not move the same projections.
    """

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        new = adapter.weights.delta()
        return memory.with_delta(fuse(memory.delta(), new, context.lesson) if context.lesson > 1 else new)

    return Consolidate(remember, whole, brings=brings)


def of_the_sum(change: Callable[[Change], Change]) -> Consolidate:
    """Carry the sum of all deltas; recall what is made of it, projection by projection, fused once a lesson."""

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        total = memory.delta() + adapter.weights.delta()
        fused = {name: change(own) if context.lesson > 1 else own for name, own in total.items()}
        return memory.with_delta(total).with_delta(Delta(fused), "fused")

    return Consolidate(
        remember, lambda memory, wanted: memory.delta("fused"), brings=True, carries=frozenset({"delta", "fused"})
    )  # fmt: skip


def dropping(share: float, then: Consolidate) -> Consolidate:
    """Each new delta loses a random `share` of its entries, the others are divided by 1 - share; `then` fuses them.

    Yu et al. 2024, Language Models are Super Mario, arXiv 2311.03099, equation 1 (DARE).
    """

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        generator = context.generator("dare", context.lesson)
        new = {name: dropped(change, share, generator) for name, change in adapter.weights.delta().items()}
        return then.remember(Adapter(_Fixed(Delta(new))), memory, context)

    return Consolidate(remember, then.recall, strict=then.strict, brings=then.brings, carries=then.carries)


class _Fixed:
    """A delta where an adapter's weights are asked for."""

    def __init__(self, delta: Delta) -> None:
        self._delta = delta
        self.projections = list(delta)

    def named(self) -> dict[str, Tensor]:
        """Nothing is trained."""
        return {}

    def change(self, projection: str) -> Tensor:
        """The change (out, in) of one projection."""
        return self._delta[projection].matrix()

    def delta(self) -> Delta:
        """The delta."""
        return self._delta


# --- formulas ---------------------------------------------------------------------------------------------------------


def mean(fused: Delta, new: Delta, count: int) -> Delta:
    """The mean of `count` deltas, of the mean of all but the last and of the last."""
    shares = _scaled(fused, (count - 1) / count), _scaled(new, 1 / count)
    return shares[0] + shares[1]


def dropped(change: Change, share: float, generator: torch.Generator) -> Change:
    """A change without a random `share` of its entries, the others divided by 1 - share."""
    matrix = change.matrix()
    stays = torch.rand(matrix.shape, generator=generator) >= share
    return Change.full(matrix * stays / (1 - share))


def ties(deltas: Sequence[Delta], density: float, scope: Scope = "whole", scale: float = 1.0) -> Delta:
    """Keep each delta's top `density` by magnitude, elect the sign of their sum, average the entries that agree.

    Yadav et al. 2023, TIES-Merging, arXiv 2306.01708, algorithm 1. Where kept entries cancel exactly, the sign that
    most entries have is elected, as in its code.
    """
    if len(deltas) == 1:
        return deltas[0]
    lines = [_lines(delta, density, scope) for delta in deltas]

    def trimmed(name: str) -> Tensor:
        matrices = [delta[name].matrix() for delta in deltas]
        return torch.stack([torch.where(m.abs() >= line[name], m, 0) for m, line in zip(matrices, lines, strict=True)])

    signs = {name: int(trimmed(name).sum(0).sign().sum()) for name in deltas[0]}
    usual = {name: sum(signs.values()) if scope == "whole" else sign for name, sign in signs.items()}
    return Delta({n: Change.full(scale * _agreeing(trimmed(n), 1 if usual[n] >= 0 else -1)) for n in deltas[0]})


def _lines(delta: Delta, density: float, scope: Scope) -> dict[str, Tensor]:
    """The magnitude of the least entry of each projection that stays."""
    sizes = {name: change.matrix().abs().flatten() for name, change in delta.items()}
    if scope == "matrix":
        return {name: _least(size, density) for name, size in sizes.items()}
    return dict.fromkeys(sizes, _least(torch.cat(list(sizes.values())), density))


def _least(sizes: Tensor, density: float) -> Tensor:
    count = max(1, int(density * len(sizes)))
    return sizes.kthvalue(len(sizes) - count + 1).values


def _agreeing(stack: Tensor, usual: int) -> Tensor:
    """The mean (out, in) of those entries of (deltas, out, in), zeros left out, that have the sign of the sum."""
    elected = stack.sum(0).sign()
    elected = torch.where(elected == 0, usual, elected)
    agree = stack.sign() == elected
    return (stack * agree).sum(0) / agree.sum(0).clamp(min=1)


def knots(deltas: Sequence[Delta], density: float, scale: float = 1.0) -> Delta:
    """TIES in the coordinates that the deltas share: of [D_1 ... D_T] = U S [V_1 ... V_T]^T, the parts S V_i^T.

    Stoica et al. 2024, KnOTS, arXiv 2410.19735, section 4, and its code: float64, singular values of 1e-5 and less
    dropped.
    """
    if len(deltas) == 1:
        return deltas[0]
    bases: dict[str, Tensor] = {}
    parts: list[dict[str, Change]] = [{} for _ in deltas]
    for name in deltas[0]:
        matrices = [delta[name].matrix().double() for delta in deltas]
        u, s, vh = torch.linalg.svd(torch.cat(matrices, dim=1), full_matrices=False)
        kept = max(1, int((s > NOTHING).sum()))
        bases[name] = u[:, :kept]
        for own, part in zip(parts, (s[:kept, None] * vh[:kept]).chunk(len(deltas), dim=1), strict=True):
            own[name] = Change.full(part)
    fused = ties([Delta(own) for own in parts], density, "whole", scale)
    return Delta({name: Change.full(base @ fused[name].matrix().double()) for name, base in bases.items()})


def iso_c(total: Change, spectrum: Literal["own", "all"], scale: float = 1.0) -> Change:
    """The sum of all deltas with every singular value set to their mean.

    Marczak et al. 2025, No Task Left Behind, arXiv 2502.04959, section 4.1. `all`: every singular value, as in its
    code, which is for full fine-tuning: of a low-rank sum, directions that nothing moved get the same weight. `own`:
    those that are not zero.
    """
    u, s, vh = _decomposed(total.matrix(), spectrum == "own")
    return Change.full(scale * s.mean() * (u @ vh))


def iso_cts(deltas: Sequence[Delta], common: float, spectrum: Literal["own", "all"], scale: float = 1.0) -> Delta:
    """Iso-C of a common space and of each delta's own directions: the paper's section 4.2 and its code.

    The top `common` share of the sum's directions; the rest, in equal numbers, the top directions of each delta without
    its part in the common outputs; both sides made orthonormal by their polar factors; every singular value the mean of
    all those.
    """
    if len(deltas) == 1:
        return deltas[0]
    return Delta({n: _iso_cts([d[n].matrix() for d in deltas], common, spectrum == "own", scale) for n in deltas[0]})


def _iso_cts(matrices: Sequence[Tensor], common: float, own: bool, scale: float) -> Change:
    u, s, vh = _decomposed(torch.stack(list(matrices)).sum(0), own)
    each = round((len(s) - round(common * len(s))) / len(matrices))
    first = len(s) - each * len(matrices)
    lefts, values, rights = [u[:, :first]], [s[:first]], [vh[:first]]
    for matrix in matrices:
        rest = matrix.double() - lefts[0] @ (lefts[0].T @ matrix.double())
        left, value, right = torch.linalg.svd(rest, full_matrices=False)
        lefts, values, rights = [*lefts, left[:, :each]], [*values, value[:each]], [*rights, right[:each]]
    return Change.full(scale * torch.cat(values).mean() * (_polar(torch.cat(lefts, 1)) @ _polar(torch.cat(rights))))


def _polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    nearest: Tensor = u @ vh
    return nearest


def _decomposed(matrix: Tensor, own: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values, float64; `own`: without values that are zero but for the rounding of float32."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    zero = float(s[0]) * max(matrix.shape) * torch.finfo(torch.float32).eps if own else -1.0
    kept = max(1, int((s > zero).sum()))
    return u[:, :kept], s[:kept], vh[:kept]


def truncated(total: Change, rank: int) -> Change:
    """The nearest change of a rank (Eckart & Young), as a pair."""
    if total.rank is not None and total.rank <= rank:
        return total
    u, s, vh = torch.linalg.svd(total.matrix().double(), full_matrices=False)
    root = s[:rank].sqrt()
    return Change.low_rank(root[:, None] * vh[:rank], u[:, :rank] * root)


def _scaled(delta: Delta, factor: float) -> Delta:
    return Delta(
        {
            name: Change.full(factor * change.dense)
            if change.dense is not None
            else Change(tuple((a, factor * b) for a, b in change.pairs))
            for name, change in delta.items()
        }
    )


def ties_of(density: float, scope: Scope, scale: float) -> Fusion:
    """`ties` with these settings."""
    return partial(ties, density=density, scope=scope, scale=scale)
