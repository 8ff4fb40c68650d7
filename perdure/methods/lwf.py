"""Learning without forgetting: keep predicting what the model predicted before this lesson.

Li & Hoiem: Learning without Forgetting, arXiv 1606.09282; for diffusion as in CLoG, arXiv 2406.04584.

The teacher is the model before the lesson, on the current images, under the lesson's captions and past concepts'
prompts in turn.
"""

from typing import Literal

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import add, captions, carrying
from perdure.parts.guard import distil
from perdure.parts.start import fresh
from perdure.plan.ranges import Count, Weight


def METHOD(
    rank: Count = 16,
    targets: Targets = "attention",
    weight: Weight = 1.0,
    prompts: Literal["both", "current", "past"] = "both",
) -> Method:
    """A new pair on top of the past, distilled from the model before it."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh,
        guard=distil(weight, prompts),
        consolidate=carrying(add, captions, brings=True),
    )
