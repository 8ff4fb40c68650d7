"""L2: moving any weight away from where the past left it costs the same.

The plain baseline of Kirkpatrick et al., arXiv 1612.00796: EWC with a Fisher of 1.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import add
from perdure.parts.guard import close
from perdure.parts.start import fresh
from perdure.plan.ranges import Count, Weight


def METHOD(rank: Count = 16, targets: Targets = "attention", weight: Weight = 1.0) -> Method:
    """A new pair on top of the past, kept small."""
    return Method(adapter=lora(rank, targets), start=fresh, guard=close(weight), consolidate=add)
