"""Images for evaluation: fixed prompts, fixed latents, whatever delta lies under the base."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from perdure.backbones.backbone import Backbone, rows
from perdure.memory import Memory
from perdure.method import Method, Wanted, Word, words_of
from perdure.plan import Sampling
from perdure.progress import Advance
from perdure.seeds import generator


def latents(backbone: Backbone, count: int, side: int, seed: int) -> Tensor:
    """Initial noise (count, c, h/f, w/f); number k is the same for every prompt, concept, lesson and method."""
    shape = (backbone.latent_channels, backbone.latent_side(side), backbone.latent_side(side))
    return torch.stack([torch.randn(shape, generator=generator(seed, "latent", k)) for k in range(count)])


@contextmanager
def remembered(backbone: Backbone, method: Method, memory: Memory, concept: str | None, prompt: str) -> Iterator[None]:
    """The base with what a memory recalls: weight differences under it, learnt words in its text encoders."""
    words = {token: partial(_same, word) for token, word in words_of(memory).items()}
    with backbone.speaking(words):
        wanted = Wanted(concept, lambda: backbone.encode_prompts([prompt])["text"][0].float().cpu())
        with backbone.laid(method.consolidate.recall(memory, wanted)):
            yield


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
    groups = [[prompt] for prompt in prompts] if method.consolidate.knows == "prompt" else [list(prompts)]
    drawn: list[Image.Image] = []
    for group in groups:
        with remembered(backbone, method, memory, concept, group[0]):
            drawn += draw(backbone, group, sampling, side, advance)
    return drawn


def draw_latents(
    backbone: Backbone, prompts: Sequence[str], sampling: Sampling, side: int, advance: Advance = lambda n, note: None
) -> Tensor:
    """Latents (prompts x images, c, h/f, w/f), prompt by prompt, in batches of `sampling.batch_size`."""
    count = sampling.images_per_prompt
    noise = latents(backbone, count, side, sampling.seed)
    encoded = backbone.encode_prompts(prompts)
    negative = backbone.encode_prompts([sampling.negative_prompt])
    pairs = [(prompt, k) for prompt in range(len(prompts)) for k in range(count)]
    drawn = []
    for start in range(0, len(pairs), sampling.batch_size):
        chunk = pairs[start : start + sampling.batch_size]
        latent = backbone.draw(
            rows(encoded, [prompt for prompt, _ in chunk]),
            rows(negative, [0] * len(chunk)),
            noise[[k for _, k in chunk]],
            sampling.steps,
            sampling.guidance,
            sampling.scheduler,
        )
        drawn.append(latent)
        advance(len(chunk), "")
    return torch.cat(drawn)


def draw(
    backbone: Backbone, prompts: Sequence[str], sampling: Sampling, side: int, advance: Advance = lambda n, note: None
) -> list[Image.Image]:
    """Images of every prompt from every fixed latent, prompt by prompt."""
    drawn = draw_latents(backbone, prompts, sampling, side, advance)
    return [image for part in torch.split(drawn, sampling.batch_size) for image in backbone.decode(part)]
