"""Merge & re-initialise: fold each lesson into the weights, begin the next with a new pair on top.

Staniszewski, Zaleska, Deja: Low-Rank Continual Personalization of Diffusion Models, arXiv 2410.04891, section 3.

State: the sum of all products, W_T = W_0 + sum B_t A_t.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import add
from perdure.parts.guard import nothing
from perdure.parts.start import fresh
from perdure.plan.ranges import Count


def METHOD(rank: Count = 16, targets: Targets = "attention") -> Method:
    """A new pair on top of the sum of all earlier ones."""
    return Method(adapter=lora(rank, targets), start=fresh, guard=nothing, consolidate=add)
