"""DARE: each concept's change loses a random half of its entries, the rest is scaled up, and the sum or TIES is taken.

Yu et al.: Language Models are Super Mario, arXiv 2311.03099.

With `merge=sum` only the sum is carried; `ties` keeps every delta, and breaks the strict regime.
"""

from typing import Literal

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import add
from perdure.parts.fusion import all_at_once, dropping, ties_of
from perdure.parts.guard import nothing
from perdure.parts.start import fresh_on_base
from perdure.plan.ranges import Count, Fraction, Positive, Probability


def METHOD(
    rank: Count = 16,
    targets: Targets = "attention",
    drop: Probability = 0.5,
    merge: Literal["sum", "ties"] = "sum",
    density: Fraction = 0.2,
    scale: Positive = 1.0,
) -> Method:
    """A new pair on the base each time, thinned out at random, then merged."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh_on_base,
        guard=nothing,
        consolidate=dropping(drop, add if merge == "sum" else all_at_once(ties_of(density, "whole", scale))),
    )
