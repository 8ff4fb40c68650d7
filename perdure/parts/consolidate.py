"""Slot 4: what is remembered, and how it is called back."""

from collections.abc import Callable

import torch
from torch import Tensor

from perdure.delta import Change, Delta
from perdure.memory import Memory
from perdure.method import Adapter, Consolidate, Context

Remember = Callable[[Adapter, Memory, Context], Memory]


def _whole(memory: Memory, concept: str | None) -> Delta:
    return memory.delta()


def _add(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(memory.delta() + adapter.delta())


def _replace(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(_pairs(adapter))


def _add_factors(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(memory.delta().combined(_pairs(adapter), _each_factor(torch.add)))


def _max_factors(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(memory.delta().combined(_pairs(adapter), _each_factor(larger)))


def _max_delta(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    def larger_change(old: Change, new: Change) -> Change:
        return Change.full(larger(old.matrix(), new.matrix()))

    return memory.with_delta(memory.delta().combined(adapter.delta(), larger_change))


def _keep(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(adapter.delta(), name=f"own/{context.concept}")


def _own(memory: Memory, concept: str | None) -> Delta:
    return Delta() if concept is None else memory.delta(name=f"own/{concept}")


add = Consolidate(_add, _whole)
"""The sum of all lessons' products B @ A, exactly: W_t = W_0 + sum B_s A_s."""

replace = Consolidate(_replace, _whole)
"""The last pair only."""

add_factors = Consolidate(_add_factors, _whole)
"""(sum B_s)(sum A_s), cross terms included: what the reference code of merge & orthogonal initialise carries."""

max_factors = Consolidate(_max_factors, _whole)
"""One pair, each entry of A and of B the one of larger magnitude so far (Staniszewski et al. 2024, equation 2)."""

max_delta = Consolidate(_max_delta, _whole)
"""Each entry of the delta the one of larger magnitude so far (as the reference code merges)."""

keep = Consolidate(_keep, _own, knows="concept")
"""Every concept's delta by itself; recall must be told which concept is wanted."""


def larger(old: Tensor, new: Tensor) -> Tensor:
    """Element-wise the entry of larger magnitude; ties go to the new one (Marczak et al. 2024, MagMax)."""
    return torch.where(new.abs() >= old.abs(), new, old)


def carrying(consolidate: Consolidate, extra: Remember) -> Consolidate:
    """The same, and `extra` remembered beside it."""

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        return extra(adapter, consolidate.remember(adapter, memory, context), context)

    return Consolidate(remember, consolidate.recall, consolidate.knows)


def past_a(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    """Carry the sum of all A, which `start.orthogonal_columns` needs."""
    past = memory.under("past_a")
    new = {name: a.detach().cpu() + past.get(name, torch.zeros(())) for name, (a, _) in adapter.factors.items()}
    return memory.with_tensors("past_a", new)


def past_rows(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    """Carry an orthonormal basis (k, in) of all rows of A so far, which `start.orthogonal_rows` needs."""
    past = memory.under("past_rows")
    new = {}
    for name, (a, _) in adapter.factors.items():
        rows = a.detach().to("cpu", torch.float64)
        old = past[name].double() if name in past else rows[:0]
        for _ in range(2):  # a second pass removes what rounding left inside the old rows
            rows = rows - (rows @ old.T) @ old
        new[name] = torch.cat([old, torch.linalg.qr(rows.T).Q.T]).float()
    return memory.with_tensors("past_rows", new)


def _pairs(adapter: Adapter) -> Delta:
    """The adapter's pairs as they are, even where the product would be smaller."""
    copies = {name: tuple(t.detach().cpu().clone() for t in pair) for name, pair in adapter.factors.items()}
    return Delta({name: Change(((a, b),)) for name, (a, b) in copies.items()})


def _each_factor(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Change, Change], Change]:
    def combined(old: Change, new: Change) -> Change:
        (old_a, old_b), (new_a, new_b) = old.pairs[0], new.pairs[0]
        return Change(((combine(old_a, new_a), combine(old_b, new_b)),))

    return combined
