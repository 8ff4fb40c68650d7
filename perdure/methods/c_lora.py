"""C-LoRA: low-rank keys and values, a new word, and a price on moving again what the past has moved.

Smith et al.: Continual Diffusion: Continual Customization of Text-to-Image Diffusion with C-LoRA, arXiv 2304.06027,
equations 1 to 3.

From the paper: cross-attention K and V only, W_t = W_0 + sum of all products, the penalty || |sum past| * (B A) ||_F^2,
a randomly initialised token, the class noun dropped from prompts, past words frozen. Readings: the weight of the
penalty is not public (sweep 1e4, 1e6, 1e8).
"""

from typing import Literal

from perdure.method import Method, WordSpec
from perdure.parts.adapter import lora, with_words
from perdure.parts.consolidate import add
from perdure.parts.guard import self_regularised
from perdure.parts.start import fresh
from perdure.plan.ranges import Count, Weight


def METHOD(
    rank: Count = 16,
    weight: Weight = 1e4,
    init: Literal["random", "class", "token"] = "random",
    noun: Literal["drop", "keep"] = "drop",
) -> Method:
    """New pairs and a new word on top of the past; past entries are dear."""
    return Method(
        adapter=with_words(lora(rank, "cross_kv"), WordSpec((init,), drop_noun=noun == "drop")),
        start=fresh,
        guard=self_regularised(weight),
        consolidate=add,
    )
