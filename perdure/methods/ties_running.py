"""Running TIES: what is merged so far and the new concept's change, merged by TIES as if they were two models.

Ours, after Yadav et al.: TIES-Merging, arXiv 2306.01708, so that no past adapter has to be kept.

Not TIES of all concepts: the past is one vote, and what it trims is gone.
"""

from typing import Literal

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.fusion import running, ties_of
from perdure.parts.guard import nothing
from perdure.parts.start import fresh_on_base
from perdure.plan.ranges import Count, Fraction, Positive


def METHOD(
    rank: Count = 16,
    targets: Targets = "attention",
    density: Fraction = 0.2,
    scope: Literal["whole", "matrix"] = "whole",
    scale: Positive = 1.0,
) -> Method:
    """A new pair on the base each time, merged into the one delta that is carried."""
    merge = ties_of(density, scope, scale)
    return Method(
        adapter=lora(rank, targets),
        start=fresh_on_base,
        guard=nothing,
        consolidate=running(lambda fused, new, count: merge([fused, new])),
    )
