"""ZipLoRA: two changes merged by a learnt factor for each of their columns; more than two by folding pairs.

Shah et al.: ZipLoRA: Any Subject in Any Style by Effectively Merging LoRAs, arXiv 2311.13600, section 4.

What is merged so far is one of the pair, the new concept the other. In the place of past photographs it takes images
that the merged model draws: no past data, no past adapter. A factor can move by about `steps` times `rate`: the 5e-5
of a public implementation leaves the plain sum.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.guard import nothing
from perdure.parts.start import fresh_on_base
from perdure.parts.zipping import zipped
from perdure.plan.ranges import Count, Positive, Weight

NEEDS = "prompts"


def METHOD(
    rank: Count = 16, targets: Targets = "attention", weight: Weight = 0.01, steps: Count = 100, rate: Positive = 0.01
) -> Method:
    """A new pair on the base each time, zipped with what is merged so far."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh_on_base,
        guard=nothing,
        consolidate=zipped(weight, steps, rate),
    )
