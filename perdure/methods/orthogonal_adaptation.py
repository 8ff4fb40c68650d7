"""Orthogonal Adaptation: each concept trains B on its own rows of a shared orthonormal basis; changes are summed.

Po et al.: Orthogonal Adaptation for Modular Customization of Diffusion Models, CVPR 2024, arXiv 2312.02432.

Concepts are trained each on the untouched base, as published; orthogonal inputs are what lets them be added.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import add_apart
from perdure.parts.guard import nothing
from perdure.parts.start import shared_basis
from perdure.plan.ranges import Count


def METHOD(rank: Count = 8, targets: Targets = "attention") -> Method:
    """A fixed to the lesson's share of the basis, B trained, products added."""
    return Method(adapter=lora(rank, targets, train_a=False), start=shared_basis, guard=nothing, consolidate=add_apart)
