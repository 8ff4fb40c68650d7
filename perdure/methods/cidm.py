"""CIDM: one small adapter and two words per concept, kept apart while learning, mixed by the prompt when drawing.

Dong et al.: How to Continually Adapt Text-to-Image Diffusion Models for Flexible Customization?, NeurIPS 2024,
arXiv 2410.17594, and its released code.

From the code: cross-attention q, k, v, out; A from U(-1/sqrt(in), 1/sqrt(in)); the loss 0.1 mean|U U_s^T| + 0.1 mean
(U - 1)^2 on the up factors; elastic aggregation with weights (similarity)^4, scaled by 0.8. Left out: layer-wise
embeddings, the attention regulariser, and the task-shared part, which the released trainer has switched off. Keeps
every adapter: outside the strict regime.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Consolidate, Context, Guard, Method, Protection, Step, Wanted, WordSpec
from perdure.parts.adapter import lora, low_rank, with_words
from perdure.parts.consolidate import by_name
from perdure.parts.start import uniform_on_base
from perdure.plan.ranges import Count, Positive, Weight

NEEDS = "prompts"


def kept_apart(weight: float) -> Guard:
    """weight * mean |U U_s^T| over past concepts s and layers, plus weight * mean (U - 1)^2; U (out, r) the up factor.

    As released: it makes rows of U orthogonal across the rank, not column spaces; the second term keeps U from
    shrinking.
    """

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        names = memory.facts.get("kept", [])
        if weight == 0 or not names:
            return Protection()
        factors = low_rank(adapter).factors
        past = [{n: change.pairs[0][1] for n, change in memory.delta(f"own/{concept}").items()} for concept in names]

        def penalty(step: Step) -> Tensor:
            ups = {name: b for name, (_, b) in factors.items()}
            apart = [(ups[name] @ old[name].to(ups[name]).T).abs().mean() for old in past for name in ups]
            large = [(b - 1).square().mean() for b in ups.values()]
            return weight * (torch.stack(apart).mean() + torch.stack(large).mean())

        return Protection(penalties={"kept_apart": penalty})

    return guard


def elastic_aggregation(scale: float, power: int) -> Consolidate:
    """Keep every pair; recall the sum of w_s * scale * B_s A_s, or the concept's own pair where only that is known.

    w_s = (mean over the concept's words of their best cosine with the prompt's tokens)^power, normalised to sum 1.
    """

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        pairs = {
            n: Change(((a.detach().cpu().clone(), b.detach().cpu().clone()),))
            for n, (a, b) in low_rank(adapter).factors.items()
        }
        own = context.model.features([context.token])[0]
        words = memory.under("features") | {context.concept: own[1:3].cpu()}  # two words, behind the start token
        kept = [*memory.facts.get("kept", []), context.concept]
        return (
            memory.with_delta(Delta(pairs), f"own/{context.concept}")
            .with_tensors("features", words)
            .with_facts(kept=kept)
        )

    def recall(memory: Memory, wanted: Wanted) -> Delta:
        kept = memory.facts.get("kept", [])
        if not kept:
            return Delta()
        if wanted.features is None:
            return memory.delta(f"own/{wanted.concept}")
        prompt = F.normalize(wanted.features(), dim=1)
        words = memory.under("features")
        likeness = torch.stack([(F.normalize(words[c], dim=1) @ prompt.T).amax(dim=1).mean() for c in kept]) ** power
        total = Delta()
        for concept, share in zip(kept, (likeness / likeness.sum()).tolist(), strict=True):
            total = total + _scaled(memory.delta(f"own/{concept}"), scale * share)
        return total

    carries = frozenset({"own", "features"})
    return Consolidate(remember, recall, knows="prompt", strict=False, forget=by_name, carries=carries)


def _scaled(delta: Delta, factor: float) -> Delta:
    return Delta({name: Change(tuple((a, factor * b) for a, b in change.pairs)) for name, change in delta.items()})


def METHOD(rank: Count = 4, weight: Weight = 0.1, scale: Positive = 0.8, power: Count = 4) -> Method:
    """A new pair and two new words on the untouched base, every one kept."""
    return Method(
        adapter=with_words(lora(rank, "cross"), WordSpec(("random", "class"), drop_noun=True)),
        start=uniform_on_base,
        guard=kept_apart(weight),
        consolidate=elastic_aggregation(scale, power),
    )
