"""Images for evaluation: fixed prompts, fixed latents, whatever delta lies under the base."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from perdure.bases import performing
from perdure.bases.backbone import Backbone
from perdure.bases.batch import on, rows
from perdure.bases.family import Condition
from perdure.bases.laying import Moved
from perdure.bases.regions import Regions
from perdure.bases.words import words_of
from perdure.errors import TrainingError
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Method, Wanted, Word
from perdure.plan import Sampling
from perdure.plan.performance import Decoding, Precision
from perdure.progress import Advance
from perdure.seeds import generator

Pairs = Sequence[tuple[int, int]]
"""What one batch draws: (number of the prompt, number of the latent)."""
Finish = Callable[[Backbone, Tensor], Any]
"""What is made of the latents of a batch, on the process that drew it."""


def latents(backbone: Backbone, count: int, side: int, seed: int) -> Tensor:
    """Initial noise (count, c, h/f, w/f); number k is the same for every prompt, concept, lesson and method."""
    shape = (backbone.units.channels, backbone.latent_side(side), backbone.latent_side(side))
    return torch.stack([torch.randn(shape, generator=generator(seed, "latent", k)) for k in range(count)])


@contextmanager
def remembered(backbone: Backbone, method: Method, memory: Memory, concept: str | None, prompt: str) -> Iterator[None]:
    """The base with what a memory recalls: weight differences under it, learnt words in its text encoders."""
    with spoken(backbone, memory), backbone.laid(recalled(backbone, method, memory, concept, prompt)):
        yield


def spoken(backbone: Backbone, memory: Memory) -> AbstractContextManager[None]:
    """The text encoders with the words that a memory holds."""
    return backbone.speaking({token: partial(_same, word) for token, word in words_of(memory).items()})


def recalled(backbone: Backbone, method: Method, memory: Memory, concept: str | None, prompt: str) -> Delta:
    """The weight differences that a memory recalls for a concept or a prompt, while its words are spoken."""
    wanted = Wanted(concept, lambda: backbone.encode_prompts([prompt])["text"][0].float().cpu())
    return method.consolidate.recall(memory, wanted)


def _same(word: Word) -> Word:
    return word


def images(
    backbone: Backbone,
    method: Method,
    memory: Memory,
    concept: str | None,
    prompts: Sequence[str],
    sampling: Sampling,
    side: int,
    advance: Advance = lambda n, note: None,
) -> list[Image.Image]:
    """Images of every prompt from every fixed latent, as the memory recalls them; prompt by prompt."""
    backbone = backbone.drawn_in(sampling.precision)
    return Recall(backbone, method, memory).images(concept, prompts, sampling, side, advance)


class Recall:
    """What a memory recalls with a method: each delta is found, and put together on the device, once for all cells
    that it is asked for in a row.
    """

    def __init__(self, backbone: Backbone, method: Method, memory: Memory) -> None:
        self.memory = memory
        self._backbone, self._method = backbone, method
        self._asked: tuple[str | None, ...] | None = None
        self._delta = Delta()
        self._ready: Callable[[], AbstractContextManager[None]] | None = None
        self._digests: dict[tuple[str | None, ...], str] = {}

    def images(
        self, concept: str | None, prompts: Sequence[str], sampling: Sampling, side: int,
        advance: Advance = lambda n, note: None, first: int = 0,
    ) -> list[Image.Image]:  # fmt: skip
        """Images of every prompt from every fixed latent, the first of which has that number; prompt by prompt."""
        drawn: list[Image.Image] = []
        with spoken(self._backbone, self.memory):
            for group in self._groups(prompts):
                with self._laid(concept, group[0]):
                    drawn += draw(self._backbone, group, sampling, side, advance, first=first)
        return drawn

    def digests(self, concept: str | None, prompts: Sequence[str]) -> list[str]:
        """SHA-256 of what is laid under each projection: for all prompts, or for each where the method knows it."""
        with spoken(self._backbone, self.memory):
            return [self._digest(concept, group[0]) for group in self._groups(prompts)]

    def _groups(self, prompts: Sequence[str]) -> list[list[str]]:
        return [[prompt] for prompt in prompts] if self._method.consolidate.knows == "prompt" else [list(prompts)]

    def _find(self, concept: str | None, prompt: str) -> tuple[str | None, ...]:
        """Have the delta at hand; returns what it depends on."""
        told = {"nothing": (), "concept": (concept,), "prompt": (concept, prompt)}
        asked: tuple[str | None, ...] = told[self._method.consolidate.knows]
        if asked != self._asked:
            self._ready, self._asked = None, asked
            self._delta = recalled(self._backbone, self._method, self.memory, concept, prompt)
        return asked

    def _digest(self, concept: str | None, prompt: str) -> str:
        asked = self._find(concept, prompt)
        if asked not in self._digests:
            self._digests[asked] = self._delta.digest
        return self._digests[asked]

    def _laid(self, concept: str | None, prompt: str) -> AbstractContextManager[None]:
        self._find(concept, prompt)
        self._ready = self._ready or self._backbone.ready(self._delta)
        return self._ready()


def draw_latents(
    backbone: Backbone, prompts: Sequence[str], sampling: Sampling, side: int, advance: Advance = lambda n, note: None
) -> Tensor:
    """Latents (prompts x images, c, h/f, w/f), prompt by prompt, in batches of `sampling.batch_size`.

    Raises TrainingError where they are not finite.
    """
    drawn = torch.cat(_drawn(backbone, prompts, sampling, side, advance, _kept))
    if not (finite := drawn.flatten(1).isfinite().all(1)).all():
        raise _spoilt(prompts[int(finite.int().argmin()) // sampling.images_per_prompt], "numbers that are not finite")
    return drawn.to(backbone.device)


def draw(
    backbone: Backbone, prompts: Sequence[str], sampling: Sampling, side: int,
    advance: Advance = lambda n, note: None, regions: Regions | None = None, own: Sequence[Delta] = (),
    first: int = 0,
) -> list[Image.Image]:  # fmt: skip
    """Images of every prompt from every fixed latent, prompt by prompt; regions, if any, are in all of them.

    own: what lies under each region, where that is something else than under the picture; first: number of the first
    latent. Raises TrainingError for what is no picture: numbers that are not finite, or one colour everywhere.
    """
    decoded = partial(_decoded, precision=sampling.decoding)
    drawn = _drawn(backbone, prompts, sampling, side, advance, decoded, regions, own, first)
    images = [image for batch in drawn for image in batch]
    for number, image in enumerate(images):
        if image is None or all(least == most for least, most in image.getextrema()):
            what = "numbers that are not finite" if image is None else "one colour everywhere"
            raise _spoilt(prompts[number // sampling.images_per_prompt], what)
    return images


def in_force(backbone: Backbone, sampling: Sampling, side: int) -> dict[str, Any]:
    """How pictures of that side are drawn here, as a cell records it."""
    drawer, performance = backbone.drawn_in(sampling.precision), backbone.performance
    return {
        **performance.model_dump(mode="json", exclude={"checkpoint_seconds", "compile_training"}),
        "device": backbone.device.type,
        "precision": str(drawer.dtype).removeprefix("torch."),
        "decoding": sampling.decoding,
        "batch": drawer.fits.get(side, sampling.batch_size),
    }


def _at_once(
    backbone: Backbone, encoded: Condition, negative: Condition, noise: Tensor, sampling: Sampling, side: int
) -> int:
    """How many pictures are drawn at once: what the plan says, or what `performance.batch: auto` finds to fit."""
    if backbone.performance.batch == "plan":
        return sampling.batch_size
    if side not in backbone.fits:

        def draw(count: int) -> None:
            told, away = rows(encoded, [0] * count), rows(negative, [0] * count)
            latent = backbone.draw(told, away, noise[[0] * count], 1, sampling.guidance, "default")
            backbone.decode(latent, sampling.decoding)

        backbone.fits[side] = performing.fitting(draw, backbone.device, sampling.batch_size)
    return backbone.fits[side]


def _spoilt(prompt: str, what: str) -> TrainingError:
    return TrainingError(
        f"drawing {prompt!r} gave {what}, which is no picture and is not scored; try a smaller training.learning_rate, "
        "a smaller sampling.guidance, or training.precision fp32"
    )


def _drawn(
    backbone: Backbone, prompts: Sequence[str], sampling: Sampling, side: int, advance: Advance, finish: Finish,
    regions: Regions | None = None, own: Sequence[Delta] = (), first: int = 0,
) -> list[Any]:  # fmt: skip
    """All batches, finished; several processes draw whole batches in turn, so that the batches stay what they are."""
    count = sampling.images_per_prompt
    noise = latents(backbone, first + count, side, sampling.seed)[first:]
    encoded, negative = backbone.encode_prompts(prompts), backbone.encode_negative(sampling.negative_prompt)
    pairs = [(prompt, k) for prompt in range(len(prompts)) for k in range(count)]
    size = _at_once(backbone, encoded, negative, noise, sampling, side)
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    processes = backbone.processes
    if not processes.available(backbone.origin) or len(batches) == 1:
        return _each(backbone, batches, encoded, negative, noise, sampling, finish, advance, regions, own)
    moved, turns = backbone.moved(), processes.count
    sent = on(encoded, "cpu"), on(negative, "cpu"), noise, sampling, finish, regions and regions.on("cpu"), own
    processes.call(help_draw, backbone.drawing_in, moved, batches, *sent)
    with processes.together(), backbone.as_first(moved):
        mine = _each(
            backbone, batches[::turns], encoded, negative, noise, sampling, finish,
            lambda n, note: advance(min(n * turns, len(pairs)), note), regions, own,
        )  # fmt: skip
        shares = processes.gathered(mine)
    return [shares[k % turns][k // turns] for k in range(len(batches))]


def help_draw(
    backbone: Backbone, precision: Precision, moved: Moved, batches: Sequence[Pairs], encoded: Condition,
    negative: Condition, noise: Tensor, sampling: Sampling, finish: Finish, regions: Regions | None,
    own: Sequence[Delta],
) -> None:  # fmt: skip
    """What another process does when the first has batches to draw, with the weights that the first has."""
    processes, backbone = backbone.processes, backbone.drawn_in(precision)
    with processes.together(), backbone.as_first(moved):
        mine = batches[processes.number :: processes.count]
        encoded, negative = on(encoded, backbone.device), on(negative, backbone.device)
        there = regions and regions.on(backbone.device)
        drawn = _each(backbone, mine, encoded, negative, noise, sampling, finish, regions=there, own=own)
        processes.gathered(drawn)


def _each(
    backbone: Backbone, batches: Sequence[Pairs], encoded: Condition, negative: Condition, noise: Tensor,
    sampling: Sampling, finish: Finish, advance: Advance = lambda n, note: None, regions: Regions | None = None,
    own: Sequence[Delta] = (),
) -> list[Any]:  # fmt: skip
    finished = []
    if regions is not None:
        regions = replace(regions, under=[backbone.ready(delta) for delta in own])
    whole = max(map(len, batches), default=0) if backbone.performance.compile else 0  # code is compiled for one size
    for asked in batches:
        pairs = [*asked, *[asked[-1]] * (whole - len(asked))]
        latent = backbone.draw(
            rows(encoded, [prompt for prompt, _ in pairs]),
            rows(negative, [0] * len(pairs)),
            noise[[k for _, k in pairs]],
            sampling.steps,
            sampling.guidance,
            sampling.scheduler,
            regions,
            sampling.guidance_until,
        )
        finished.append(finish(backbone, latent[: len(asked)]))
        advance(len(asked), "")
    return finished


def _kept(backbone: Backbone, latent: Tensor) -> Tensor:
    return latent.cpu()


def _decoded(backbone: Backbone, latent: Tensor, precision: Decoding) -> list[Image.Image | None]:
    """The images; None where a latent is not finite."""
    finite = latent.flatten(1).isfinite().all(1).tolist()
    images = backbone.decode(latent.nan_to_num(), precision)
    return [image if sound else None for image, sound in zip(images, finite, strict=True)]
