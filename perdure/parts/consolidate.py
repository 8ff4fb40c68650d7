"""Slot 4: what is remembered, and how it is called back."""

from collections.abc import Callable
from dataclasses import replace as changed
from functools import partial
from typing import Any

import torch
from torch import Tensor

from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Consolidate, Context, Wanted
from perdure.parts.adapter import low_rank, masked

Remember = Callable[[Adapter, Memory, Context], Memory]
Forget = Callable[[Memory, Memory, Memory], Memory]
"""(memory, before, after) -> the memory without the lesson that made `after` of `before`."""
Loss = Callable[[Memory, Context, Any], Tensor]


def denoising(memory: Memory, context: Context, batch: Any) -> Tensor:
    """The lesson's own loss of a batch."""
    return context.model.loss(batch)


def whole(memory: Memory, wanted: Wanted) -> Delta:
    """What is carried as the delta, whoever is wanted."""
    return memory.delta()


def _add(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(memory.delta() + adapter.weights.delta())


def _replace(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(_pairs(adapter))


def _add_factors(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(memory.delta().combined(_pairs(adapter), _each_factor(torch.add)))


def _max_factors(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(memory.delta().combined(_pairs(adapter), _each_factor(larger)))


def _larger_change(old: Change, new: Change) -> Change:
    return Change.full(larger(old.matrix(), new.matrix()))


def _max_delta(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(memory.delta().combined(adapter.weights.delta(), _larger_change))


def _keep(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    return memory.with_delta(adapter.weights.delta(), name=f"own/{context.concept}")


def _own(memory: Memory, wanted: Wanted) -> Delta:
    return Delta() if wanted.concept is None else memory.delta(name=f"own/{wanted.concept}")


def _take_out(memory: Memory, before: Memory, after: Memory) -> Memory:
    return memory.with_delta(memory.delta().without(before.delta(), after.delta()))


def by_name(memory: Memory, before: Memory, after: Memory) -> Memory:
    """To forget what is kept under the concept's own name nothing more is to be done."""
    return memory


add = Consolidate(_add, whole, adds=True, brings=True, forget=_take_out)
"""The sum of all lessons' changes, exactly: W_t = W_0 + sum of changes."""

add_apart = changed(add, brings=False)
"""The same, of changes that are made so as not to meet: none that was learnt elsewhere can be added."""

replace = Consolidate(_replace, whole)
"""The last pair only."""

add_factors = Consolidate(_add_factors, whole)
"""(sum B_s)(sum A_s), cross terms included: what the reference code of merge & orthogonal initialise carries."""

max_factors = Consolidate(_max_factors, whole)
"""One pair, each entry of A and of B the one of larger magnitude so far (Staniszewski et al. 2024, equation 2)."""

max_delta = Consolidate(_max_delta, whole, brings=True)
"""Each entry of the delta the one of larger magnitude so far (as the reference code merges)."""

keep = Consolidate(_keep, _own, "concept", strict=False, brings=True, forget=by_name, carries=frozenset({"own"}))
"""Every concept's delta by itself; recall must be told which concept is wanted."""


def running_max(scale: float) -> Consolidate:
    """The delta as it stands, and beside it each entry's largest value so far, recalled times `scale` (MagMax)."""

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        now = adapter.weights.delta()
        return memory.with_delta(memory.delta("max").combined(now, _larger_change), name="max").with_delta(now)

    def recall(memory: Memory, wanted: Wanted) -> Delta:
        return Delta({name: Change.full(scale * change.matrix()) for name, change in memory.delta("max").items()})

    return Consolidate(remember, recall, strict=False, carries=frozenset({"delta", "max"}))


def larger(old: Tensor, new: Tensor) -> Tensor:
    """Element-wise the entry of larger magnitude; ties go to the new one (Marczak et al. 2024, MagMax)."""
    return torch.where(new.abs() >= old.abs(), new, old)


def carrying(
    consolidate: Consolidate, extra: Remember, *carries: str, strict: bool = True, brings: bool = False,
    forget: Forget | None = None,
) -> Consolidate:  # fmt: skip
    """The same, and before it `extra`, which sees the past and carries more tensors under the names given.

    `strict` False where that breaks the strict regime; `brings` True where `extra` asks nothing of the adapter;
    `forget`: how to take a lesson out of these tensors.
    """

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        return consolidate.remember(adapter, extra(adapter, memory, context), context)

    def both(memory: Memory, before: Memory, after: Memory) -> Memory:
        assert consolidate.forget is not None
        left = consolidate.forget(memory, before, after)
        return left if forget is None else forget(left, before, after)

    return changed(
        consolidate, remember=remember, strict=consolidate.strict and strict, brings=consolidate.brings and brings,
        carries=consolidate.carries | {*carries}, forget=consolidate.forget and both,
        lasting=consolidate.lasting | ({*carries} if forget is None else set()),
    )  # fmt: skip


# --- what can be carried beside the delta ---


def past_a(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    """The sum of all A, which `start.orthogonal_columns` needs."""
    past = memory.under("past_a")
    factors = low_rank(adapter).factors
    new = {name: a.detach().cpu() + past.get(name, torch.zeros(())) for name, (a, _) in factors.items()}
    return memory.with_tensors("past_a", new)


def less_a(memory: Memory, before: Memory, after: Memory) -> Memory:
    """The sum of all A without one lesson's."""
    old, new = before.under("past_a"), after.under("past_a")
    left = {name: a - (new[name] - old.get(name, torch.zeros(()))) for name, a in memory.under("past_a").items()}
    return memory.with_tensors("past_a", left)


def past_rows(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    """An orthonormal basis (k, in) of all rows of A so far, which `start.orthogonal_rows` needs."""
    past = memory.under("past_rows")
    new = {}
    for name, (a, _) in low_rank(adapter).factors.items():
        rows = a.detach().to("cpu", torch.float64)
        old = past[name].double() if name in past else rows[:0]
        for _ in range(2):  # a second pass removes what rounding left inside the old rows
            rows = rows - (rows @ old.T) @ old
        new[name] = torch.cat([old, torch.linalg.qr(rows.T).Q.T]).float()
    return memory.with_tensors("past_rows", new)


def fewer_rows(memory: Memory, before: Memory, after: Memory) -> Memory:
    """The basis without the rows that one lesson has added."""
    left = {}
    for name, rows in memory.under("past_rows").items():
        added = after.under("past_rows")[name][len(before.under("past_rows").get(name, ())) :]
        kept = [row for row in rows if not any(torch.equal(row, other) for other in added)]
        left[name] = torch.stack(kept) if kept else rows[:0]
    return memory.with_tensors("past_rows", left)


def captions(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    """The concepts' captions: text only, no images."""
    known = dict(memory.facts.get("captions", {}))
    return memory.with_facts(captions={**known, context.concept: list(dict.fromkeys(context.model.captions))})


def keep_images(count: int) -> Remember:
    """A few of the concept's own images, as latents, with their captions: breaks the no-data rule."""

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        kept = {**memory.under("replay"), context.concept: context.model.latents[:count]}
        texts = {**memory.facts.get("replay", {}), context.concept: list(context.model.captions[:count])}
        return memory.with_tensors("replay", kept).with_facts(replay=texts)

    return remember


def online_fisher(gamma: float, samples: int, loss: Loss = denoising) -> Remember:
    """F <- gamma F + mean over single noised images of (dL/dW)^2, for each target projection (out, in)."""

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        total: dict[str, Tensor] = {}
        model = context.model
        for batch in model.batches("fisher", samples, 1):
            for name, gradient in model.gradients(partial(loss, memory, context, batch)).items():
                square = gradient.square().cpu() / samples
                total[name] = total[name] + square if name in total else square
        old = memory.under("fisher")
        new = {name: gamma * old[name] + fisher if name in old else fisher for name, fisher in total.items()}
        return memory.with_tensors("fisher", new)

    return remember


def density(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    """The share of open entries of each concept's masks, as a fact."""
    shares = masked(adapter).density().values()
    known = dict(memory.facts.get("density", {}))
    return memory.with_facts(density={**known, context.concept: round(sum(shares) / max(1, len(shares)), 6)})


def _pairs(adapter: Adapter) -> Delta:
    """The adapter's pairs as they are, even where the product would be smaller."""
    copies = {name: tuple(t.detach().cpu().clone() for t in pair) for name, pair in low_rank(adapter).factors.items()}
    return Delta({name: Change(((a, b),)) for name, (a, b) in copies.items()})


def _each_factor(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Change, Change], Change]:
    def combined(old: Change, new: Change) -> Change:
        (old_a, old_b), (new_a, new_b) = old.pairs[0], new.pairs[0]
        return Change(((combine(old_a, new_a), combine(old_b, new_b)),))

    return combined
