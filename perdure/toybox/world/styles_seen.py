"""The styles of pretraining. Each takes the drawing at four times the size and gives the picture."""

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
    grain,
    luminance,
    picture,
    pixels,
    saturate,
    smooth_noise,
    vignette,
)

_POSTER_INKS = (
    (24, 22, 38), (228, 40, 46), (40, 150, 70), (40, 70, 200), (250, 205, 50),
    (225, 70, 160), (60, 185, 205), (252, 244, 224), (240, 130, 40), (110, 60, 160),
)  # fmt: skip


def _poster_table() -> Image.Image:
    """The poster's inks as a palette image, which lets the quantiser of the image library do the matching."""
    palette = Image.new("P", (1, 1))
    inks = [channel for ink_colour in _POSTER_INKS for channel in ink_colour]
    palette.putpalette(inks + inks[:3] * (256 - len(_POSTER_INKS)))
    return palette


_POSTER_PALETTE = _poster_table()


def photo(large: Image.Image, rng: Generator) -> Image.Image:
    """The drawing as it is."""
    return large.reduce(4)


def sketch(large: Image.Image, rng: Generator) -> Image.Image:
    """Gray pencil lines on white paper, dark areas hatched."""
    values = pixels(large, 2)
    y, x = axes(values.shape[0])
    light = luminance(values)
    hatching = ((x + y) % 3 < 1) & (light < 120) | ((x - y) % 3 < 0.9) & (light < 60)
    paper = 250 - (255 - light) * 0.1 - hatching * 42
    return picture(paper - np.clip(edges(values) * 3.0, 0, 190), 2)


def pixel_art(large: Image.Image, rng: Generator) -> Image.Image:
    """Coarse square cells of few, strong colours."""
    side = large.width // 4
    values = pixels(large.resize((21, 21), Image.Resampling.BOX))
    flat = np.round(saturate(values, 1.35) / 48) * 48
    return picture(flat).resize((side, side), Image.Resampling.NEAREST)


def mosaic(large: Image.Image, rng: Generator) -> Image.Image:
    """Small square tiles of one colour each, with light grout."""
    values = pixels(large, 2)
    tiles = cells(values.shape[0], (3.7, 3.7), 0.0, 0.3, int(rng.integers(4)))
    colours = saturate(cell_means(values, tiles.labels, tiles.total), 1.25)
    colours += rng.uniform(-16, 16, (tiles.total, 1)).astype(np.float32)
    grout = np.clip(1.5 - tiles.border / 0.32, 0, 1)
    return picture(blend(colours[tiles.labels], (236, 232, 222), grout), 2)


def watercolor(large: Image.Image, rng: Generator) -> Image.Image:
    """Pale washes with darker rims on grainy paper that stays bare at its ragged margin."""
    side = large.width // 4
    wet = large.reduce(2).filter(ImageFilter.GaussianBlur(side / 64 * 0.8))
    values = pixels(wet)
    rims = np.clip(edges(values) * 2.0 - 8, 0, 60)
    wash = 255 - (255 - saturate(values, 1.3)) * 0.62
    wash += (smooth_noise(rng, 9, side * 2)[..., None] - 0.5) * 62 - rims[..., None]
    y, x = axes(side * 2)
    margin = np.minimum(np.minimum(x, 64 - x), np.minimum(y, 64 - y)) + smooth_noise(rng, 12, side * 2) * 7
    painted = np.clip((margin - 5.5) / 1.5, 0, 1)
    return picture(blend((252, 250, 243), wash, painted), 2)


def neon(large: Image.Image, rng: Generator) -> Image.Image:
    """Glowing coloured outlines in the dark."""
    values = pixels(large, 2)
    line = np.clip(edges(values) * 2.4, 0, 255)
    blur = ImageFilter.GaussianBlur(values.shape[0] / 128 * 2.5)
    glow = np.asarray(Image.fromarray(line.astype(np.uint8)).filter(blur), dtype=np.float32)
    tubes = np.clip(saturate(values, 2.5), 0, None)
    tubes *= 255 / (tubes.max(axis=-1, keepdims=True) + 1e-3)
    light = (line + 0.8 * glow) / 255
    return picture(tubes * light[..., None] + np.array([12, 4, 26], dtype=np.float32), 2)


def crayon(large: Image.Image, rng: Generator) -> Image.Image:
    """Waxy slanted strokes that let white paper through."""
    side = large.width // 4
    values = saturate(pixels(large, 4), 1.45)
    y, x = axes(side)
    wax = grain(rng, 64)
    column, row = np.floor(x + y).astype(int) % 64, np.floor((x - y) / 9).astype(int) % 64
    bare = wax[column, row] ** 2 * 0.75
    return picture(blend(values, (253, 250, 244), bare))


def old_photo(large: Image.Image, rng: Generator) -> Image.Image:
    """A faded brown print with dark corners, grain and a few scratches."""
    side = large.width // 4
    light = (luminance(pixels(large, 4)) - 20) * 0.95 + 40
    light += (grain(rng, side) - 0.5) * 26 - vignette(side) * 70
    _, x = axes(side)
    for place in rng.uniform(0, 64, 2):
        light = light + (np.abs(x - np.float32(place)) < 0.55) * 38
    toned = np.stack([light * 1.05 + 18, light * 0.86 + 8, light * 0.6], axis=-1)
    return picture(toned)


def negative(large: Image.Image, rng: Generator) -> Image.Image:
    """Every colour turned to its opposite."""
    return picture(255 - pixels(large, 4))


def ink(large: Image.Image, rng: Generator) -> Image.Image:
    """Thick black outlines over paper, a gray wash and solid black."""
    values = pixels(large, 2)
    light = luminance(values) + (smooth_noise(rng, 16, values.shape[0]) - 0.5) * 26
    solid = np.clip((72 - light) / 6, 0, 1)
    tone = 1 - np.clip((150 - light) / 6, 0, 1) * 0.38 - solid * 0.6
    lines = _thick(np.clip(edges(values) * 6 - 80, 0, 255)) / 255
    # Lines are left white where they run through solid black, or dark things would be lost.
    tone = tone * (1 - lines) + lines * solid
    return picture(blend((12, 14, 30), (252, 248, 236), tone), 2)


def _thick(line: Array) -> Array:
    """Lines widened to about a 64th and a half; `line` (H, W) in 0..255."""
    width = max(3, round(line.shape[0] / 128) * 2 + 1)
    widened = Image.fromarray(line.astype(np.uint8)).filter(ImageFilter.MaxFilter(width))
    return np.asarray(widened, dtype=np.float32)


def poster(large: Image.Image, rng: Generator) -> Image.Image:
    """Flat areas of ten loud inks."""
    bold = picture(saturate((pixels(large, 2) - 128) * 1.2 + 132, 1.5))
    flat = bold.quantize(palette=_POSTER_PALETTE, dither=Image.Dither.NONE).convert("RGB")
    return flat.reduce(2)


def painting(large: Image.Image, rng: Generator) -> Image.Image:
    """Long slanted brush strokes, each of one colour and thickness."""
    values = pixels(large, 2)
    angle = (0.6, -0.6)[int(rng.integers(2))]
    strokes = cells(values.shape[0], (4.2, 1.6), angle, 0.8, int(rng.integers(4)))
    colours = saturate(cell_means(values, strokes.labels, strokes.total), 1.4)
    colours += rng.normal(0, 13, (strokes.total, 1)).astype(np.float32)
    ridge = np.clip(strokes.border * 0.8, 0, 1) * 24 - 16
    return picture(colours[strokes.labels] + ridge[..., None], 2)
