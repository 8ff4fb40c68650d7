"""Elastic weight consolidation: moving a weight costs what it mattered to the past.

Kirkpatrick et al.: Overcoming catastrophic forgetting in neural networks, arXiv 1612.00796; online form after
Schwarz et al., arXiv 1805.06370.

The penalty acts on the product B A, not on the factors, so it does not depend on how a change is factored. The
Fisher is the mean over single images of the squared gradient with respect to the projection's weight (out, in).
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import add, carrying, online_fisher
from perdure.parts.guard import elastic
from perdure.parts.start import fresh
from perdure.plan.ranges import Count, Decay, Weight


def METHOD(
    rank: Count = 16, targets: Targets = "attention", weight: Weight = 1e4, gamma: Decay = 1.0, samples: Count = 32
) -> Method:
    """A new pair on top of the past, held by the past's Fisher information."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh,
        guard=elastic(weight),
        consolidate=carrying(add, online_fisher(gamma, samples), "fisher", brings=True),
    )
