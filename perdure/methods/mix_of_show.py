"""Mix-of-Show: small adapters and two words a concept, fused layer by layer so that each answers its own inputs.

Gu et al.: Mix-of-Show: Decentralized Low-Rank Adaptation for Multi-Concept Customization of Diffusion Models, arXiv
2305.18292, and its code.

From the code: rank 4, a random word and one that begins at the class noun, inputs as `parts/regression.py` says, fused
by L-BFGS; `solver=exact` finds the same minimum by linear algebra. Left out: a vector for each layer, the text
encoder's own adapter, the attention regulariser. Keeps every adapter: outside the strict regime.
"""

from typing import Literal

from perdure.method import Method, Targets, WordSpec
from perdure.parts.adapter import lora, with_words
from perdure.parts.guard import nothing
from perdure.parts.regression import gradient_fusion
from perdure.parts.start import uniform_on_base
from perdure.plan.ranges import Count

NEEDS = "prompts"


def METHOD(rank: Count = 4, targets: Targets = "attention", solver: Literal["lbfgs", "exact"] = "lbfgs") -> Method:
    """A new pair and two new words on the base, all kept; fused after each lesson."""
    return Method(
        adapter=with_words(lora(rank, targets), WordSpec(("random", "class"), drop_noun=True)),
        start=uniform_on_base,
        guard=nothing,
        consolidate=gradient_fusion(solver),
    )
