"""Diffusion classifier scores: which of several prompts explains a noised image best (Jha et al. 2025, arXiv
2410.00700).

p(c_i | x) = softmax_i(- || eps - eps_theta(x_t, t, c_i) ||^2 / T), one draw of (t, eps) a batch. The scores are of
plain errors, as published: `training.min_snr` weights the denoising loss beside them only.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Adapter, Context, Guard, Protection, Step
from perdure.parts.consolidate import Loss, Remember, denoising
from perdure.wording import without

Prompts = Sequence[str]
"""A prompt for each image of a batch."""


def candidates(memory: Memory, context: Context, batch: Any, count: int, number: int) -> Sequence[Prompts]:
    """What may explain a batch, at most `count`: each image's own caption, the same without the concept's token, and
    past concepts' captions drawn for this step.
    """
    own = list(batch.captions)
    past = [captions[0] for captions in memory.facts.get("captions", {}).values()]
    order = torch.randperm(len(past), generator=context.generator("candidates", number)).tolist()
    return [own, [_bare(caption, context) for caption in own], *([past[i]] * len(own) for i in order)][: max(2, count)]


def _bare(caption: str, context: Context) -> str:
    """A caption without the tokens that the lesson teaches."""
    for token in (context.token, *(other.token for other in context.others)):
        caption = without(caption, token)
    return caption


def log_scores(context: Context, batch: Any, prompts: Sequence[Prompts], temperature: float) -> Tensor:
    """Log probabilities (b, prompts) of a batch's images under each of some prompts."""
    errors = [context.model.error(batch, context.model.predict(batch, each)) for each in prompts]
    return torch.log_softmax(-torch.stack(errors, dim=1) / temperature, dim=1)


def classified(weight: float, count: int, temperature: float) -> Guard:
    """weight * cross entropy of the scores against the current concept: its images must be explained by its own
    prompt.
    """

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        if weight == 0:
            return Protection()

        def penalty(step: Step) -> Tensor:
            prompts = candidates(memory, context, step.batch, count, step.number)
            return -weight * log_scores(context, step.batch, prompts, temperature)[:, 0].mean()

        return Protection(penalties={"classified": penalty})

    return guard


def with_scores(weight: float, count: int, temperature: float) -> Loss:
    """The denoising loss plus the weighted cross entropy: what the Fisher information is taken of."""

    def loss(memory: Memory, context: Context, batch: Any) -> Tensor:
        scores = log_scores(context, batch, candidates(memory, context, batch, count, 0), temperature)
        return denoising(memory, context, batch) - weight * scores[:, 0].mean()

    return loss


def double_distillation(steps: int, rate: float, beta: float, count: int, temperature: float) -> Remember:
    """After the lesson: match the scores and predictions of the model just trained, and of one past model at a time.

    Needs every past model's delta, which it keeps: outside the strict regime. Images are the current concept's only.
    """

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        taught = memory.delta() + adapter.weights.delta()
        pool = memory.facts.get("pool", [])
        optimizer = torch.optim.AdamW(adapter.parameters(), rate, weight_decay=0.0)
        for number, batch in enumerate(context.model.batches("distillation", steps if pool else 0, 2)):
            past = pool[number % len(pool)]
            prompts = candidates(memory, context, batch, count, number)
            theirs = [memory.facts["captions"][past][0]] * len(batch.captions)
            teachers = [(taught, prompts[0]), (memory.delta(f"pool/{past}"), theirs)]
            loss = torch.stack(
                [_match(context, batch, delta, own, prompts, beta, temperature) for delta, own in teachers]
            ).sum()
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        kept = memory.with_delta(memory.delta() + adapter.weights.delta(), name=f"pool/{context.concept}")
        return kept.with_facts(pool=[*pool, context.concept])

    return remember


def _match(
    context: Context, batch: Any, teacher: Delta, own: Prompts, prompts: Sequence[Prompts], beta: float,
    temperature: float,
) -> Tensor:  # fmt: skip
    """Cross entropy between a teacher's and the student's scores, plus beta * squared difference of their
    predictions.
    """
    model = context.model
    with torch.no_grad():
        errors = [model.error(batch, model.under(teacher, batch, each)) for each in prompts]
        target = torch.softmax(-torch.stack(errors, dim=1) / temperature, dim=1)
        wanted = model.under(teacher, batch, own)
    scores = log_scores(context, batch, prompts, temperature)
    difference = (model.predict(batch, own) - wanted).square().mean()
    return -(target * scores).sum(dim=1).mean() + beta * difference
