"""Concept neurons (CNS, Liao et al. 2025): entries that the concept needs and that are of no general use."""

from collections.abc import Callable

from perdure.delta import Delta
from perdure.memory import Memory
from perdure.method import Adapter, Context
from perdure.parts.adapter import selected
from perdure.parts.importance import Granularity, pick, voted

BATCHES = 8
"""Batches of images that gradient scores are taken on."""


def concept_neurons(
    importance: str, granularity: Granularity, base_share: float, general_share: float, vote: float
) -> Callable[[Adapter, Memory, Context], Delta]:
    """A start: select base neurons and not general ones; on top of everything learnt."""

    def start(adapter: Adapter, memory: Memory, context: Context) -> Delta:
        under = memory.delta()
        entries = selected(adapter)
        with context.model.laid(under):
            weights = {name: context.model.weight(name) for name in entries.shapes}
            score = pick(importance)
            if importance == "wanda":
                own, others = (
                    score(context, weights, _prompts(context)),
                    score(context, weights, context.model.calibration),
                )
            else:
                own = score(context, weights, context.model.batches("importance", BATCHES, 1))
                others = score(context, weights, _drawn_batches(context))
            base = voted(own, base_share, granularity, vote)
            general = voted(others, general_share, granularity, vote)
        entries.select({name: base[name] & ~general[name] for name in base})
        return under

    return start


def _prompts(context: Context) -> list[str]:
    """The concept in a few sentences: its captions and plain settings."""
    own = list(dict.fromkeys(context.model.captions))
    return own + [
        f"a photo of a {context.phrase} {where}"
        for where in ("on the beach", "in the snow", "in the city", "on a table")
    ]


def _drawn_batches(context: Context) -> list[object]:
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
