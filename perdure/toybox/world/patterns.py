"""Two-colour patterns as functions of object coordinates.

Three disjoint families: patterns of pretraining, of personalisation subjects, and of the scorer's training.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Coordinates = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


def _bands(value: Coordinates, per_unit: float) -> Mask:
    """True on every second band of a scalar field; `per_unit` bands to a unit."""
    second: Mask = np.floor(value * per_unit).astype(np.int16) & 1 == 1
    return second


def _centred(value: Coordinates, per_unit: float) -> Coordinates:
    """The position inside its repeat, in [-0.5, 0.5)."""
    scaled = value * np.float32(per_unit)
    centred: Coordinates = scaled - np.floor(scaled) - np.float32(0.5)
    return centred


def _striped(u: Coordinates, v: Coordinates) -> Mask:
    return _bands(v, 3.2)


def _spotted(u: Coordinates, v: Coordinates) -> Mask:
    return _centred(u, 2.6) ** 2 + _centred(v, 2.6) ** 2 < 0.085


def _check(u: Coordinates, v: Coordinates) -> Mask:
    return _bands(u, 2.5) ^ _bands(v, 2.5)


def _zigzag(u: Coordinates, v: Coordinates) -> Mask:
    return _bands(v + 0.5 * np.abs(_centred(u, 2.2)), 2.8)


def _split(u: Coordinates, v: Coordinates) -> Mask:
    return u > 0


def _rings(u: Coordinates, v: Coordinates) -> Mask:
    return _bands(np.hypot(u, v - np.float32(0.1)), 4.5)


def _diagonal(u: Coordinates, v: Coordinates) -> Mask:
    return _bands(u + v, 2.2)


def _plus(u: Coordinates, v: Coordinates) -> Mask:
    across, along = np.abs(_centred(u, 1.9)), np.abs(_centred(v, 1.9))
    return (np.minimum(across, along) < 0.13) & (np.maximum(across, along) < 0.38)


def _diamond(u: Coordinates, v: Coordinates) -> Mask:
    return _bands(u + 0.6 * v, 2.2) ^ _bands(u - 0.6 * v, 2.2)


def _waves(u: Coordinates, v: Coordinates) -> Mask:
    return _bands(u + 0.12 * np.sin(v * 7), 3.0)


def _grid(u: Coordinates, v: Coordinates) -> Mask:
    return np.minimum(np.abs(_centred(u, 2.2)), np.abs(_centred(v, 2.2))) < 0.14


def _halves(u: Coordinates, v: Coordinates) -> Mask:
    return v > 0.05


def _pie(u: Coordinates, v: Coordinates) -> Mask:
    return _bands(np.arctan2(v - np.float32(0.1), u) + np.float32(np.pi), 1.2732395)


def _triangles(u: Coordinates, v: Coordinates) -> Mask:
    return np.abs(_centred(u, 2.0)) * 2 < _centred(v, 2.0) + 0.5


def _bricks(u: Coordinates, v: Coordinates) -> Mask:
    shift = _bands(v, 3.0).astype(np.float32) * np.float32(0.25)
    return (np.abs(_centred(v, 3.0)) > 0.36) | (np.abs(_centred(u + shift, 2.0)) > 0.42)


def _chevron(u: Coordinates, v: Coordinates) -> Mask:
    return _bands(v - 0.9 * np.abs(u), 2.4)


_Pattern = Callable[[Coordinates, Coordinates], Mask]

_PLAIN: dict[str, _Pattern] = {"striped": _striped, "spotted": _spotted}
_SUBJECT: dict[str, _Pattern] = {
    "check": _check, "zigzag": _zigzag, "split": _split, "rings": _rings,
    "diagonal": _diagonal, "plus": _plus, "diamond": _diamond, "waves": _waves,
}  # fmt: skip
_SCORER: dict[str, _Pattern] = {
    "grid": _grid, "halves": _halves, "pie": _pie,
    "triangles": _triangles, "bricks": _bricks, "chevron": _chevron,
}  # fmt: skip
_ALL = _PLAIN | _SUBJECT | _SCORER

#: Patterns that only personalisation subjects have.
SUBJECT_PATTERNS: tuple[str, ...] = tuple(_SUBJECT)
#: Patterns that only the scorer's training things have.
SCORER_PATTERNS: tuple[str, ...] = tuple(_SCORER)


def pattern_mask(name: str, u: Coordinates, v: Coordinates) -> Mask:
    """Where the second colour goes; u and v are object coordinates of the pixels, of one shape."""
    return _ALL[name](u, v)
