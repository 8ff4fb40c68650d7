"""Sum: concepts taught apart on the untouched base, their changes added.

Ilharco et al.: Editing Models with Task Arithmetic, arXiv 2212.04089, with a scale of 1.

What Orthogonal Adaptation does without its basis, and peft's `cat`. Next to merge_init it tells what it is worth that a
lesson sees the ones before it.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import add
from perdure.parts.guard import nothing
from perdure.parts.start import fresh_on_base
from perdure.plan.ranges import Count


def METHOD(rank: Count = 16, targets: Targets = "attention") -> Method:
    """A new pair on the base each time; the sum is carried."""
    return Method(adapter=lora(rank, targets), start=fresh_on_base, guard=nothing, consolidate=add)
