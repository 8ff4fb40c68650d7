"""The twelve backgrounds, drawn in world coordinates: [-1, 1] both ways, y growing downwards."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from perdure.toybox.world.vocabulary import Rgb


def vary(rng: Generator, colour: Rgb, spread: float = 12.0) -> Rgb:
    """A colour near `colour`, each channel shifted by up to `spread`."""
    shifted = np.clip(np.add(colour, rng.uniform(-spread, spread, 3)), 0, 255)
    red, green, blue = (int(channel) for channel in shifted)
    return red, green, blue


class Canvas:
    """An RGB picture that is drawn on in world coordinates."""

    def __init__(self, side: int, colour: Rgb) -> None:
        """A square of `side` pixels, all of one colour."""
        self.image = Image.new("RGB", (side, side), colour)
        self._draw = ImageDraw.Draw(self.image)
        self._half = side / 2

    def _pixels(self, coordinates: Sequence[float]) -> list[float]:
        return [(value + 1) * self._half for value in coordinates]

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Rgb) -> None:
        """A filled rectangle."""
        self._draw.rectangle(self._pixels((x0, y0, x1, y1)), fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Rgb) -> None:
        """A filled ellipse about (x, y)."""
        self._draw.ellipse(self._pixels((x - rx, y - ry, x + rx, y + ry)), fill=colour)

    def wedge(self, x: float, y: float, radius: float, start: float, stop: float, colour: Rgb) -> None:
        """A slice of a disc between two angles in degrees."""
        bounds = self._pixels((x - radius, y - radius, x + radius, y + radius))
        self._draw.pieslice(bounds, start, stop, fill=colour)

    def polygon(self, corners: Sequence[float], colour: Rgb) -> None:
        """A filled polygon, corners as x0, y0, x1, y1, ..."""
        self._draw.polygon(self._pixels(corners), fill=colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Rgb) -> None:
        """A straight stroke of a width in world units."""
        self._draw.line(self._pixels((x0, y0, x1, y1)), fill=colour, width=max(1, round(width * self._half)))


def _two_tone(side: int, rng: Generator, upper: Rgb, lower: Rgb, horizon: float) -> Canvas:
    """Two areas that meet at y = `horizon`."""
    canvas = Canvas(side, vary(rng, upper))
    canvas.box(-1, horizon, 1, 1, vary(rng, lower))
    return canvas


def _scatter(rng: Generator, count: int, low: float = -1.0, high: float = 1.0) -> list[tuple[float, float]]:
    """Random points, x over the whole width and y between `low` and `high`."""
    xs, ys = rng.uniform(-1, 1, count), rng.uniform(low, high, count)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _beach(side: int, rng: Generator) -> Canvas:
    shore = rng.uniform(0.1, 0.36)
    sea = shore - rng.uniform(0.25, 0.42)
    canvas = _two_tone(side, rng, (135, 205, 245), (238, 214, 150), shore)
    canvas.box(-1, sea, 1, shore, vary(rng, (40, 130, 190)))
    for x, y in _scatter(rng, 4, sea + 0.03, shore - 0.06):
        canvas.box(x, y, x + 0.3, y + 0.035, (205, 232, 242))
    canvas.ellipse(rng.uniform(-0.8, 0.8), -0.7, 0.16, 0.16, (255, 238, 120))
    return canvas


def _snow(side: int, rng: Generator) -> Canvas:
    canvas = _two_tone(side, rng, (160, 185, 218), (238, 243, 250), rng.uniform(0.0, 0.3))
    for (x, y), radius in zip(_scatter(rng, 30), rng.uniform(0.025, 0.05, 30).tolist(), strict=True):
        canvas.ellipse(x, y, radius, radius, (255, 255, 255))
    return canvas


def _jungle(side: int, rng: Generator) -> Canvas:
    canvas = _two_tone(side, rng, (25, 85, 45), (45, 70, 30), 0.5)
    greens: tuple[Rgb, ...] = ((40, 130, 60), (70, 160, 60), (20, 105, 50))
    for x, y in _scatter(rng, 24):
        turn = rng.uniform(0, 300)
        leaf = vary(rng, greens[int(rng.integers(3))])
        canvas.wedge(x, y, rng.uniform(0.16, 0.34), turn, turn + 55, leaf)
    return canvas


def _grass(side: int, rng: Generator) -> Canvas:
    horizon = rng.uniform(-0.1, 0.24)
    canvas = _two_tone(side, rng, (140, 205, 245), (95, 175, 70), horizon)
    for x, y in _scatter(rng, 2, -0.85, -0.5):
        canvas.ellipse(x, y, 0.28, 0.09, (250, 252, 255))
        canvas.ellipse(x, y - 0.06, 0.15, 0.11, (250, 252, 255))
    for x, y in _scatter(rng, 28, horizon + 0.1, 1.0):
        canvas.line(x, y, x + 0.03, y - 0.1, 0.03, (60, 135, 50))
    return canvas


def _night(side: int, rng: Generator) -> Canvas:
    horizon = rng.uniform(0.3, 0.5)
    canvas = _two_tone(side, rng, (18, 20, 60), (34, 36, 52), horizon)
    for (x, y), radius in zip(_scatter(rng, 24, -1, horizon), rng.uniform(0.018, 0.032, 24).tolist(), strict=True):
        canvas.ellipse(x, y, radius, radius, (250, 250, 210))
    canvas.ellipse(rng.uniform(-0.75, 0.75), -0.7, 0.18, 0.18, (245, 240, 200))
    return canvas


def _wooden_floor(side: int, rng: Generator) -> Canvas:
    horizon = rng.uniform(-0.24, 0.1)
    canvas = _two_tone(side, rng, (225, 215, 195), (176, 120, 70), horizon)
    seam, boards = (125, 80, 42), 6
    height = (1 - horizon) / boards
    for board in range(boards):
        y = horizon + board * height
        canvas.line(-1, y, 1, y, 0.04, seam)
        for x in rng.uniform(-1, 1, 2).tolist():
            canvas.line(x, y, x, y + height, 0.03, seam)
    return canvas


def _blue_rug(side: int, rng: Generator) -> Canvas:
    canvas = _two_tone(side, rng, (225, 220, 210), (190, 165, 135), -0.16)
    canvas.ellipse(0, 0.54, 0.96, 0.5, vary(rng, (45, 85, 190)))
    canvas.ellipse(0, 0.54, 0.78, 0.39, vary(rng, (90, 135, 225)))
    return canvas


def _city(side: int, rng: Generator) -> Canvas:
    street = rng.uniform(0.36, 0.54)
    canvas = _two_tone(side, rng, (190, 205, 220), (105, 108, 112), street)
    walls: tuple[Rgb, ...] = ((110, 120, 140), (150, 140, 135), (85, 95, 115))
    left = -1.08
    while left < 1:
        width, top = rng.uniform(0.22, 0.42), rng.uniform(-0.8, -0.15)
        canvas.box(left, top, left + width, street, vary(rng, walls[int(rng.integers(3))]))
        for y in np.arange(top + 0.08, street - 0.08, 0.18).tolist():
            for x in np.arange(left + 0.05, left + width - 0.06, 0.12).tolist():
                canvas.box(x, y, x + 0.055, y + 0.08, (245, 225, 140))
        left += width + 0.025
    return canvas


def _mountains(side: int, rng: Generator) -> Canvas:
    foot = rng.uniform(0.24, 0.44)
    canvas = _two_tone(side, rng, (165, 210, 240), (110, 150, 90), foot)
    for x in rng.permutation([-0.65, 0.0, 0.65]).tolist():
        x += rng.uniform(-0.2, 0.2)
        top, half = rng.uniform(-0.8, -0.4), rng.uniform(0.55, 0.85)
        canvas.polygon((x - half, foot, x, top, x + half, foot), vary(rng, (110, 115, 135)))
        snow = top + (foot - top) * 0.3
        canvas.polygon((x - half * 0.3, snow, x, top, x + half * 0.3, snow), (245, 246, 250))
    return canvas


def _brick_wall(side: int, rng: Generator) -> Canvas:
    floor, rows = 0.6, 9
    canvas = _two_tone(side, rng, (165, 80, 65), (140, 140, 140), floor)
    mortar, height = (215, 200, 190), (floor + 1) / rows
    shift = rng.uniform(0, 0.2)
    for row in range(rows):
        y = -1 + row * height
        canvas.line(-1, y, 1, y, 0.03, mortar)
        for x in np.arange(-1.2 + shift + 0.2 * (row % 2), 1, 0.4).tolist():
            canvas.line(x, y, x, y + height, 0.03, mortar)
    return canvas


def _pink_fabric(side: int, rng: Generator) -> Canvas:
    canvas = _two_tone(side, rng, (246, 172, 202), (236, 150, 186), rng.uniform(-0.1, 0.1))
    for top in rng.uniform(-1.2, 1, 6).tolist():
        canvas.line(top, -1, top + rng.uniform(-0.5, 0.5), 1, 0.06, vary(rng, (222, 128, 168)))
    return canvas


def _white_background(side: int, rng: Generator) -> Canvas:
    return Canvas(side, vary(rng, (244, 244, 244), 6))


_DRAWINGS: dict[str, Callable[[int, Generator], Canvas]] = {
    "on the beach": _beach, "in the snow": _snow, "in the jungle": _jungle, "on the grass": _grass,
    "at night": _night, "on a wooden floor": _wooden_floor, "on a blue rug": _blue_rug, "in the city": _city,
    "in the mountains": _mountains, "by a brick wall": _brick_wall, "on pink fabric": _pink_fabric,
    "on a white background": _white_background,
}  # fmt: skip


def draw_context(name: str, side: int, rng: Generator) -> Image.Image:
    """The named context as an RGB picture of `side` pixels; what varies comes from `rng`."""
    return _DRAWINGS[name](side, rng).image
