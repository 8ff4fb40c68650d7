"""CNS: find the few weights of keys and values that a concept needs and nothing general does, and train only those.

Liao et al.: Continual Personalization for Diffusion Models, ICCV 2025, arXiv 2510.02296.

From the paper: neurons of cross-attention K and V; base neurons of the concept minus general neurons of many unrelated
prompts; fine-tuning of exactly those and of the concept's token; a regulariser towards earlier concepts and towards the
pretrained weights. Readings: the importance score (`wanda`), its levels, the vote over prompts, and the
regulariser's form.
"""

from typing import Literal

from perdure.method import Method, WordSpec
from perdure.parts.adapter import neurons, with_words
from perdure.parts.consolidate import add, captions, carrying
from perdure.parts.guard import continual
from perdure.parts.neurons import concept_neurons, shares


def METHOD(
    importance: Literal["wanda", "saliency", "fisher"] = "wanda",
    granularity: Literal["element", "row", "col"] = "element",
    base_share: float = 0.12,
    general_share: float = 0.12,
    vote: float = 0.5,
    regulariser: Literal["both", "past", "features"] = "both",
    weight: float = 1.0,
    init: Literal["random", "class", "token"] = "class",
) -> Method:
    """Concept neurons and the concept's word, on top of the past."""
    return Method(
        adapter=with_words(neurons("cross_kv"), WordSpec((init,))),
        start=concept_neurons(importance, granularity, base_share, general_share, vote),
        guard=continual(regulariser, weight),
        consolidate=carrying(carrying(add, shares), captions),
    )
