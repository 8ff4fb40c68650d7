"""What subjects wear on top: small drawings set on an object's anchor.

Pretraining things wear nothing. The accessories of personalisation subjects and those on which the scorer is
trained are disjoint, so that the scorer has not seen a subject's accessory before it judges the subject.
"""

import math
from collections.abc import Callable

import numpy as np

from perdure.toybox.world.pen import Anchor, Part, Pen, arc_points


def _party_hat(pen: Pen, x: float, y: float, w: float) -> None:
    pen.polygon([(x - w * 0.75, y + 0.06), (x + w * 0.75, y + 0.06), (x, y - 0.66)], Part.ACCENT)
    pen.line([(x - w * 0.5, y - 0.14), (x + w * 0.45, y - 0.08)], 0.1, Part.ACCENT2)
    pen.ellipse(x, y - 0.64, 0.13, 0.13, Part.ACCENT2)


def _crown(pen: Pen, x: float, y: float, w: float) -> None:
    peaks = [(-1, 0.1), (-1.1, -0.44), (-0.5, -0.15), (0, -0.52), (0.5, -0.15), (1.1, -0.44), (1, 0.1)]
    pen.polygon([(x + w * px, y + py) for px, py in peaks], Part.ACCENT)
    for px in (-0.55, 0, 0.55):
        pen.ellipse(x + w * px, y - 0.03, 0.075, 0.075, Part.ACCENT2)


def _top_hat(pen: Pen, x: float, y: float, w: float) -> None:
    pen.box(x - w * 1.15, y - 0.06, x + w * 1.15, y + 0.1, Part.ACCENT, 0.03)
    pen.box(x - w * 0.68, y - 0.58, x + w * 0.68, y, Part.ACCENT)
    pen.box(x - w * 0.68, y - 0.2, x + w * 0.68, y - 0.06, Part.ACCENT2)


def _flower(pen: Pen, x: float, y: float, w: float) -> None:
    for px, py in arc_points(7, 0, 2 * math.pi)[:-1] * 0.24:
        pen.ellipse(x + px, y - 0.16 + py, 0.16, 0.16, Part.ACCENT)
    pen.ellipse(x, y - 0.16, 0.15, 0.15, Part.ACCENT2)


def _bow(pen: Pen, x: float, y: float, w: float) -> None:
    for side in (-1, 1):
        pen.polygon([(x, y - 0.06), (x + side * w * 1.15, y - 0.4), (x + side * w * 1.15, y + 0.26)], Part.ACCENT)
    pen.ellipse(x, y - 0.06, 0.15, 0.15, Part.ACCENT2)


def _horns(pen: Pen, x: float, y: float, w: float) -> None:
    for side in (-1, 1):
        root = x + side * w * 0.7
        horn = [(root - side * 0.17, y + 0.1), (root + side * 0.17, y + 0.14), (root + side * 0.36, y - 0.14),
                (root + side * 0.2, y - 0.55), (root + side * 0.1, y - 0.2)]  # fmt: skip
        pen.polygon(horn, Part.ACCENT)
        pen.line([(root - side * 0.15, y + 0.06), (root + side * 0.2, y + 0.1)], 0.12, Part.ACCENT2)


def _halo(pen: Pen, x: float, y: float, w: float) -> None:
    pen.line([(x, y), (x, y - 0.3)], 0.06, Part.ACCENT2)
    pen.arc(x, y - 0.34, w * 1.05, 0.17, (0, 2), 0.13, Part.ACCENT)


def _flag(pen: Pen, x: float, y: float, w: float) -> None:
    pen.line([(x, y + 0.05), (x, y - 0.66)], 0.08, Part.DARK)
    pen.polygon([(x, y - 0.66), (x + 0.6, y - 0.46), (x, y - 0.2)], Part.ACCENT)
    pen.polygon([(x, y - 0.54), (x + 0.3, y - 0.44), (x, y - 0.32)], Part.ACCENT2)


def _cap(pen: Pen, x: float, y: float, w: float) -> None:
    pen.half_ellipse(x, y + 0.08, w * 0.9, -0.42, Part.ACCENT)
    pen.box(x - w * 1.8, y, x + w * 0.2, y + 0.12, Part.ACCENT2, 0.06)


def _feather(pen: Pen, x: float, y: float, w: float) -> None:
    pen.ellipse(x + 0.14, y - 0.32, 0.14, 0.4, Part.ACCENT, 0.4)
    pen.line([(x - 0.06, y + 0.08), (x + 0.26, y - 0.6)], 0.05, Part.ACCENT2)


def _star(pen: Pen, x: float, y: float, w: float) -> None:
    radii = np.tile([0.42, 0.18], 5)[:, None]
    points = arc_points(11, -math.pi / 2, 1.5 * math.pi)[:-1] * radii
    pen.polygon(points + (x, y - 0.24), Part.ACCENT)
    pen.ellipse(x, y - 0.24, 0.11, 0.11, Part.ACCENT2)


def _heart(pen: Pen, x: float, y: float, w: float) -> None:
    for side in (-1, 1):
        pen.ellipse(x + side * 0.17, y - 0.36, 0.2, 0.2, Part.ACCENT)
    pen.polygon([(x - 0.35, y - 0.28), (x + 0.35, y - 0.28), (x, y + 0.12)], Part.ACCENT)
    pen.ellipse(x - 0.14, y - 0.38, 0.08, 0.08, Part.ACCENT2)


def _beret(pen: Pen, x: float, y: float, w: float) -> None:
    pen.ellipse(x + 0.1, y - 0.1, w * 1.25, 0.22, Part.ACCENT, -0.15)
    pen.box(x - w * 0.8, y, x + w * 0.8, y + 0.1, Part.ACCENT2, 0.04)
    pen.line([(x + 0.1, y - 0.28), (x + 0.14, y - 0.44)], 0.08, Part.ACCENT2)


def _mohawk(pen: Pen, x: float, y: float, w: float) -> None:
    for spike in (-2, -1, 0, 1, 2):
        foot, tip = x + 0.13 * spike, (x + 0.2 * spike, y - 0.5 + 0.06 * abs(spike))
        part = Part.ACCENT2 if spike % 2 else Part.ACCENT
        pen.polygon([(foot - 0.13, y + 0.1), tip, (foot + 0.13, y + 0.1)], part)


_Drawing = Callable[[Pen, float, float, float], None]

_SUBJECT: dict[str, _Drawing] = {
    "party hat": _party_hat, "crown": _crown, "top hat": _top_hat, "flower": _flower,
    "bow": _bow, "horns": _horns, "halo": _halo, "flag": _flag,
}  # fmt: skip
_SCORER: dict[str, _Drawing] = {
    "cap": _cap, "feather": _feather, "star": _star, "heart": _heart, "beret": _beret, "mohawk": _mohawk,
}  # fmt: skip
_ALL = _SUBJECT | _SCORER

#: Accessories that only personalisation subjects wear.
SUBJECT_ACCESSORIES: tuple[str, ...] = tuple(_SUBJECT)
#: Accessories that only the scorer's training things wear.
SCORER_ACCESSORIES: tuple[str, ...] = tuple(_SCORER)


def draw_accessory(pen: Pen, name: str, anchor: Anchor) -> None:
    """Set the named accessory on an object's anchor."""
    _ALL[name](pen, anchor.x, anchor.y, anchor.half_width)
