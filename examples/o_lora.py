"""O-LoRA: new low-rank changes on inputs orthogonal to those of all lessons before.

Wang et al.: Orthogonal Subspace Learning for Language Model Continual Learning, arXiv 2310.14152, equation 8.

The price is the sum of |A_past A_new^T| over entries and projections. Every lesson's A is kept: it is not strict.
"""

import torch
from torch import Tensor

from perdure.memory import Memory
from perdure.method import Adapter, Context, Guard, Method, Protection, Step, Targets
from perdure.parts.adapter import lora, low_rank
from perdure.parts.consolidate import add, carrying
from perdure.parts.start import fresh
from perdure.plan.ranges import Count, Weight


def orthogonal(weight: float) -> Guard:
    """weight * sum |A_past A_new^T|; A_past (lessons x r, in) of each projection is carried as `rows`."""

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        factors, past = low_rank(adapter).factors, memory.under("rows")
        if weight == 0 or not past:
            return Protection()

        def penalty(step: Step) -> Tensor:
            meet = [(past[name].to(a) @ a.T).abs().sum() for name, (a, _) in factors.items()]
            return weight * torch.stack(meet).sum()

        return Protection(penalties={"orthogonal": penalty})

    return guard


def rows(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    """Every lesson's A, one below the other."""
    past = memory.under("rows")
    new = {name: a.detach().cpu() for name, (a, _) in low_rank(adapter).factors.items()}
    return memory.with_tensors("rows", {n: torch.cat([past[n], a]) if n in past else a.clone() for n, a in new.items()})


def METHOD(rank: Count = 8, targets: Targets = "attention", weight: Weight = 0.5) -> Method:
    """A new pair on top of the past, kept off the past's inputs."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh,
        guard=orthogonal(weight),
        consolidate=carrying(add, rows, "rows", strict=False),
    )
