"""Custom Diffusion: keys and values of cross-attention in full and a word, each concept apart; merged in closed form.

Kumari et al.: Multi-Concept Customization of Text-to-Image Diffusion, arXiv 2212.04488, and its code.

Published with class images beside the concept's own (`training.prior` in a plan). The captions that are to be changed
least are the calibration captions; `epsilon` is ours, for bases with more inputs than these have words. What is kept of
each concept, text features of its words and what its matrices add there, stands for its adapter: outside the strict
regime.
"""

from typing import Literal

from perdure.method import Method, WordSpec
from perdure.parts.adapter import neurons, with_words
from perdure.parts.guard import nothing
from perdure.parts.regression import constrained
from perdure.parts.start import everything_on_base
from perdure.plan.ranges import Positive

NEEDS = "prompts"


def METHOD(init: Literal["random", "class", "token"] = "token", epsilon: Positive = 1e-6) -> Method:
    """All keys and values and a word on the untouched base; the constrained merge is recalled."""
    return Method(
        adapter=with_words(neurons("cross_kv"), WordSpec((init,))),
        start=everything_on_base,
        guard=nothing,
        consolidate=constrained(epsilon),
    )
