"""Generative replay: before each lesson the model draws its old concepts, and trains on them too.

Shin et al.: Continual Learning with Deep Generative Replay, arXiv 1705.08690; for diffusion in CLoG, arXiv 2406.04584.

Images are drawn once a lesson, not at every step. What was drawn badly is learnt badly: errors add up over lessons.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import add, captions, carrying
from perdure.parts.rehearsal import drawn_images, rehearse
from perdure.parts.start import fresh
from perdure.plan.ranges import Count, Weight

NEEDS = "prompts"


def METHOD(rank: Count = 16, targets: Targets = "attention", weight: Weight = 1.0, images: Count = 4) -> Method:
    """A new pair on top of the past, trained beside images that the past model drew."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh,
        guard=rehearse(weight, drawn_images(images)),
        consolidate=carrying(add, captions, brings=True),
    )
