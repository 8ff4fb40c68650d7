"""Mean: concepts taught apart on the untouched base, their changes averaged.

Wortsman et al.: Model Soups, arXiv 2203.05482, of models fine-tuned on different concepts.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.fusion import mean, running
from perdure.parts.guard import nothing
from perdure.parts.start import fresh_on_base
from perdure.plan.ranges import Count


def METHOD(rank: Count = 16, targets: Targets = "attention") -> Method:
    """A new pair on the base each time; the mean so far is carried."""
    return Method(
        adapter=lora(rank, targets), start=fresh_on_base, guard=nothing, consolidate=running(mean, brings=True)
    )
