"""SVD merge: concepts taught apart, their changes added, and the sum cut down to a rank.

peft's `svd` combination of adapters (Eckart & Young 1936: the nearest matrix of that rank).

Carries the exact sum beside what is cut from it, so that cutting does not add up over lessons.
"""

from functools import partial

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.fusion import of_the_sum, truncated
from perdure.parts.guard import nothing
from perdure.parts.start import fresh_on_base
from perdure.plan.ranges import Count


def METHOD(rank: Count = 16, targets: Targets = "attention", merged_rank: Count = 16) -> Method:
    """A new pair on the base each time; the sum is carried, and cut to `merged_rank` after each lesson."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh_on_base,
        guard=nothing,
        consolidate=of_the_sum(partial(truncated, rank=merged_rank)),
    )
