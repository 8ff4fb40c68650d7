"""Aspect-ratio buckets: sizes of about one area, to the nearest of which each training picture is cut (Podell et al.
2023, SDXL, appendix I).
"""

import math
from functools import cache

MOST = 4.0
"""The longest side by the shortest that a size has at most, as in SDXL's own list."""

Size = tuple[int, int]
"""Width and height in pixels."""


@cache
def sizes(resolution: int, multiple: int) -> tuple[Size, ...]:
    """The sizes whose sides are multiples of a number, none of more pixels than a square of that resolution.

    To each shorter side belongs the longest other one; the square comes first, then by how far they are from it.
    """
    found = set()
    for short in range(multiple, resolution + 1, multiple):
        long = resolution * resolution // short // multiple * multiple
        if long <= MOST * short:
            found |= {(short, long), (long, short)}
    return tuple(sorted(found, key=lambda size: (abs(math.log(size[0] / size[1])), size)))


def nearest(shape: Size, resolution: int, multiple: int | None) -> Size:
    """The size whose ratio of sides is nearest to that of a picture (width, height); without buckets the square."""
    if multiple is None:
        return resolution, resolution
    own = math.log(shape[0] / shape[1])
    return min(sizes(resolution, multiple), key=lambda size: abs(math.log(size[0] / size[1]) - own))


def kept(shape: Size, size: Size) -> tuple[float, float]:
    """Shares of a picture's width and height that are left where it is made to cover a size and cut to it."""
    wide = shape[0] * size[1] / (shape[1] * size[0])
    return min(1.0, 1 / wide), min(1.0, wide)
