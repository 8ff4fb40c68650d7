"""CNS: find the few weights of keys and values that a concept needs and nothing general does, and train only those.

Liao et al.: Continual Personalization for Diffusion Models, ICCV 2025, arXiv 2510.02296.

From the paper: neurons of cross-attention K and V; base neurons of the concept minus general neurons of many unrelated
prompts; fine-tuning of exactly those and of the concept's token; a regulariser towards earlier concepts and towards the
pretrained weights. Readings: the importance score (`wanda`), its levels (so many general neurons that 6 % of the keys
and values remain, which is the paper's 0.13 % of all parameters on SD 1.x), the vote over prompts, the regulariser.
"""

from typing import Literal

from perdure.method import Method, WordSpec
from perdure.parts.adapter import neurons, with_words
from perdure.parts.consolidate import add, captions, carrying
from perdure.parts.guard import continual
from perdure.parts.neurons import concept_neurons, shares
from perdure.ranges import Fraction, Weight


def METHOD(
    importance: Literal["wanda", "saliency", "fisher"] = "wanda",
    granularity: Literal["element", "row", "col"] = "element",
    base_share: Fraction = 0.12,
    density: Fraction = 0.06,
    vote: Fraction = 0.5,
    regulariser: Literal["both", "past", "features"] = "both",
    weight: Weight = 1e-3,
    init: Literal["random", "class", "token"] = "class",
) -> Method:
    """Concept neurons and the concept's word, on top of the past."""
    return Method(
        adapter=with_words(neurons("cross_kv"), WordSpec((init,))),
        start=concept_neurons(importance, granularity, base_share, density, vote),
        guard=continual(regulariser, weight),
        consolidate=carrying(carrying(add, shares), captions),
    )
