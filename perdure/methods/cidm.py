"""CIDM: one small adapter and two words per concept, kept apart while learning, mixed by the prompt when drawing.

Dong et al.: How to Continually Adapt Text-to-Image Diffusion Models for Flexible Customization?, NeurIPS 2024,
arXiv 2410.17594, and its released code.

From the code: cross-attention q, k, v, out; A from U(-1/sqrt(in), 1/sqrt(in)); the loss 0.1 mean|U U_s^T| + 0.1 mean
(U - 1)^2 on the up factors; elastic aggregation with weights (similarity)^4, scaled by 0.8. Left out: layer-wise
embeddings, the attention regulariser, and the task-shared part, which the released trainer has switched off. Keeps
every adapter: outside the strict regime.
"""

from perdure.method import Method, WordSpec
from perdure.parts.adapter import lora, with_words
from perdure.parts.elastic import elastic_aggregation, kept_apart
from perdure.parts.start import uniform_on_base
from perdure.plan.ranges import Count, Positive, Weight

NEEDS = "prompts"


def METHOD(rank: Count = 4, weight: Weight = 0.1, scale: Positive = 0.8, power: Count = 4) -> Method:
    """A new pair and two new words on the untouched base, every one kept."""
    return Method(
        adapter=with_words(lora(rank, "cross"), WordSpec(("random", "class"), drop_noun=True)),
        start=uniform_on_base,
        guard=kept_apart(weight),
        consolidate=elastic_aggregation(scale, power),
    )
