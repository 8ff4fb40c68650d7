"""Drawing of flat shapes into a map of part numbers, under an affine map."""

import math
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]


class Part(IntEnum):
    """Part numbers of the map; the colour table of a thing has one row for each."""

    EMPTY = 0
    PRIMARY = 1
    SECONDARY = 2
    DARK = 3
    WHITE = 4
    ACCENT = 5
    SHADE = 6  # primary in shadow: limbs and parts that lie behind
    CREAM = 7
    GLASS = 8
    FLAME = 9
    ACCENT2 = 10


class Anchor(NamedTuple):
    """Where an accessory sits on an object: centre (x, y) of its foot and half of its width."""

    x: float
    y: float
    half_width: float


@lru_cache(maxsize=256)
def arc_points(count: int, start: float, stop: float) -> NDArray[np.float64]:
    """`count` points of the unit circle between two angles (radians), shape (count, 2)."""
    angle = np.linspace(start, stop, count)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points.setflags(write=False)
    return points


class Pen:
    """Draws shapes given in object coordinates (about [-1, 1], y down) into a part map of `side` pixels."""

    def __init__(self, side: int, matrix: NDArray[np.float64]) -> None:
        """`matrix` (2, 3) takes object coordinates to pixels."""
        self.map = Image.new("L", (side, side), Part.EMPTY)
        self._draw = ImageDraw.Draw(self.map)
        self._linear = np.ascontiguousarray(matrix[:, :2].T)
        self._offset = matrix[:, 2]

    def polygon(self, points: ArrayLike, part: Part) -> None:
        """A filled polygon through `points` (n, 2)."""
        pixels = np.asarray(points, dtype=np.float64) @ self._linear + self._offset
        self._draw.polygon(pixels.ravel().tolist(), fill=int(part))

    def ellipse(self, x: float, y: float, rx: float, ry: float, part: Part, tilt: float = 0.0) -> None:
        """A filled ellipse about (x, y), turned by `tilt` radians."""
        points = arc_points(40, 0.0, 2 * math.pi) * (rx, ry)
        if tilt:
            cos, sin = math.cos(tilt), math.sin(tilt)
            points = points @ np.array([[cos, sin], [-sin, cos]])
        self.polygon(points + (x, y), part)

    def half_ellipse(self, x: float, y: float, rx: float, ry: float, part: Part) -> None:
        """The lower half of an ellipse; a negative `ry` gives the upper half."""
        self.polygon(arc_points(24, 0.0, math.pi) * (rx, ry) + (x, y), part)

    def box(self, x0: float, y0: float, x1: float, y1: float, part: Part, radius: float = 0.0) -> None:
        """A filled rectangle with corners rounded by `radius`."""
        radius = min(radius, (x1 - x0) / 2, (y1 - y0) / 2)
        if radius <= 0:
            self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], part)
            return
        corners = ((x1 - radius, y0 + radius), (x1 - radius, y1 - radius),
                   (x0 + radius, y1 - radius), (x0 + radius, y0 + radius))  # fmt: skip
        rounded = [
            arc_points(7, (turn - 1) * math.pi / 2, turn * math.pi / 2) * radius + corner
            for turn, corner in enumerate(corners)
        ]
        self.polygon(np.concatenate(rounded), part)

    def line(self, points: Sequence[Point] | NDArray[np.float64], width: float, part: Part) -> None:
        """A stroke of the given width, flat at both ends and round at its inner joints."""
        path = np.asarray(points, dtype=np.float64)
        for start, stop in zip(path[:-1], path[1:], strict=True):
            along = stop - start
            normal = np.array([-along[1], along[0]]) * (width / 2 / (math.hypot(*along) + 1e-9))
            self.polygon([start + normal, stop + normal, stop - normal, start - normal], part)
        for x, y in path[1:-1]:
            self.ellipse(x, y, width / 2, width / 2, part)

    def arc(
        self, x: float, y: float, rx: float, ry: float, turn: tuple[float, float], width: float, part: Part
    ) -> None:
        """A stroke along an ellipse; `turn` gives both ends in half turns (0 right, 0.5 down, 1 left)."""
        along = arc_points(18, turn[0] * math.pi, turn[1] * math.pi)
        outer = along * (rx + width / 2, ry + width / 2)
        inner = along * (rx - width / 2, ry - width / 2)
        self.polygon(np.concatenate([outer, inner[::-1]]) + (x, y), part)

    def mirrored_ellipses(self, x: float, y: float, rx: float, ry: float, part: Part, tilt: float = 0.0) -> None:
        """Two ellipses at (-x, y) and (x, y), tilted towards each other."""
        self.ellipse(-x, y, rx, ry, part, tilt)
        self.ellipse(x, y, rx, ry, part, -tilt)
