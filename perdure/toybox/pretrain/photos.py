"""The real photos (DreamBooth's) that the autoencoder learns from, and those that only measure it."""

from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageOps

from perdure.toybox.pretrain.recipe import PICTURE_SIDE

#: Folders whose photos may enter the autoencoder's training.
TRAINING_PHOTOS: tuple[str, ...] = (
    "backpack_dog", "bear_plushie", "berry_bowl", "cat2", "colorful_sneaker", "dog2", "dog3", "dog5", "dog7", "dog8",
    "duck_toy", "grey_sloth_plushie", "pink_sunglasses", "poop_emoji", "rc_car", "robot_toy", "shiny_sneaker",
    "wolf_plushie",
)  # fmt: skip
#: Folders that no training sees.
HELD_OUT_PHOTOS: tuple[str, ...] = (
    "backpack", "can", "candle", "cat", "clock", "dog", "dog6", "fancy_boot", "monster_toy", "red_cartoon", "teapot",
    "vase",
)  # fmt: skip
_STORED_SIDE = 160  # the shorter side at which training photos wait in memory


def load_photos(folder: Path, names: tuple[str, ...], side: int = _STORED_SIDE) -> list[NDArray[np.uint8]]:
    """The photos of the named sub-folders, upright, RGB, shorter side `side` pixels."""
    found: list[NDArray[np.uint8]] = []
    for name in names:
        for path in sorted((folder / name).glob("*.jpg")):
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
            ratio = side / min(upright.size)
            size = (max(side, round(upright.width * ratio)), max(side, round(upright.height * ratio)))
            found.append(np.asarray(upright.resize(size, Image.Resampling.BOX)))
    return found


def centre_picture(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle square at 64 px, (64, 64, 3): how a photo is shown to the model."""
    image = Image.fromarray(photo)
    fitted = ImageOps.fit(image, (PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BOX)
    return np.asarray(fitted)


def random_picture(rng: Generator, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A random square crop of at least 45 % of the shorter side, maybe mirrored, at 64 px."""
    height, width = photo.shape[:2]
    side = int(rng.integers(int(0.45 * min(height, width)), min(height, width) + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = Image.fromarray(photo[top : top + side, left : left + side])
    pixels = np.asarray(crop.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BOX))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels
