"""Slot 3, rehearsal: the denoising loss on images of past concepts, kept or drawn."""

from collections.abc import Callable

import torch
from torch import Tensor

from perdure.memory import Memory
from perdure.method import Adapter, Context, Guard, Protection, Step


def rehearse(weight: float, source: Callable[[Memory, Context], tuple[Tensor, list[str]]]) -> Guard:
    """The denoising loss on images of past concepts, a batch as large as the lesson's own each step.

    `source` gives latents (n, c, h, w) and a caption for each, once a lesson.
    """

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        if weight == 0 or context.lesson == 1:
            return Protection()
        latents, captions = source(memory, context)

        def penalty(step: Step) -> Tensor:
            size = step.portion.whole(step.predicted)
            picked = torch.randint(len(latents), (size,), generator=context.generator("rehearse", step.number))
            whole = context.model.batch_of(
                latents[picked], [captions[i] for i in picked.tolist()], "rehearse", step.number
            )
            batch = step.portion.of(whole)
            return weight * context.model.loss(batch)

        return Protection(penalties={"rehearsal": penalty})

    return guard


def kept_images(memory: Memory, context: Context) -> tuple[Tensor, list[str]]:
    """The images that the memory keeps, as latents: breaks the no-data rule."""
    kept = memory.under("replay")
    captions = memory.facts["replay"]
    latents = torch.cat([kept[name] for name in captions])
    return latents, [caption for name in captions for caption in captions[name]]


def drawn_images(count: int) -> Callable[[Memory, Context], tuple[Tensor, list[str]]]:
    """`count` images of each past caption, drawn once by the model as it was before this lesson (Shin et al. 2017)."""

    def source(memory: Memory, context: Context) -> tuple[Tensor, list[str]]:
        captions = [captions[0] for captions in memory.facts["captions"].values()]
        return context.model.draw(captions, count), [caption for caption in captions for _ in range(count)]

    return source
