"""STAMINA: low-rank keys and values times a learnt hard mask, and a word made by a small MLP.

Smith et al.: Continual Diffusion with STAMINA, arXiv 2311.18763; extends C-LoRA (arXiv 2304.06027).

From the paper: hard masks on the low-rank change, low-rank mask networks, the word as an MLP of a fixed input, all
of it folded after the lesson. Readings: mask logits are a low-rank product, two-class Gumbel-softmax with a
straight-through gradient, temperature 1 to 0.1 over the lesson, entries start open with probability 0.9; sparsity and
self-regularisation are optional.
"""

from perdure.method import Method, WordSpec
from perdure.parts.adapter import masked_lora, with_words
from perdure.parts.consolidate import add, carrying, density
from perdure.parts.guard import annealed_masks, every, self_regularised, sparse
from perdure.parts.start import fresh_masked
from perdure.plan.ranges import Count, Positive, Probability, Weight


def METHOD(
    rank: Count = 16,
    mask_rank: Count = 16,
    openness: Probability = 0.9,
    sparsity: Weight = 1e-3,
    weight: Weight = 0.0,
    tau: Positive = 0.1,
    mlp: bool = True,
) -> Method:
    """New masked pairs and a new word on top of the past."""
    return Method(
        adapter=with_words(masked_lora(rank, mask_rank, "cross_kv", openness), WordSpec(("random",), mlp=mlp)),
        start=fresh_masked,
        guard=every(annealed_masks(tau), sparse(sparsity), self_regularised(weight)),
        consolidate=carrying(add, density),
    )
