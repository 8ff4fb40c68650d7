"""Naive continual fine-tuning: one low-rank pair, trained on and on.

Staniszewski, Zaleska, Deja: Low-Rank Continual Personalization of Diffusion Models, arXiv 2410.04891, section 3.

State: one pair for each projection. Everything it knew of older concepts is what the last lesson left standing.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import replace
from perdure.parts.guard import nothing
from perdure.parts.start import resume
from perdure.plan.ranges import Count


def METHOD(rank: Count = 16, targets: Targets = "attention") -> Method:
    """Continue the carried pair on the untouched base."""
    return Method(adapter=lora(rank, targets), start=resume, guard=nothing, consolidate=replace)
