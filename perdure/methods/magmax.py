"""Magnitude-based merging: of old and new, each entry keeps the one of larger magnitude.

Staniszewski, Zaleska, Deja: Low-Rank Continual Personalization of Diffusion Models, arXiv 2410.04891,
equation 2; after Marczak et al., MagMax, arXiv 2407.06322.

The paper's equation merges the factors (`operand=factors`); its code merges whole weight differences
(`operand=delta`), whose state is a dense matrix for each projection from the second lesson on.
"""

from typing import Literal

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import max_delta, max_factors
from perdure.parts.guard import nothing
from perdure.parts.start import fresh
from perdure.plan.ranges import Count


def METHOD(
    rank: Count = 16, targets: Targets = "attention", operand: Literal["factors", "delta"] = "factors"
) -> Method:
    """A new pair on top of the merged past, then merged into it by magnitude."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh,
        guard=nothing,
        consolidate=max_factors if operand == "factors" else max_delta,
    )
