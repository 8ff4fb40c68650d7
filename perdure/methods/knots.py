"""KnOTS: concepts taught apart, their changes merged by TIES in coordinates that they share.

Stoica et al.: Model Merging with SVD to Tie the Knots, arXiv 2410.19735, and its code.

Needs all deltas together, so every one is kept: outside the strict regime.
"""

from functools import partial

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.fusion import all_at_once, knots
from perdure.parts.guard import nothing
from perdure.parts.start import fresh_on_base
from perdure.plan.ranges import Count, Fraction, Positive


def METHOD(rank: Count = 16, targets: Targets = "attention", density: Fraction = 0.2, scale: Positive = 1.0) -> Method:
    """A new pair on the base each time, all kept; fused after each lesson."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh_on_base,
        guard=nothing,
        consolidate=all_at_once(partial(knots, density=density, scale=scale)),
    )
