"""Random filters: endless styles that are none of the world's, so that encoders learn what a style is.

A filter is drawn once (its colours, structure and overlay) and then applied to any number of pictures. The families
are generic (colour maps, screens, cells, lines, grain); no held-out style of the world is among them as such, but
some draws come near one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from perdure.toybox.world.filters import cell_means, cells, edges, gradient_table, luminance, saturate, smooth_noise

Pixels = NDArray[np.floating]  # (64, 64, 3) in 0..255
Step = Callable[[Pixels, Generator], Pixels]
_SIDE = 64


@dataclass(frozen=True)
class RandomFilter:
    """Up to three steps, applied in order; what a step leaves to chance comes from the picture's own generator."""

    steps: tuple[Step, ...]

    def __call__(self, picture: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
        """(64, 64, 3) uint8 in and out."""
        values = picture.astype(np.float32)
        for step in self.steps:
            values = np.clip(step(values, rng), 0, 255)
        return values.astype(np.uint8)


def random_filter(rng: Generator) -> RandomFilter:
    """Draw a filter: colours, structure and overlay, each present more often than not."""
    steps: list[Step] = []
    if rng.random() < 0.8:
        steps.append(_COLOURS[int(rng.integers(len(_COLOURS)))](rng))
    if rng.random() < 0.8:
        steps.append(_STRUCTURES[int(rng.integers(len(_STRUCTURES)))](rng))
    if rng.random() < 0.5 or not steps:
        steps.append(_OVERLAYS[int(rng.integers(len(_OVERLAYS)))](rng))
    return RandomFilter(tuple(steps))


def _rgb(rng: Generator) -> Pixels:
    return rng.uniform(0, 255, 3).astype(np.float32)


def _axes(rng: Generator) -> tuple[Pixels, Pixels]:
    """Pixel coordinates turned by a random angle."""
    y, x = np.mgrid[0:_SIDE, 0:_SIDE].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


# --- colours ---------------------------------------------------------------------------------------------------


def _gradient_map(rng: Generator) -> Step:
    stops = rng.integers(0, 256, (int(rng.integers(2, 6)), 3))
    if rng.random() < 0.6:  # dark to light, as most prints are
        stops = stops[np.argsort(stops.sum(axis=1))]
    table = gradient_table(tuple((int(r), int(g), int(b)) for r, g, b in stops)).astype(np.float32)
    return lambda values, _: table[luminance(values).astype(np.uint8)]


def _channel_mix(rng: Generator) -> Step:
    mix = np.eye(3) * rng.uniform(0.3, 1) + rng.uniform(-0.5, 0.7, (3, 3))
    mix = (mix / np.maximum(0.6, np.abs(mix).sum(axis=1, keepdims=True))).astype(np.float32)
    shift = rng.uniform(-20, 90, 3).astype(np.float32)
    return lambda values, _: values @ mix.T + shift


def _posterise(rng: Generator) -> Step:
    step, factor = float(rng.uniform(40, 128)), float(rng.uniform(0.6, 2))
    return lambda values, _: np.round(saturate(values, factor) / step) * step


def _fade(rng: Generator) -> Step:
    colour, weight, factor = _rgb(rng), float(rng.uniform(0.15, 0.65)), float(rng.uniform(0, 2.2))
    return lambda values, _: saturate(values, factor) * (1 - weight) + colour * weight


def _invert(rng: Generator) -> Step:
    gain = rng.choice([-1.0, -0.8, 0.6, 1.0], 3).astype(np.float32)
    gain[int(rng.integers(3))] = -1.0
    return lambda values, _: (values - 128) * gain + 128


# --- structures ------------------------------------------------------------------------------------------------


def _cells(rng: Generator) -> Step:
    pitch = (float(rng.uniform(2.4, 8)), float(rng.uniform(2.4, 8)))
    found = cells(_SIDE, pitch, float(rng.uniform(0, 1.5)), float(rng.uniform(0, 0.85)), int(rng.integers(1 << 30)))
    seam, width, jitter = _rgb(rng), float(rng.choice([0.0, 0.5, 1.0])), float(rng.uniform(0, 30))

    def step(values: Pixels, own: Generator) -> Pixels:
        colours = cell_means(values, found.labels, found.total)
        colours += own.normal(0, jitter, (found.total, 1)).astype(np.float32)
        weight = np.clip(1.3 - found.border / max(width, 1e-3), 0, 1)[..., None] * (width > 0)
        tiled: Pixels = colours[found.labels] * (1 - weight) + seam * weight
        return tiled

    return step


def _screen(rng: Generator) -> Step:
    u, v = _axes(rng)
    pitch = float(rng.uniform(2.6, 6))
    wave = np.cos(u * (2 * np.pi / pitch))
    if rng.random() < 0.5:
        wave = (wave + np.cos(v * (2 * np.pi / pitch))) / 2
    paper, inks, sharp = _rgb(rng), _rgb(rng), float(rng.uniform(1.5, 6))
    coloured = rng.random() < 0.5

    def step(values: Pixels, _: Generator) -> Pixels:
        cover = np.clip((0.5 - luminance(values) / 255 + wave * 0.45) * sharp + 0.5, 0, 1)[..., None]
        drawn: Pixels = paper * (1 - cover) + (values if coloured else inks) * cover
        return drawn

    return step


def _lines(rng: Generator) -> Step:
    paper, line, gain = _rgb(rng), _rgb(rng), float(rng.uniform(1.0, 4.0))
    keep, own_colour = float(rng.choice([0.0, 0.0, 0.25, 0.6])), rng.random() < 0.4

    def step(values: Pixels, _: Generator) -> Pixels:
        weight = np.clip(edges(values) * gain / 255, 0, 1)[..., None]
        return (paper * (1 - keep) + values * keep) * (1 - weight) + (values if own_colour else line) * weight

    return step


def _relief(rng: Generator) -> Step:
    ground, gain, dx, dy = _rgb(rng), float(rng.uniform(0.6, 2)), int(rng.integers(-2, 3)), int(rng.integers(1, 3))

    def step(values: Pixels, _: Generator) -> Pixels:
        light = luminance(values)
        return ground + (gain * (light - np.roll(light, (dy, dx), (0, 1))))[..., None]

    return step


def _coarse(rng: Generator) -> Step:
    count = int(rng.integers(12, 34))
    how = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)[int(rng.integers(2))]

    def step(values: Pixels, _: Generator) -> Pixels:
        small = Image.fromarray(values.astype(np.uint8)).resize((count, count), Image.Resampling.BOX)
        return np.asarray(small.resize((_SIDE, _SIDE), how), dtype=np.float32)

    return step


def _scatter(rng: Generator) -> Step:
    reach, stripes = float(rng.uniform(1.5, 7)), rng.random() < 0.5

    def step(values: Pixels, own: Generator) -> Pixels:
        y, x = np.mgrid[0:_SIDE, 0:_SIDE]
        if stripes:
            dy, dx = 0, np.round(np.repeat(own.normal(0, reach, 16), 4)[:, None]).astype(int)
        else:
            dy, dx = np.round(own.uniform(-reach, reach, (2, _SIDE, _SIDE))).astype(int)
        moved: Pixels = values[np.clip(y + dy, 0, 63), np.clip(x + dx, 0, 63)]
        return moved

    return step


# --- overlays --------------------------------------------------------------------------------------------------


def _grain(rng: Generator) -> Step:
    strength, coloured = float(rng.uniform(8, 40)), rng.random() < 0.4
    return lambda values, own: values + own.normal(0, strength, (64, 64, 3 if coloured else 1)).astype(np.float32)


def _hills(rng: Generator) -> Step:
    count, strength, tint = int(rng.integers(4, 24)), float(rng.uniform(30, 110)), rng.uniform(-1, 1, 3)
    return lambda values, own: (
        values + (smooth_noise(own, count, _SIDE) - 0.5)[..., None] * strength * tint.astype(np.float32)
    )


def _ruled(rng: Generator) -> Step:
    u, v = _axes(rng)
    pitch, width = float(rng.uniform(3, 12)), float(rng.uniform(0.7, 1.8))
    ruled = (u % pitch < width) | ((v % pitch < width) & (rng.random() < 0.5))
    weight, colour = (ruled * rng.uniform(0.25, 0.9)).astype(np.float32)[..., None], _rgb(rng)
    return lambda values, _: values * (1 - weight) + colour * weight


def _framed(rng: Generator) -> Step:
    y, x = np.mgrid[0:_SIDE, 0:_SIDE].astype(np.float32)
    far = np.hypot(x - 31.5, y - 31.5) if rng.random() < 0.5 else np.maximum(abs(x - 31.5), abs(y - 31.5))
    inner, colour = float(rng.uniform(14, 28)), _rgb(rng)
    weight = (np.clip((far - inner) / rng.uniform(1, 16), 0, 1) * rng.uniform(0.4, 1)).astype(np.float32)[..., None]
    return lambda values, _: values * (1 - weight) + colour * weight


_COLOURS = (_gradient_map, _gradient_map, _channel_mix, _posterise, _fade, _invert)
_STRUCTURES = (_cells, _cells, _screen, _screen, _lines, _lines, _relief, _coarse, _scatter)
_OVERLAYS = (_grain, _hills, _ruled, _framed)
