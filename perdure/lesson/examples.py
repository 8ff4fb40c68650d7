"""Pictures encoded once for a lesson: latents and prompt embeddings, and the batches drawn from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perdure import images
from perdure.bases.backbone import Backbone
from perdure.bases.batch import Batch, joined, rows
from perdure.bases.family import Condition
from perdure.photos.pictures import Picture
from perdure.plan import Times, Training
from perdure.seeds import derive

RESIZE = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}
Draw = Callable[..., torch.Generator]
"""(purpose, step) -> a generator that belongs to them."""


@dataclass(frozen=True)
class Examples:
    """Encoded views: latents (n, c, h, w) and a condition of n rows, on the backbone's device.

    Where latents are drawn anew at each step, `latents` are their means and `deviation` (n, c, h, w) says how far.
    """

    latents: Tensor
    condition: Condition
    captions: tuple[str, ...]
    deviation: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def batch(
        self, backbone: Backbone, size: int, draw: Draw, step: int, purpose: str = "", times: Times = "default"
    ) -> Batch:
        """The batch of one step: every view once an epoch, in an order drawn anew each epoch."""
        index = [self._position(size * step + k, draw, purpose) for k in range(size)]
        where = torch.tensor(index).to(self.latents.device, non_blocking=True)
        latents = self.latents[where]
        if self.deviation is not None:
            spread = torch.randn(latents.shape, generator=draw(f"{purpose}posterior", step))
            latents = latents + self.deviation[where] * spread.to(latents, non_blocking=True)
        captions = [self.captions[i] for i in index]
        return backbone.noised(latents, rows(self.condition, index), captions, draw(f"{purpose}noise", step), times)

    def _position(self, count: int, draw: Draw, purpose: str) -> int:
        epoch, place = divmod(count, len(self))
        order: list[int] = torch.randperm(len(self), generator=draw(f"{purpose}order", epoch)).tolist()
        return order[place]


def encode(backbone: Backbone, pictures: Sequence[Picture], training: Training, seed: int, owner: str) -> Examples:
    """Encode every view of every picture: its first crop, further random crops, and mirror images as the plan says.

    `owner` names whose random numbers are drawn, if the plan gives each lesson its own.
    """
    owner = owner if training.seed_per_lesson else "lesson"
    views, captions, facts = [], [], []
    for number, picture in enumerate(pictures):
        for view, mirrored in product(range(training.views), (False, True) if training.flip else (False,)):
            rng = np.random.default_rng(derive(seed, owner, "crop", number, view))
            how: Literal["center", "random"] = "random" if view or training.crop == "random" else "center"
            crop = images.square(picture.image, training.resolution, how, mirrored, rng, RESIZE[training.resize])
            views.append(torch.from_numpy(images.to_array(crop.image)))
            captions.append(picture.caption)
            facts.append((*crop.original_size, *crop.corner))
    generator = torch.Generator().manual_seed(derive(seed, owner, "encode"))
    tensor = torch.stack(views).permute(0, 3, 1, 2)
    deviation = None
    if training.posterior == "each_step":
        latents, deviation = backbone.posterior(tensor)
    else:
        latents = backbone.encode_images(tensor, generator)
    distinct = list(dict.fromkeys(captions))
    text = rows(backbone.encode_prompts(distinct), [distinct.index(caption) for caption in captions])
    condition = backbone.family.sized(text, facts, training.resolution)
    return Examples(latents, condition, tuple(captions), deviation)


def together(parts: Sequence[Examples]) -> Examples:
    """The examples of several concepts as one set."""
    return Examples(
        torch.cat([p.latents for p in parts]),
        joined([p.condition for p in parts]),
        sum((p.captions for p in parts), ()),
        None if parts[0].deviation is None else torch.cat([p.deviation for p in parts if p.deviation is not None]),
    )
