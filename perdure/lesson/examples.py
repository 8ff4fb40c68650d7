"""Pictures encoded once for a lesson: latents and prompt embeddings, and the batches drawn from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from perdure import images
from perdure.bases.backbone import Backbone
from perdure.bases.batch import Batch, joined, on, rows
from perdure.bases.classifier import Classifier
from perdure.bases.family import Condition
from perdure.errors import TrainingError
from perdure.photos import buckets
from perdure.photos.pictures import Picture
from perdure.plan import Times, Training
from perdure.seeds import derive

RESIZE = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}
ONE_SIZE = "pictures are kept by this method, all of one size; leave out training.buckets, or take another method"
Draw = Callable[..., torch.Generator]
"""(purpose, step) -> a generator that belongs to them."""
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Share of a picture that a random part has, and its width by its height: the defaults of torchvision's
RandomResizedCrop (Szegedy et al. 2015), which the code of CODA-Prompt and InfLoRA keeps for ImageNet-R.
"""


class View(NamedTuple):
    """A part of a picture, and the picture's caption."""

    crop: images.Crop
    caption: str


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
        index = [position(size * step + k, len(self), draw, purpose) for k in range(size)]
        return self.chosen(index, backbone, draw, step, purpose, times)

    def chosen(
        self, index: Sequence[int], backbone: Backbone, draw: Draw, step: int, purpose: str, times: Times
    ) -> Batch:
        """The batch of one step, of these views."""
        where = torch.tensor(index).to(self.latents.device, non_blocking=True)
        latents = self.latents[where]
        if self.deviation is not None:
            spread = torch.randn(latents.shape, generator=draw(f"{purpose}posterior", step))
            latents = latents + self.deviation[where] * spread.to(latents, non_blocking=True)
        captions = [self.captions[i] for i in index]
        return backbone.noised(latents, rows(self.condition, index), captions, draw(f"{purpose}noise", step), times)

    @property
    def parts(self) -> "tuple[Examples, ...]":
        """Those of one size each: all."""
        return (self,)

    def told(self, backbone: Backbone, latents: Tensor) -> Condition:
        """What the network is told of other pictures: what it is told of the first of these."""
        return {name: tensor[:1].expand(len(latents), *tensor.shape[1:]) for name, tensor in self.condition.items()}

    def on(self, device: torch.device | str) -> "Examples":
        """The same on a device."""
        deviation = None if self.deviation is None else self.deviation.to(device)
        return Examples(self.latents.to(device), on(self.condition, device), self.captions, deviation)


@dataclass(frozen=True)
class Bucketed:
    """Encoded views of several sizes."""

    parts: tuple[Examples, ...]
    """Those of one size each."""

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def captions(self) -> tuple[str, ...]:
        """The caption of each view, size by size."""
        return sum((part.captions for part in self.parts), ())

    @property
    def latents(self) -> Tensor:
        """Raises TrainingError: they are of several sizes."""
        raise TrainingError(ONE_SIZE)

    def told(self, backbone: Backbone, latents: Tensor) -> Condition:
        """What the network is told of the sizes of other pictures: that they are whole; beside it a text, for now."""
        height, width = backbone.pixels(latents)
        text = rows(self.parts[0].condition, [0] * len(latents))
        return backbone.family.sized(text, [(height, width, 0, 0)] * len(latents), (height, width))

    def batch(
        self, backbone: Backbone, size: int, draw: Draw, step: int, purpose: str = "", times: Times = "default"
    ) -> Batch:
        """The batch of one step, of views of one size: every view once an epoch, in an order drawn anew each epoch.

        Where the views of a size do not fill their last batch, it is filled up with the first of them again.
        """
        counts = [-(-len(part) // size) for part in self.parts]
        epoch, place = divmod(step, sum(counts))
        generator = draw(f"{purpose}order", epoch)
        orders = [torch.randperm(len(part), generator=generator).tolist() for part in self.parts]
        turns = [(number, k) for number, count in enumerate(counts) for k in range(count)]
        number, k = turns[int(torch.randperm(len(turns), generator=generator)[place])]
        order = orders[number]
        index = [order[view % len(order)] for view in range(k * size, (k + 1) * size)]
        return self.parts[number].chosen(index, backbone, draw, step, purpose, times)

    def on(self, device: torch.device | str) -> "Bucketed":
        """The same on a device."""
        return Bucketed(tuple(part.on(device) for part in self.parts))


Encoded = Examples | Bucketed
"""The views of a concept."""


def position(count: int, size: int, draw: Draw, purpose: str) -> int:
    """Which of `size` examples comes after `count` others, where each comes once an epoch."""
    epoch, place = divmod(count, size)
    order: list[int] = torch.randperm(size, generator=draw(f"{purpose}order", epoch)).tolist()
    return order[place]


def encode(backbone: Backbone, pictures: Sequence[Picture], training: Training, seed: int, owner: str) -> Encoded:
    """Encode every view of every picture: its first crop, further random crops, and mirror images as the plan says.

    `owner` names whose random numbers are drawn, if the plan gives each lesson its own. Bucketed with buckets.
    """
    owner = owner if training.seed_per_lesson else "lesson"
    generator = torch.Generator().manual_seed(derive(seed, owner, "encode"))
    by_size: dict[buckets.Size, list[View]] = {}
    for number, picture in enumerate(pictures):
        for view, mirrored in product(range(training.views), (False, True) if training.flip else (False,)):
            rng = np.random.default_rng(derive(seed, owner, "crop", number, view))
            how: Literal["center", "random"] = "random" if view or training.crop == "random" else "center"
            size = buckets.nearest(picture.image.size, training.resolution, training.buckets)
            crop = images.fitted(picture.image, size, how, mirrored, rng, RESIZE[training.resize])
            by_size.setdefault(size, []).append(View(crop, picture.caption))
    parts = [_encoded(backbone, by_size[size], size, training, generator) for size in sorted(by_size)]
    return parts[0] if training.buckets is None else Bucketed(tuple(parts))


def _encoded(
    backbone: Backbone, views: Sequence[View], size: buckets.Size, training: Training, generator: torch.Generator
) -> Examples:
    """Views of one size (width, height)."""
    tensor = torch.stack([torch.from_numpy(images.to_array(v.crop.image)) for v in views]).permute(0, 3, 1, 2)
    deviation = None
    if training.posterior == "each_step":
        latents, deviation = backbone.posterior(tensor)
    else:
        latents = backbone.encode_images(tensor, generator)
    captions = tuple(view.caption for view in views)
    distinct = list(dict.fromkeys(captions))
    text = rows(backbone.encode_prompts(distinct), [distinct.index(caption) for caption in captions])
    condition = backbone.family.sized(text, [(*v.crop.original_size, *v.crop.corner) for v in views], size[::-1])
    return Examples(latents, condition, captions, deviation)


def together(sets: Sequence[Encoded]) -> Encoded:
    """The examples of several concepts as one set."""
    if not isinstance(sets[0], Bucketed):
        return _joined([part for one in sets for part in one.parts])
    by_size: dict[torch.Size, list[Examples]] = {}
    for part in (part for one in sets for part in one.parts):
        by_size.setdefault(part.latents.shape[1:], []).append(part)
    return Bucketed(tuple(_joined(by_size[size]) for size in sorted(by_size)))


def _joined(parts: Sequence[Examples]) -> Examples:
    return Examples(
        torch.cat([p.latents for p in parts]),
        joined([p.condition for p in parts]),
        sum((p.captions for p in parts), ()),
        None if parts[0].deviation is None else torch.cat([p.deviation for p in parts if p.deviation is not None]),
    )


# --- of classes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassBatch:
    """Pictures as bytes (b, 3, side, side), and the class of each."""

    pictures: Tensor
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, some: slice) -> "ClassBatch":
        """Some rows."""
        return ClassBatch(self.pictures[some], self.captions[some])


@dataclass(frozen=True)
class ClassExamples:
    """Pictures of a task as bytes, squares (n, 3, h, h), the class of each, and what each step makes of them.

    `whole`: the same before they were cut (3, h, w), of which `crop: resized` takes its parts; the squares by default.
    """

    pictures: Tensor
    captions: tuple[str, ...]
    side: int
    training: Training
    whole: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.captions)

    def on(self, device: torch.device | str) -> "ClassExamples":
        """The same on a device."""
        return replace(self, pictures=self.pictures.to(device), whole=tuple(one.to(device) for one in self.whole))

    def batch(self, size: int, draw: Draw, step: int, purpose: str = "") -> ClassBatch:
        """The batch of one step: every picture once an epoch, in an order drawn anew each epoch."""
        index = [position(size * step + k, len(self), draw, purpose) for k in range(size)]
        generator = draw(f"{purpose}cut", step)
        cut = [self.cut((self.whole or self.pictures)[i], generator) for i in index]
        return ClassBatch(torch.stack(cut), tuple(self.captions[i] for i in index))

    def cut(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        """What a step sees of a picture (3, h, w), (3, side, side): a random part, mirrored by chance, as planned."""
        if self.training.crop == "resized":
            top, left, height, width = random_part(picture.shape[-2], picture.shape[-1], generator)
            part = picture[None, :, top : top + height, left : left + width].float()
            wide = F.interpolate(part, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
            picture = wide[0].round().to(torch.uint8)  # a mean of bytes is between them
        if self.training.flip and torch.rand((), generator=generator) < 0.5:
            picture = picture.flip(-1)
        return picture


def random_part(high: int, wide: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part of a picture (high, wide), as torchvision's RandomResizedCrop.

    Where none of ten draws fits, the middle of the picture, as much of it as `RATIO` allows.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    for _ in range(10):
        area, ratio = high * wide * uniform(*AREA), RATIO[0] * (RATIO[1] / RATIO[0]) ** uniform(0, 1)
        width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < width <= wide and 0 < height <= high:
            return int(uniform(0, high - height + 1)), int(uniform(0, wide - width + 1)), height, width
    width, height = min(wide, round(high * RATIO[1])), min(high, round(wide / RATIO[0]))
    return (high - height) // 2, (wide - width) // 2, height, width


def encode_classes(backbone: Classifier, pictures: Sequence[Picture], training: Training) -> ClassExamples:
    """The pictures of a task, cut to squares once; whole too where each step cuts a part of its own."""
    shown, captions = [picture.image for picture in pictures], tuple(picture.caption for picture in pictures)
    whole = backbone.whole(shown) if training.crop == "resized" else ()
    return ClassExamples(backbone.read(shown, training), captions, backbone.side, training, whole).on(backbone.device)


def together_classes(parts: Sequence[ClassExamples]) -> ClassExamples:
    """The examples of several tasks as one set."""
    captions: tuple[str, ...] = sum((part.captions for part in parts), ())
    whole: tuple[Tensor, ...] = sum((part.whole for part in parts), ())
    return replace(parts[0], pictures=torch.cat([part.pictures for part in parts]), captions=captions, whole=whole)
