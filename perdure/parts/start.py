"""Slot 2: where learning begins. Each function sets the factors in place and returns what lies under them."""

import torch
from torch import Tensor

from perdure.errors import TrainingError
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Adapter, Context
from perdure.parts.adapter import low_rank, masked, selected


def untouched(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """The base as it is: nothing is learnt in the weights."""
    return Delta()


@torch.no_grad()
def fresh(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """A new pair on top of everything learnt: A ~ N(0, 1/r^2), B = 0.

    The standard deviation 1/r is what the reference code draws (the paper's text says N(0, 1), 64 times as much).
    """
    _gaussian(adapter, context)
    return memory.delta()


@torch.no_grad()
def fresh_masked(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """As `fresh`, with mask logits that start at their bias but can learn: V ~ N(0, 1/q), U = 0."""
    generator = context.generator("mask")
    for v, u in masked(adapter).logits.values():
        v.copy_(torch.randn(v.shape, generator=generator) / v.shape[0] ** 0.5)
        u.zero_()
    return fresh(adapter, memory, context)


@torch.no_grad()
def fresh_on_base(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """A new pair on the untouched base."""
    _gaussian(adapter, context)
    return Delta()


@torch.no_grad()
def uniform_on_base(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """A new pair on the untouched base: A ~ U(-1 / sqrt(in), 1 / sqrt(in)), B = 0, as CIDM's code draws it.

    Kaiming's uniform draw with a = sqrt(5): a deviation of 1 / sqrt(3 in), .021 for 768 inputs, whatever the rank.
    """
    generator = context.generator("adapter")
    for a, b in low_rank(adapter).factors.values():
        a.copy_((2 * torch.rand(a.shape, generator=generator) - 1) / a.shape[1] ** 0.5)
        b.zero_()
    return Delta()


@torch.no_grad()
def resume(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """Go on training the pair that the memory carries, on the untouched base; a new pair in the first lesson."""
    _gaussian(adapter, context)
    for name, change in memory.delta().items():
        for factor, carried in zip(low_rank(adapter).factors[name], change.pairs[0], strict=True):
            factor.copy_(carried)
    return Delta()


@torch.no_grad()
def orthogonal_columns(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """Each column of A a unit vector of R^r orthogonal to the same column of the sum of all past A.

    Staniszewski et al. 2024, "orthogonal initialisation", read literally: the last right-singular vector of the column
    seen as a 1 x r matrix. B = 0. It orthogonalises in R^r, not the input subspaces; see `orthogonal_rows`.
    """
    _gaussian(adapter, context)
    for name, past in memory.under("past_a").items():
        a, _ = low_rank(adapter).factors[name]
        columns = past.to(a.device, torch.float32).T.unsqueeze(1)  # (in, 1, r)
        a.copy_(torch.linalg.svd(columns, full_matrices=True).Vh[:, -1, :].T)
    return memory.delta()


@torch.no_grad()
def orthogonal_rows(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """Rows of A drawn as in `fresh`, projected out of the row space of all past A, rescaled to the same spread. B = 0.

    What the input meets is the row space, so this is orthogonality of the input subspaces. Needs rank x lessons <= in.
    """
    _gaussian(adapter, context)
    for name, basis in memory.under("past_rows").items():
        a, _ = low_rank(adapter).factors[name]
        if basis.shape[0] + a.shape[0] > a.shape[1]:
            raise TrainingError(
                f"orthogonal rows are used up: {name} has {a.shape[1]} inputs, {basis.shape[0]} directions are taken "
                f"and {a.shape[0]} more are wanted; use a smaller rank or orthogonality=column"
            )
        a.copy_(_spread_like(_outside(a, basis.to(a.device)), a))
    return memory.delta()


@torch.no_grad()
def shared_basis(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """A fixed to rows of an orthonormal basis that no other lesson uses; B = 0; on the untouched base.

    Po et al. 2024, Orthogonal Adaptation, arXiv 2312.02432: subsets of one shared random basis, so that the changes of
    different concepts act on orthogonal inputs and can be summed. Needs rank x lessons <= in.
    """
    for name, (a, b) in low_rank(adapter).factors.items():
        rank, into = a.shape
        first = rank * (context.lesson - 1)
        if first + rank > into:
            raise TrainingError(
                f"the shared basis is used up: {name} has {into} inputs and lesson {context.lesson} needs rows up to "
                f"{first + rank}; use a smaller rank"
            )
        basis = torch.linalg.qr(torch.randn(into, into, generator=context.common(f"basis {into}"))).Q
        a.copy_(basis[first : first + rank])
        b.zero_()
    return Delta()


@torch.no_grad()
def everything(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """Every entry is free and goes on from where the past left it, on the untouched base: full fine-tuning."""
    entries, past = selected(adapter), memory.delta()
    moved = {n: past[n].matrix() if n in past else torch.zeros(shape) for n, shape in entries.shapes.items()}
    entries.select({name: torch.ones(shape, dtype=torch.bool) for name, shape in entries.shapes.items()}, moved)
    return Delta()


@torch.no_grad()
def everything_on_base(adapter: Adapter, memory: Memory, context: Context) -> Delta:
    """Every entry is free and starts on the untouched base."""
    return everything(adapter, Memory(), context)


def _gaussian(adapter: Adapter, context: Context) -> None:
    generator = context.generator("adapter")
    for a, b in low_rank(adapter).factors.values():
        a.copy_(torch.randn(a.shape, generator=generator) / a.shape[0])
        b.zero_()


def _outside(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows minus their part inside the row space of an orthonormal basis; twice, against rounding."""
    for _ in range(2):
        rows = rows - (rows @ basis.T) @ basis
    return rows


def _spread_like(rows: Tensor, reference: Tensor) -> Tensor:
    scale: Tensor = reference.norm() / rows.norm()
    return rows * scale
