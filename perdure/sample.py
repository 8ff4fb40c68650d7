"""Images for evaluation: fixed prompts, fixed latents, whatever delta lies under the base."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from perdure.backbones.backbone import Backbone, rows
from perdure.plan import Sampling
from perdure.progress import Advance
from perdure.seeds import generator


def latents(backbone: Backbone, count: int, side: int, seed: int) -> Tensor:
    """Initial noise (count, c, h/f, w/f); number k is the same for every prompt, concept, lesson and method."""
    shape = (backbone.latent_channels, backbone.latent_side(side), backbone.latent_side(side))
    return torch.stack([torch.randn(shape, generator=generator(seed, "latent", k)) for k in range(count)])


def draw(
    backbone: Backbone, prompts: Sequence[str], sampling: Sampling, side: int, advance: Advance = lambda n, note: None
) -> list[Image.Image]:
    """Images of every prompt from every fixed latent, prompt by prompt, in batches of `sampling.batch_size`."""
    count = sampling.images_per_prompt
    noise = latents(backbone, count, side, sampling.seed)
    encoded = backbone.encode_prompts(prompts)
    negative = backbone.encode_prompts([sampling.negative_prompt])
    pairs = [(prompt, k) for prompt in range(len(prompts)) for k in range(count)]
    images: list[Image.Image] = []
    for start in range(0, len(pairs), sampling.batch_size):
        chunk = pairs[start : start + sampling.batch_size]
        images += backbone.draw(
            rows(encoded, [prompt for prompt, _ in chunk]),
            rows(negative, [0] * len(chunk)),
            noise[[k for _, k in chunk]],
            sampling.steps,
            sampling.guidance,
            sampling.scheduler,
        )
        advance(len(chunk), "")
    return images
