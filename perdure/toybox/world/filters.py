"""Image operations shared by the styles; lengths are in 64ths of the picture's side, whatever its pixels."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Array = NDArray[np.floating[Any]]  # float32 wherever it is as large as a picture
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def pixels(image: Image.Image, reduce: int = 1) -> Array:
    """An RGB image as float32 (H, W, 3) in 0..255, box-reduced by a whole factor first."""
    return np.asarray(image.reduce(reduce) if reduce > 1 else image, dtype=np.float32)


def picture(values: Array, reduce: int = 1) -> Image.Image:
    """An RGB image of float values in 0..255, (H, W, 3) or (H, W) for gray, box-reduced by a whole factor."""
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=-1)
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return image.reduce(reduce) if reduce > 1 else image


def luminance(values: Array) -> Array:
    """Brightness (H, W) of colours (H, W, 3)."""
    return values @ _LUMA


def saturate(values: Array, factor: float) -> Array:
    """Colours moved away from their own gray by `factor`."""
    gray = luminance(values)[..., None]
    return gray + (values - gray) * np.float32(factor)


def blend(low: ArrayLike, high: ArrayLike, weight: Array) -> Array:
    """From `low` to `high` (colours or pictures) by `weight` (H, W) in 0..1."""
    start, stop = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
    return start + (stop - start) * weight[..., None]


def edges(values: Array) -> Array:
    """Strength (H, W) of the steps between neighbours about 1/128 of the side apart, over all channels."""
    step = max(1, round(values.shape[0] / 128))
    strength = np.zeros(values.shape[:2], dtype=np.float32)
    # Channel planes rather than a maximum over the short last axis, which is many times slower.
    for channel in np.ascontiguousarray(values.transpose(2, 0, 1)):
        across, down = strength[:, step:], strength[step:]
        np.maximum(across, np.abs(channel[:, step:] - channel[:, :-step]), out=across)
        np.maximum(down, np.abs(channel[step:] - channel[:-step]), out=down)
    return strength


@lru_cache(maxsize=32)
def axes(side: int) -> tuple[Array, Array]:
    """Positions of the pixel centres in 64ths: a column of y and a row of x."""
    along = ((np.arange(side) + 0.5) * (64 / side)).astype(np.float32)
    along.setflags(write=False)
    return along[:, None], along[None, :]


@lru_cache(maxsize=8)
def vignette(side: int) -> Array:
    """0 in the middle to 1 in the corners, (side, side)."""
    y, x = axes(side)
    return np.clip(((x - 32) ** 2 + (y - 32) ** 2) / np.float32(2048), 0, 1)


def smooth_noise(rng: Generator, cells: int, side: int) -> Array:
    """Random hills in about 0..1, `cells` to a side, (side, side)."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    fine = coarse.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32) / 255


def grain(rng: Generator, side: int) -> Array:
    """Independent noise in 0..1 for every 64th, enlarged without smoothing, (side, side)."""
    values = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    if side % 64:
        enlarged = np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.NEAREST))
    else:
        enlarged = values.repeat(side // 64, axis=0).repeat(side // 64, axis=1)
    return enlarged.astype(np.float32) / 255


@dataclass(frozen=True)
class Cells:
    """A division of the picture into cells around jittered lattice points; all arrays are (side, side)."""

    labels: NDArray[np.intp]  # 0 .. total - 1
    total: int
    distance: Array  # to the own point, in 64ths (along the lattice's axes scaled to its first pitch)
    border: Array  # how much farther the second point is: 0 on the border between two cells


@lru_cache(maxsize=64)
def cells(side: int, pitch: tuple[float, float], angle: float, jitter: float, variant: int) -> Cells:
    """Voronoi cells of a lattice of `pitch` (64ths) turned by `angle`, points moved by up to `jitter` / 2.

    Only the 3 x 3 lattice points around a pixel are compared, which is exact for a jitter below about 0.9.
    Cached, because a division depends on nothing but its arguments; `variant` chooses between random ones.
    """
    y, x = axes(side)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = (x * cos + y * sin) / pitch[0] + 128, (y * cos - x * sin) / pitch[1] + 128
    column, row = np.floor(u).astype(np.intp), np.floor(v).astype(np.intp)
    offsets = np.random.default_rng(variant).uniform(-jitter / 2, jitter / 2, (256, 256, 2)).astype(np.float32)
    nearest = np.full((side, side), np.inf, dtype=np.float32)
    second = nearest.copy()
    labels = np.zeros((side, side), dtype=np.intp)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            point = offsets[row + i, column + j]
            du, dv = column + j + 0.5 + point[..., 0] - u, row + i + 0.5 + point[..., 1] - v
            distance = np.hypot(du, dv).astype(np.float32) * np.float32(pitch[0])
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            labels = np.where(closer, (row + i) * 256 + column + j, labels)
            nearest = np.where(closer, distance, nearest)
    _, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(side, side)
    return Cells(compact, int(compact.max()) + 1, nearest, second - nearest)


def cell_means(values: Array, labels: NDArray[np.intp], count: int) -> Array:
    """The mean colour (count, 3) of the pixels (H, W, 3) under each label (H, W)."""
    flat = labels.ravel()
    size = np.maximum(np.bincount(flat, minlength=count), 1)
    sums = [np.bincount(flat, values[..., channel].ravel(), count) for channel in range(3)]
    return (np.stack(sums, axis=-1) / size[:, None]).astype(np.float32)


def gradient_table(stops: tuple[tuple[int, int, int], ...]) -> NDArray[np.uint8]:
    """A table (256, 3) that runs evenly through the given colours, dark values first."""
    places = np.linspace(0, 255, len(stops))
    channels = [np.interp(np.arange(256), places, [stop[c] for stop in stops]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)
