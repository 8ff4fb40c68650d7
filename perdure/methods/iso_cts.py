"""Iso-CTS: as Iso-C, in a space common to all concepts and some directions of each concept's own.

Marczak et al.: No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces, arXiv 2502.04959.

Needs all deltas together, so every one is kept: outside the strict regime. `spectrum` is that of iso_c.
"""

from functools import partial
from typing import Literal

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.fusion import all_at_once, iso_cts
from perdure.parts.guard import nothing
from perdure.parts.start import fresh_on_base
from perdure.plan.ranges import Count, Fraction, Positive


def METHOD(
    rank: Count = 16,
    targets: Targets = "attention",
    common: Fraction = 0.8,
    spectrum: Literal["own", "all"] = "own",
    scale: Positive = 1.0,
) -> Method:
    """A new pair on the base each time, all kept; fused after each lesson."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh_on_base,
        guard=nothing,
        consolidate=all_at_once(partial(iso_cts, common=common, spectrum=spectrum, scale=scale)),
    )
