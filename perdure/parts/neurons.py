"""Concept neurons (CNS, Liao et al. 2025): entries that the concept needs and that are of no general use."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from perdure.delta import Delta
from perdure.memory import Memory
from perdure.method import Adapter, Context
from perdure.parts.adapter import selected
from perdure.parts.importance import Granularity, Scores, by_norms, input_norms, pick, voted

BATCHES = 8
"""Batches of images that gradient scores are taken on."""
SEARCH = 7
"""Steps in which the share of general neurons is found: to within 1 %."""
Masks = Mapping[str, Tensor]
"""Projection -> (out, in) of booleans."""


def concept_neurons(
    importance: str, granularity: Granularity, base_share: float, density: float, vote: float
) -> Callable[[Adapter, Memory, Context], Delta]:
    """A start: select base neurons and not general ones; on top of everything learnt.

    Base neurons are among the top `base_share` for the concept. General neurons are those among an equal top share for
    calibration prompts; that share is chosen so that `density` of all weights remain for the concept.
    """

    def start(adapter: Adapter, memory: Memory, context: Context) -> Delta:
        under = memory.delta()
        entries = selected(adapter)
        with context.model.laid(under):
            weights = {name: context.model.weight(name) for name in entries.shapes}
            score = pick(importance)
            others: Callable[[], Iterable[Scores]]
            if importance == "wanda":
                own = score(context, weights, _prompts(context))
                norms = input_norms(context, context.model.calibration)
                others = partial(by_norms, weights, norms)
            else:
                own = score(context, weights, context.model.batches("importance", BATCHES, 1))
                kept = list(score(context, weights, _drawn_batches(context)))  # the search below asks again and again
                others = partial(iter, kept)
            base = voted(own, base_share, granularity, vote)

            def left(share: float) -> Masks:
                general = voted(others(), share, granularity, vote)
                return {name: base[name] & ~general[name] for name in base}

            entries.select(thinned(left, density))
        return under

    return start


def thinned(left: Callable[[float], Masks], density: float) -> Masks:
    """What is left after taking away the smallest share in [0, 1] that leaves at most `density` of all entries.

    `left(share)` are the masks that a share leaves, fewer with every larger share; the share is found by bisection.
    """
    whole = left(0.0)
    if share_open(whole) <= density:
        return whole
    low, high, found = 0.0, 1.0, left(1.0)
    for _ in range(SEARCH):
        middle = (low + high) / 2
        masks = left(middle)
        if share_open(masks) > density:
            low = middle
        else:
            high, found = middle, masks
    return found


def share_open(masks: Masks) -> float:
    """Share of the entries that are selected."""
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def _prompts(context: Context) -> list[str]:
    """The concept in a few sentences: its captions and plain settings."""
    own = list(dict.fromkeys(context.model.captions))
    return own + [
        f"a photo of a {phrase} {where}"
        for phrase in (context.phrase, *(other.phrase for other in context.others))
        for where in ("on the beach", "in the snow", "in the city", "on a table")
    ]


def _drawn_batches(context: Context) -> list[Any]:
    """Batches of images that the model draws for calibration captions: there are no photographs of them."""
    chosen = context.model.calibration[:: max(1, len(context.model.calibration) // BATCHES)][:BATCHES]
    latents = context.model.draw(chosen, 1)
    return [context.model.batch_of(latents[i : i + 1], [caption], "calibration", i) for i, caption in enumerate(chosen)]


def shares(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    """As facts: the density of the concept's neurons, and the share of them that the past had moved already.

    `memory` is the past. Overlaps of pairs of concepts are for `perdure analyse`, which reads the lineage.
    """
    entries, past = selected(adapter), memory.delta()
    sizes = sum(out * into for out, into in entries.shapes.values())
    chosen = sum(len(index) for index in entries.index.values())
    again = sum(
        int((past[name].matrix().flatten()[index.cpu()] != 0).sum())
        for name, index in entries.index.items()
        if name in past
    )
    own = {"density": round(chosen / sizes, 6), "moved before": round(again / max(1, chosen), 6)}
    return memory.with_facts(neurons={**memory.facts.get("neurons", {}), context.concept: own})
