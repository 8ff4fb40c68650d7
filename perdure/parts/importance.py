"""Which weights matter for some images: scores (out, in) of every target projection, and masks from them.

CNS (Liao et al. 2025, arXiv 2510.02296) names base, general and concept neurons but gives no formula in public text.
Three readings of "responsive": `fisher` and `saliency` ask how the loss on noised images follows a weight; `wanda` (Sun
et al. 2023, arXiv 2306.11695; ConceptPrune defines skilled neurons so) multiplies a weight with its inputs.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from perdure.method import Model

Scores = Mapping[str, Tensor]
"""Projection -> (out, in)."""
Masks = Mapping[str, Tensor]
"""Projection -> (out, in) of booleans."""
Score = Callable[[Model, Scores, Any], Scores]
"""(model, weights, batch) -> scores."""
Granularity = Literal["element", "row", "col"]
Among = Literal["layer", "row", "all"]


def fisher(model: Model, weights: Scores, batch: Any) -> Scores:
    """(dL/dW)^2 of a batch."""
    return {name: gradient.square() for name, gradient in _loss_gradients(model, batch).items()}


def saliency(model: Model, weights: Scores, batch: Any) -> Scores:
    """|W * dL/dW| of a batch."""
    return {name: (weights[name] * gradient).abs() for name, gradient in _loss_gradients(model, batch).items()}


def wanda(model: Model, weights: Scores, batch: Any) -> Scores:
    """|W| * || X ||_2, X (tokens, in) what enters the projection for a batch.

    What enters keys and values is text on Stable Diffusion: there the images of a batch do not matter, its captions do.
    """
    return {name: weights[name].abs() * norms for name, norms in model.input_norms(batch).items()}


def pick(kind: str) -> Score:
    """The score function of a name."""
    return {"fisher": fisher, "saliency": saliency, "wanda": wanda}[kind]


def _loss_gradients(model: Model, batch: Any) -> Scores:
    return model.gradients(lambda: model.loss(batch))


def mean(scores: Iterable[Scores]) -> dict[str, Tensor]:
    """The mean of some scores (at least one), added up one by one: together they are many times the weights."""
    total: dict[str, Tensor] = {}
    count = 0
    for one in scores:
        total = {name: score + total[name] if name in total else score for name, score in one.items()}
        count += 1
    return {name: score / count for name, score in total.items()}


def lines(scores: Scores, granularity: Granularity) -> dict[str, Tensor]:
    """What is ranked: entries (out, in) as they are, or the means of rows (out, 1) or of columns (1, in)."""
    axis = {"element": None, "row": 1, "col": 0}[granularity]
    return {name: score if axis is None else score.mean(axis, keepdim=True) for name, score in scores.items()}


def top(scores: Scores, share: float, among: Among) -> dict[str, Tensor]:
    """Masks of the top `share` in [0, 1] within each projection (`layer`), each output row, or over `all` of them.

    Whole rows have none of their own kind beside them in a row: they are ranked within their projection.
    """
    if among == "all":
        flat = _largest(torch.cat([score.flatten() for score in scores.values()]).unsqueeze(0), share).squeeze(0)
        parts = torch.split(flat, [score.numel() for score in scores.values()])
        return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}
    by_rows = {name: among == "row" and score.shape[1] > 1 for name, score in scores.items()}
    ranked = {name: score if by_rows[name] else score.reshape(1, -1) for name, score in scores.items()}
    return {name: _largest(score, share).view_as(scores[name]) for name, score in ranked.items()}


def _largest(score: Tensor, share: float) -> Tensor:
    """The top `share` of each row."""
    count = round(share * score.shape[1])
    mask = torch.zeros_like(score, dtype=torch.bool)
    return mask.scatter(1, score.topk(count, dim=1).indices, True)
