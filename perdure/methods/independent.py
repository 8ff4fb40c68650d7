"""One adapter per concept, on the untouched base: forgets nothing, and pays for it in bytes.

The forgetting-free bound of personalisation by low-rank adapters: linear storage, and whoever draws must say which
concept is meant.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import keep
from perdure.parts.guard import nothing
from perdure.parts.start import fresh_on_base
from perdure.plan.ranges import Count


def METHOD(rank: Count = 16, targets: Targets = "attention") -> Method:
    """A new pair on the base each time; all pairs are kept."""
    return Method(adapter=lora(rank, targets), start=fresh_on_base, guard=nothing, consolidate=keep)
