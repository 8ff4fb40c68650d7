"""TIES: of concepts taught apart, the largest entries, a sign elected for each, and the mean of those that agree.

Yadav et al.: TIES-Merging: Resolving Interference When Merging Models, arXiv 2306.01708, algorithm 1.

Needs all deltas together, so every one is kept: outside the strict regime. `scope=whole` counts the largest entries
over all of a delta, as the paper does; `matrix` in each projection, as peft does.
"""

from typing import Literal

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.fusion import all_at_once, ties_of
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
    """A new pair on the base each time, all kept; fused after each lesson."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh_on_base,
        guard=nothing,
        consolidate=all_at_once(ties_of(density, scope, scale)),
    )
