"""Styles that pretraining never shows, kept for personalisation; the convention is that of `styles_seen`."""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from perdure.toybox.world.filters import (
    Array,
    axes,
    blend,
    cell_means,
    cells,
    edges,
    gradient_table,
    grain,
    luminance,
    picture,
    pixels,
    saturate,
    smooth_noise,
    vignette,
)

_DUOTONE = gradient_table(((40, 10, 95), (165, 40, 130), (255, 120, 90), (255, 225, 120)))
_THERMAL = gradient_table(
    ((0, 0, 40), (20, 40, 210), (0, 190, 190), (60, 220, 40), (250, 220, 0), (245, 40, 0), (255, 235, 235))
)


def _local_contrast(large: Image.Image, reduce: int, gain: float) -> Array:
    """Brightness (H, W) in 0..255 with differences from the surroundings enlarged by `gain`."""
    gray = large.convert("L").reduce(reduce)
    around = gray.reduce(max(1, gray.width // 16)).resize(gray.size, Image.Resampling.BILINEAR)
    light = np.asarray(gray, dtype=np.float32)
    return np.clip(light + gain * (light - np.asarray(around, dtype=np.float32)), 0, 255)


def stained_glass(large: Image.Image, rng: Generator) -> Image.Image:
    """Glowing panes of uneven brightness between dark lead lines, which also follow the outlines."""
    values = pixels(large, 2)
    panes = cells(values.shape[0], (8.5, 8.5), 0.3, 0.85, int(rng.integers(4)))
    brightness = rng.uniform(0.75, 1.3, panes.total).astype(np.float32)
    glass = saturate(values, 2.0) * 1.05 * brightness[panes.labels][..., None] + 12
    seams = np.clip(1.6 - panes.border / 0.8, 0, 1)
    outlines = np.clip(edges(values) * 4 - 60, 0, 255) / 255
    return picture(blend(glass, (10, 10, 14), np.maximum(seams, outlines)), 2)


def blueprint(large: Image.Image, rng: Generator) -> Image.Image:
    """Pale lines on blue paper with a fine grid."""
    values = pixels(large, 2)
    y, x = axes(values.shape[0])
    grid = ((x % 8 < 0.6) | (y % 8 < 0.6)) * np.float32(0.2)
    line = np.clip(edges(values) * 3.2, 0, 255) / 255
    return picture(blend((24, 62, 158), (225, 238, 255), np.maximum(line, grid)), 2)


def halftone(large: Image.Image, rng: Generator) -> Image.Image:
    """A slanted screen of magenta dots on pale yellow, larger where the picture is darker."""
    dark = 1 - _local_contrast(large, 1, 0.9) / 255
    y, x = axes(large.width)
    pitch = np.float32(3.2)
    u, v = (x + y) / pitch, (x - y) / pitch
    wave = (np.cos(u * np.float32(np.pi)) * np.cos(v * np.float32(np.pi)) + 1) / 2
    dots = np.clip((dark * 1.05 - wave) * 8, 0, 1)
    return picture(blend((255, 240, 165), (198, 24, 92), dots), 4)


def embossed(large: Image.Image, rng: Generator) -> Image.Image:
    """A gray relief lit from the upper left."""
    soft = large.convert("L").reduce(2).filter(ImageFilter.GaussianBlur(large.width / 256))
    height = np.asarray(soft, dtype=np.float32)
    step = max(1, round(height.shape[0] / 64))
    relief = np.zeros_like(height)
    relief[step:, step:] = height[step:, step:] - height[:-step, :-step]
    return picture(142 + np.clip(relief * 2.6, -120, 110), 2)


def duotone(large: Image.Image, rng: Generator) -> Image.Image:
    """Two inks: dark violet running through coral to pale yellow."""
    light = _local_contrast(large, 4, 0.6)
    return Image.fromarray(_DUOTONE[light.astype(np.uint8)])


def thermal(large: Image.Image, rng: Generator) -> Image.Image:
    """A heat camera's false colours, soft and grainy."""
    heat = _local_contrast(large.filter(ImageFilter.BoxBlur(large.width / 256 * 1.5)), 4, 0.7)
    heat = np.clip(heat + (grain(rng, heat.shape[0]) - 0.5) * 14, 0, 255)
    return Image.fromarray(_THERMAL[heat.astype(np.uint8)])


def cross_stitch(large: Image.Image, rng: Generator) -> Image.Image:
    """Crossed threads of one colour each on gray-blue linen."""
    count = 20
    colours = saturate(pixels(large.resize((count, count), Image.Resampling.BOX)), 1.35)
    side = large.width // 2
    y, x = axes(side)
    place = np.floor(np.arange(side) * count / side).astype(int)
    u, v = (x * count / 64) % 1 - 0.5, (y * count / 64) % 1 - 0.5
    over, under = np.abs(u + v) < 0.32, np.abs(u - v) < 0.32
    shade = np.where(over, np.float32(1.08), np.float32(0.72))
    stitched = colours[place[:, None], place[None, :]] * shade[..., None]
    return picture(blend((226, 228, 232), stitched, (over | under).astype(np.float32)), 2)


def woodcut(large: Image.Image, rng: Generator) -> Image.Image:
    """Black-brown wavy cuts on tan paper, wider where the picture is darker."""
    dark = 1 - _local_contrast(large, 1, 0.9) / 255
    y, x = axes(large.width)
    phase = np.float32(rng.uniform(0, 6))
    wave = np.abs((y + 1.2 * np.sin(x / 7 + phase)) / np.float32(2.9) % 1 - 0.5) * 2
    cuts = np.clip((dark * 1.15 - wave) * 6, 0, 1)
    outline = np.clip(edges(pixels(large, 2)) * 4 - 120, 0, 255) / 255
    outline = outline.repeat(2, axis=0).repeat(2, axis=1)
    return picture(blend((222, 184, 128), (46, 24, 16), np.maximum(cuts, outline)), 4)


def pointillism(large: Image.Image, rng: Generator) -> Image.Image:
    """Separate round dabs of pure, varied colour on cream canvas."""
    values = pixels(large, 2)
    dabs = cells(values.shape[0], (2.2, 2.2), 0.4, 0.6, int(rng.integers(4)))
    colours = saturate(cell_means(values, dabs.labels, dabs.total), 1.7)
    colours += rng.normal(0, 30, (dabs.total, 3)).astype(np.float32)
    cover = np.clip((1.2 - dabs.distance) / 0.35, 0, 1)
    return picture(blend((246, 238, 216), colours[dabs.labels], cover), 2)


def frosted(large: Image.Image, rng: Generator) -> Image.Image:
    """Seen through rough icy glass: scattered, pale and bluish, with glinting specks."""
    side = large.width // 4
    spread = large.width / 256 * 9
    wobble = np.stack([grain(rng, side), grain(rng, side)]) - 0.5
    base = np.arange(side) * 4 + 2
    rows = np.clip(base[:, None] + wobble[0] * spread, 0, large.width - 1).astype(int)
    columns = np.clip(base[None, :] + wobble[1] * spread, 0, large.width - 1).astype(int)
    scattered = np.asarray(large)[rows, columns].astype(np.float32)
    ice = 0.34 + 0.5 * vignette(side) * smooth_noise(rng, 10, side)
    specks = (grain(rng, side) > 0.975) * np.float32(0.5)
    return picture(blend(scattered, (222, 240, 255), np.clip(ice + specks, 0, 1)))


def chalkboard(large: Image.Image, rng: Generator) -> Image.Image:
    """Coloured chalk on a green board: dusty lines and thin rubbed areas."""
    values = pixels(large, 2)
    side = values.shape[0]
    dust = grain(rng, side)
    line = np.clip(edges(values) * 3.4, 0, 255) / 255 * (0.7 + 0.5 * dust)
    rubbed = (luminance(values) / 255) ** 2 * (0.12 + 0.38 * dust)
    chalk = saturate(values, 1.2) * 0.45 + 140
    board = np.array([36, 74, 58], dtype=np.float32) + (smooth_noise(rng, 6, side)[..., None] - 0.5) * 22
    return picture(blend(board, chalk, np.clip(np.maximum(line, rubbed), 0, 1)), 2)


def scanline(large: Image.Image, rng: Generator) -> Image.Image:
    """A green monitor: bright phosphor rows with dark gaps."""
    light = _local_contrast(large, 2, 1.2) / 255
    side = light.shape[0]
    y, _ = axes(side)
    rows = np.float32(0.72) + np.float32(0.42) * np.cos(y * np.float32(2 * np.pi / 4))
    glow = (0.12 + light * 1.05) * rows * (1.1 - 0.7 * vignette(side))
    return picture(blend((2, 14, 6), (130, 255, 120), np.clip(glow, 0, 1.2)), 2)


def glitch(large: Image.Image, rng: Generator) -> Image.Image:
    """Torn signal: rows shifted in bands, red and blue pulled apart, bars of wrong colour."""
    values = pixels(large, 4)
    side = values.shape[0]
    cuts = np.sort(rng.integers(0, 64, 9)) * side // 64
    shifts = (rng.integers(-7, 8, 10) * (rng.random(10) < 0.6) * side / 64).astype(int)
    band = np.searchsorted(cuts, np.arange(side), side="right")
    split = round(side / 64 * 3)
    columns = np.arange(side)[None, :] - shifts[band][:, None]
    rows = np.arange(side)[:, None]
    offsets = (split, 0, -split)
    torn = np.stack([values[rows, (columns + offset) % side, c] for c, offset in enumerate(offsets)], axis=-1)
    for top in rng.integers(0, 62, 3) * side // 64:
        height = max(1, round(side / 64 * 1.6))
        torn[top : top + height] = 255 - torn[top : top + height, :, ::-1]
    return picture(torn)


def low_poly(large: Image.Image, rng: Generator) -> Image.Image:
    """Flat triangles, each of one colour and slightly different light."""
    values = pixels(large, 2)
    y, x = axes(values.shape[0])
    pitch = np.float32(4.4)
    a, b = x / pitch - y / pitch * np.float32(0.5774), y / pitch * np.float32(1.1547)
    column, row = np.floor(a).astype(np.intp) + 16, np.floor(b).astype(np.intp)
    upper = (a - np.floor(a)) + (b - np.floor(b)) > 1
    labels = (row * 32 + column) * 2 + upper
    count = int(labels.max()) + 1
    colours = saturate(cell_means(values, labels, count), 1.2)
    colours += rng.normal(0, 14, (count, 1)).astype(np.float32)
    return picture(colours[labels], 2)
