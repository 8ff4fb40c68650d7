"""Experience replay: keeps a few images of every concept and trains on them too. Breaks the no-data rule.

Rolnick et al.: Experience Replay for Continual Learning, arXiv 1811.11682. An upper reference, not a solution.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import add, by_name, carrying, keep_images
from perdure.parts.rehearsal import kept_images, rehearse
from perdure.parts.start import fresh
from perdure.plan.ranges import Count, Weight


def METHOD(rank: Count = 16, targets: Targets = "attention", weight: Weight = 1.0, images: Count = 2) -> Method:
    """A new pair on top of the past, trained beside kept images."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh,
        guard=rehearse(weight, kept_images),
        consolidate=carrying(add, keep_images(images), "replay", strict=False, brings=True, forget=by_name),
    )
