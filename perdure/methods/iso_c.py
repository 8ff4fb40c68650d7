"""Iso-C: concepts taught apart, their changes added, and every direction of the sum given the same weight.

Marczak et al.: No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces, arXiv 2502.04959.

Published for full fine-tuning. Of low-rank changes `spectrum=own` evens out the directions that the sum has;
`spectrum=all`, the code as it stands, gives weight to directions that nothing has moved. Carries the sum beside what is
made of it.
"""

from functools import partial
from typing import Literal

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.fusion import iso_c, of_the_sum
from perdure.parts.guard import nothing
from perdure.parts.start import fresh_on_base
from perdure.plan.ranges import Count, Positive


def METHOD(
    rank: Count = 16,
    targets: Targets = "attention",
    spectrum: Literal["own", "all"] = "own",
    scale: Positive = 1.0,
) -> Method:
    """A new pair on the base each time; the sum is carried, and evened out after each lesson."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh_on_base,
        guard=nothing,
        consolidate=of_the_sum(partial(iso_c, spectrum=spectrum, scale=scale)),
    )
