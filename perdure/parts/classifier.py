"""Diffusion classifier scores: which of several prompts explains a noised image best (Jha et al. 2025, arXiv
2410.00700).

p(c_i | x) = softmax_i(- || eps - eps_theta(x_t, t, c_i) ||^2 / T), one draw of (t, eps) a batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perdure.memory import Memory
from perdure.method import Adapter, Context, Guard, Protection, Step
from perdure.parts.consolidate import Loss, Remember, denoising


def candidates(memory: Memory, context: Context, count: int, number: int) -> list[str]:
    """The current concept's caption, the bare class, and past captions drawn for this step: at most `count` prompts."""
    past = [captions[0] for captions in memory.facts.get("captions", {}).values()]
    order = torch.randperm(len(past), generator=context.generator("candidates", number)).tolist()
    bare = " ".join(context.model.captions[0].replace(context.token, " ").split())
    return [context.model.captions[0], bare, *(past[i] for i in order)][: max(2, count)]


def log_scores(context: Context, batch: Any, prompts: Sequence[str], temperature: float) -> Tensor:
    """Log probabilities (b, prompts) of a batch's images under each prompt."""
    size = len(batch.captions)
    errors = [context.model.error(batch, context.model.predict(batch, [prompt] * size)) for prompt in prompts]
    return torch.log_softmax(-torch.stack(errors, dim=1) / temperature, dim=1)


def classified(weight: float, count: int, temperature: float) -> Guard:
    """weight * cross entropy of the scores against the current concept: its images must be explained by its own
    prompt.
    """

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        if weight == 0:
            return Protection()

        def penalty(step: Step) -> Tensor:
            prompts = candidates(memory, context, count, step.number)
            return -weight * log_scores(context, step.batch, prompts, temperature)[:, 0].mean()

        return Protection(penalty=penalty)

    return guard


def with_scores(weight: float, count: int, temperature: float) -> Loss:
    """The denoising loss plus the weighted cross entropy: what the Fisher information is taken of."""

    def loss(memory: Memory, context: Context, batch: Any) -> Tensor:
        scores = log_scores(context, batch, candidates(memory, context, count, 0), temperature)
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
            prompts = candidates(memory, context, count, number)
            teachers = [(taught, prompts[0]), (memory.delta(f"pool/{past}"), memory.facts["captions"][past][0])]
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
    context: Context, batch: Any, teacher: Any, own: str, prompts: list[str], beta: float, temperature: float
) -> Tensor:
    """Cross entropy between a teacher's and the student's scores, plus beta * squared difference of their
    predictions.
    """
    model, size = context.model, len(batch.captions)
    with torch.no_grad():
        errors = [model.error(batch, model.under(teacher, batch, [prompt] * size)) for prompt in prompts]
        target = torch.softmax(-torch.stack(errors, dim=1) / temperature, dim=1)
        wanted = model.under(teacher, batch, [own] * size)
    scores = log_scores(context, batch, prompts, temperature)
    difference = (model.predict(batch, [own] * size) - wanted).square().mean()
    return -(target * scores).sum(dim=1).mean() + beta * difference
