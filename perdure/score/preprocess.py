"""Picture -> what an image encoder reads, in Pillow and numpy alone, so that scores do not depend on what is
installed.

The stock processors differ with and without torchvision (their antialiased resizes are not the same); this
one is Pillow's resize, as in the published metric code, and is tested against transformers' own Pillow
processors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop, scale to [0, 1], normalise.

    resize: an int for the shorter side, (height, width) for both, None for as it is; pixels. crop: (height,
    width). rounding: which row a crop with an odd margin starts at, "floor" (transformers) or "nearest"
    (torchvision).
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: Image.Resampling = Image.Resampling.BICUBIC
    rounding: Literal["floor", "nearest"] = "floor"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB picture of any size -> (3, height, width) float32."""
        image = self._crop(self._resize(image.convert("RGB")))
        pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
        normal = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))

    def _resize(self, image: Image.Image) -> Image.Image:
        if self.resize is None:
            return image
        if isinstance(self.resize, tuple):
            height, width = self.resize
        else:
            short = min(image.size)
            width, height = (self.resize * side // short for side in image.size)
        return image.resize((width, height), self.resample)

    def _crop(self, image: Image.Image) -> Image.Image:
        if self.crop is None:
            return image
        height, width = self.crop
        spare = image.height - height, image.width - width
        if min(spare) < 0:
            raise ValueError(f"cannot crop {width}x{height} out of {image.width}x{image.height} pixels")
        top, left = (round(s / 2) if self.rounding == "nearest" else s // 2 for s in spare)
        return image.crop((left, top, left + width, top + height))

    @property
    def words(self) -> str:
        """The preprocessing in words, for reports."""
        steps = []
        if isinstance(self.resize, tuple):
            steps.append(f"resize to {self.resize[1]}x{self.resize[0]} ({self.resample.name.lower()}, Pillow)")
        elif self.resize is not None:
            steps.append(f"resize shorter side to {self.resize} ({self.resample.name.lower()}, Pillow)")
        if self.crop is not None:
            steps.append(f"centre crop {self.crop[1]}x{self.crop[0]} ({self.rounding})")
        names: dict[tuple[float, ...], str] = {CLIP_MEAN: "CLIP mean/std", IMAGENET_MEAN: "ImageNet mean/std"}
        steps.append(names.get(self.mean, f"mean {self.mean} std {self.std}"))
        return ", ".join(steps)


# transformers' CLIP processor, as the metric code of arXiv 2410.04891 calls it.
CLIP_224 = Preprocess(224, (224, 224), CLIP_MEAN, CLIP_STD)
# CSD (Somepalli et al. 2024): the same through torchvision, whose crop rounds differently.
CSD_224 = Preprocess(224, (224, 224), CLIP_MEAN, CLIP_STD, rounding="nearest")
# DINO as in DreamBooth and after it: 256, then 224. The checkpoint's own preprocessor_config.json says
# "squeeze to 224x224, bilinear", which is not what the published numbers were made with; the protocol wins.
DINO_224 = Preprocess(256, (224, 224), IMAGENET_MEAN, IMAGENET_STD, rounding="nearest")


def from_config(config: Mapping[str, Any]) -> Preprocess:
    """Preprocess of a `preprocessor_config.json`, old (`"size": 224`) or new layout; else ValueError."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    resize = _sides(config.get("size", 224), square="CLIP" not in kind) if config.get("do_resize", True) else None
    wants_crop = config.get("do_center_crop", "crop_size" in config)
    crop = _sides(config.get("crop_size", 224), square=True) if wants_crop else None
    plain = not config.get("do_normalize", True)
    mean = (0.0, 0.0, 0.0) if plain else tuple(config.get("image_mean", CLIP_MEAN))
    std = (1.0, 1.0, 1.0) if plain else tuple(config.get("image_std", CLIP_STD))
    smallest = min(resize) if isinstance(resize, tuple) else resize
    if isinstance(crop, int) or (crop and smallest and max(crop) > smallest) or len(mean) != 3 or len(std) != 3:
        raise ValueError(
            f"size {config.get('size')} with crop_size {config.get('crop_size')}, "
            f"image_mean {list(mean)} and image_std {list(std)} is not a preprocessing that is known"
        )
    return Preprocess(resize, crop, mean, std, Image.Resampling(config.get("resample", 3)))


def _sides(size: int | Mapping[str, int], square: bool) -> int | tuple[int, int]:
    if isinstance(size, int):
        return (size, size) if square else size
    if "shortest_edge" in size:
        return size["shortest_edge"]
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    raise ValueError(f"size {dict(size)} needs shortest_edge, or height and width")
