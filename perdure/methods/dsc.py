"""DSC: the concept must explain its own images better than other concepts do, held by elastic weight consolidation.

Jha et al.: Mining Your Own Secrets: Diffusion Classifier Scores for Continual Personalization, ICLR 2025, arXiv
2410.00700.

From the paper: diffusion classifier scores over a few concepts, their cross entropy while learning, an online Fisher
of the combined loss, and a consolidation phase of double distillation (`distil`), which needs all past adapters.
Readings: weights, temperature and steps are not public; changes are regularised as products on top of the past, not as
continued factors.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.classifier import classified, double_distillation, with_scores
from perdure.parts.consolidate import add, captions, carrying, online_fisher
from perdure.parts.guard import elastic, every
from perdure.parts.start import fresh
from perdure.plan.ranges import Count, Decay, Positive, Weight

NEEDS = "prompts"


def METHOD(
    rank: Count = 16,
    targets: Targets = "attention",
    scores: Weight = 0.1,
    prompts: Count = 5,
    temperature: Positive = 0.1,
    weight: Weight = 1e4,
    gamma: Decay = 1.0,
    samples: Count = 16,
    distil: bool = False,
    distil_steps: Count = 50,
    distil_rate: Positive = 1e-4,
    beta: Weight = 1.0,
) -> Method:
    """A new pair on top of the past; the scores' cross entropy and the past's Fisher information guard it."""
    fisher = online_fisher(gamma, samples, with_scores(scores, prompts, temperature))
    kept = carrying(carrying(add, captions, brings=True), fisher, "fisher", brings=True)
    phase = double_distillation(distil_steps, distil_rate, beta, prompts, temperature)
    return Method(
        adapter=lora(rank, targets),
        start=fresh,
        guard=every(classified(scores, prompts, temperature), elastic(weight)),
        consolidate=carrying(kept, phase, "pool", strict=False) if distil else kept,
    )
