"""Concept neurons (Liao et al. 2025, CNS, arXiv 2510.02296): entries that a concept needs and that have no general use.

The paper names base, general and concept neurons but gives no formula in public text. Which weights matter for some
images is read in three ways: `fisher` and `saliency` ask how the loss on noised images follows a weight; `wanda` (Sun
et al. 2023, arXiv 2306.11695; ConceptPrune defines skilled neurons so) multiplies a weight with its inputs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Adapter, Context, Model
from perdure.parts.adapter import selected

SAMPLES = 32
"""Noised images of the concept whose scores are averaged: a single gradient is mostly noise."""
CALIBRATION = 16
"""Pictures of nothing in particular: one that the model draws for each calibration prompt."""
NOISES = 4
"""Copies of each of them, each with other noise, whose scores are averaged."""
Scores = Mapping[str, Tensor]
"""Projection -> (out, in)."""
Masks = Mapping[str, Tensor]
"""Projection -> (out, in) of booleans."""
Score = Callable[[Model, Scores, Any], Scores]
"""(model, weights, batch) -> scores."""
Granularity = Literal["element", "row", "col"]
Among = Literal["layer", "row", "all"]


@dataclass(frozen=True)
class Choice:
    """How concept neurons are chosen.

    Base neurons are the top `base_share` by `importance`, ranked `among` those of a layer, of an output row, or all.
    General ones among them are taken away: those in an equal top share for at least a fraction `vote` of the
    calibration prompts (`general="vote"`), or those that score no more for the concept than for calibration prompts
    on average (`difference`, as ConceptPrune compares two sets of prompts). With a `density` so many of the least
    general ones stay instead as make up at most that share of all entries; `density` 1 keeps all base neurons.
    """

    importance: Literal["fisher", "saliency", "wanda"]
    among: Among
    granularity: Granularity
    base_share: float
    general: Literal["vote", "difference"]
    vote: float
    density: float | None


def concept_neurons(
    choice: Choice, entries: Literal["chosen", "random"]
) -> Callable[[Adapter, Memory, Context], Delta]:
    """A start: select the concept's neurons; on top of everything learnt.

    `entries="random"` is the control: as many entries in each projection as were chosen, drawn at random.
    """

    def start(adapter: Adapter, memory: Memory, context: Context) -> Delta:
        under = memory.delta()
        chosen, calibration = selected(adapter), context.model.general(CALIBRATION, NOISES)
        with context.model.laid(under):
            weights = {name: context.model.weight(name) for name in chosen.shapes}

            def averaged(batches: Iterable[Any]) -> Scores:
                scores = (pick(choice.importance)(context.model, weights, batch) for batch in batches)
                return ranked_by(mean(scores), choice.granularity)

            own = averaged(context.model.batches("importance", SAMPLES, 1))
            base, kept = concept_masks(own, map(averaged, calibration), choice)
        masks = {name: mask.expand(chosen.shapes[name]) for name, mask in kept.items()}
        if entries == "random":
            masks = shuffled(masks, context.generator("random entries", context.lesson))
        chosen.select(masks)
        chosen.notes["general"] = round(1 - _count(kept) / max(1, _count(base)), 6)
        return under

    return start


def concept_masks(own: Scores, prompts: Iterable[Scores], choice: Choice) -> tuple[Masks, Masks]:
    """Base neurons, and the concept neurons among them, from the concept's scores and each calibration prompt's."""
    base = top(own, choice.base_share, choice.among)
    if choice.general == "vote":
        shares = mean({n: m.float() for n, m in top(one, choice.base_share, choice.among).items()} for one in prompts)
        special = {name: choice.vote - share for name, share in shares.items()}
    else:
        usual = mean(prompts)
        special = {name: score - usual[name] for name, score in own.items()}
    line = 0.0 if choice.density is None else _line(base, special, choice.density)
    return base, {name: mask & (special[name] > line) for name, mask in base.items()}


def _line(base: Masks, special: Scores, density: float) -> float:
    """The value above which at most a share `density` of all entries lies, base neurons only."""
    values = torch.cat([special[name][mask] for name, mask in base.items()])
    count = int(density * sum(mask.numel() for mask in base.values()))
    return float(values.topk(count + 1).values[-1]) if count < len(values) else -torch.inf


def shuffled(masks: Masks, generator: torch.Generator) -> dict[str, Tensor]:
    """As many entries in each projection, drawn at random."""
    orders = {name: torch.randperm(mask.numel(), generator=generator) for name, mask in masks.items()}
    return {name: mask.flatten()[orders[name].to(mask.device)].view_as(mask) for name, mask in masks.items()}


def _count(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def shares(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    """As facts of the concept, each in [0, 1]: what share of all entries was chosen, and of the base neurons general.

    Beside them how much of the choice the past had moved already, and of all entries, which is what a choice at random
    would meet. `memory` is the past. It holds what the past has moved, not who moved it: overlaps of pairs of concepts
    are for `perdure analyse`, which reads the lineage.
    """
    chosen, past = selected(adapter), memory.delta()
    size = sum(out * into for out, into in chosen.shapes.values())
    count = sum(len(index) for index in chosen.index.values())
    moved = {name: past[name].matrix().flatten() != 0 for name in chosen.index if name in past}
    again = sum(int(mask[chosen.index[name].cpu()].sum()) for name, mask in moved.items())
    own = {
        "density": round(count / size, 6),
        "moved before": round(again / max(1, count), 6),
        "moved of all": round(_count(moved) / size, 6),
        **chosen.notes,
    }
    return memory.with_facts(neurons={**memory.facts.get("neurons", {}), context.concept: own})


# --- which weights matter for some images ----------------------------------------------------------------------------


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


def ranked_by(scores: Scores, granularity: Granularity) -> dict[str, Tensor]:
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
