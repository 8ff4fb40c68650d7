"""Which weights matter for some prompts or images: scores (out, in) of every target projection, and masks from them.

CNS (Liao et al. 2025, arXiv 2510.02296) names base, general and concept neurons but gives no formula in public text.
`wanda` is the reading taken (Sun et al. 2023, arXiv 2306.11695; ConceptPrune defines skilled neurons so); `saliency`
and `fisher` are the alternatives. Scores are compared within each output row.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from perdure.method import Context

Scores = Mapping[str, Tensor]
Granularity = Literal["element", "row", "col"]


def wanda(context: Context, weights: Scores, prompts: Sequence[str]) -> Iterable[Scores]:
    """|W| * || X ||_2 for each prompt, X its text features (tokens, in): what keys and values are computed from."""
    return by_norms(weights, input_norms(context, prompts))


def input_norms(context: Context, prompts: Sequence[str]) -> list[Tensor]:
    """|| X ||_2 (in,) for each prompt."""
    return [features.float().norm(dim=0) for features in context.model.features(prompts)]


def by_norms(weights: Scores, norms: Sequence[Tensor]) -> Iterable[Scores]:
    """|W| * norm for each prompt's norms: one at a time, for all together are many times the weights."""
    for one in norms:
        yield {name: weight.abs() * one.to(weight.device) for name, weight in weights.items()}


def saliency(context: Context, weights: Scores, batches: Sequence[Any]) -> Iterable[Scores]:
    """|W * dL/dW| for each batch."""
    for batch in batches:
        gradients = _loss_gradients(context, batch)
        yield {name: (weight * gradients[name].to(weight.device)).abs() for name, weight in weights.items()}


def fisher(context: Context, weights: Scores, batches: Sequence[Any]) -> Iterable[Scores]:
    """(dL/dW)^2 for each batch."""
    for batch in batches:
        gradients = _loss_gradients(context, batch)
        yield {name: gradients[name].square().to(weight.device) for name, weight in weights.items()}


def _loss_gradients(context: Context, batch: Any) -> Scores:
    return context.model.gradients(lambda: context.model.loss(batch))


def voted(scores: Iterable[Scores], share: float, granularity: Granularity, vote: float) -> dict[str, Tensor]:
    """Masks (out, in) of the entries that are among the top `share` for at least a fraction `vote` of the scores."""
    counts: dict[str, Tensor] = {}
    total = 0
    for one in scores:
        total += 1
        for name, score in one.items():
            mask = top(score, share, granularity).float()
            counts[name] = counts[name] + mask if name in counts else mask
    return {name: count >= vote * total - 1e-6 for name, count in counts.items()}


def top(score: Tensor, share: float, granularity: Granularity) -> Tensor:
    """The top `share` of a score matrix (out, in): entries within each row, or whole rows or columns by their sum."""
    if granularity == "element":
        return _largest(score, share)
    axis = 1 if granularity == "row" else 0
    lines = _largest(score.sum(dim=axis).unsqueeze(0), share).squeeze(0)
    return lines.unsqueeze(axis).expand(score.shape)


def _largest(score: Tensor, share: float) -> Tensor:
    count = min(score.shape[1], max(0, round(share * score.shape[1])))
    mask = torch.zeros_like(score, dtype=torch.bool)
    return mask.scatter(1, score.topk(count, dim=1).indices, True) if count else mask


def pick(kind: str) -> Callable[..., Iterable[Scores]]:
    """The score function of a name."""
    return {"wanda": wanda, "saliency": saliency, "fisher": fisher}[kind]
