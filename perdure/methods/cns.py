"""CNS: find the few weights of keys and values that a concept needs and nothing general does, and train only those.

Liao et al.: Continual Personalization for Diffusion Models, ICCV 2025, arXiv 2510.02296.

From the paper: neurons of cross-attention K and V; base neurons of the concept minus general neurons of many unrelated
prompts; fine-tuning of exactly those and of the concept's token; a regulariser towards earlier concepts and towards the
pretrained weights. Readings: the importance score and how it is ranked (`fisher`, within a layer, by majority of the
prompts: so about half of the base neurons are general and 6 % of keys and values remain, as in the paper), and the
regulariser. `entries=random` is a control: as many entries, drawn at random.
"""

from typing import Literal

from perdure.method import Method, WordSpec
from perdure.parts.adapter import neurons, with_words
from perdure.parts.consolidate import add, captions, carrying
from perdure.parts.guard import continual
from perdure.parts.neurons import Choice, concept_neurons, shares
from perdure.plan.ranges import Fraction, Weight


def METHOD(
    importance: Literal["fisher", "saliency", "wanda"] = "fisher",
    among: Literal["layer", "row", "all"] = "layer",
    granularity: Literal["element", "row", "col"] = "element",
    base_share: Fraction = 0.12,
    general: Literal["vote", "difference"] = "vote",
    vote: Fraction = 0.5,
    density: Fraction | None = None,
    entries: Literal["chosen", "random"] = "chosen",
    regulariser: Literal["both", "past", "features"] = "both",
    weight: Weight = 1e-3,
    init: Literal["random", "class", "token"] = "class",
) -> Method:
    """Concept neurons and the concept's word, on top of the past."""
    choice = Choice(importance, among, granularity, base_share, general, vote, density)
    return Method(
        adapter=with_words(neurons("cross_kv"), WordSpec((init,))),
        start=concept_neurons(choice, entries),
        guard=continual(regulariser, weight),
        consolidate=carrying(carrying(add, shares), captions),
    )
