"""Outlines of the household classes: bowl, can, candle, clock, teapot and vase.

The convention of the drawing functions is that of `objects_alive`.
"""

import math

from perdure.toybox.world.pen import Anchor, Part, Pen, arc_points


def draw_bowl(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A round bowl on a foot, looked into a little from above."""
    width, rim = 0.87 + 0.08 * a, -0.15 + 0.1 * b
    pen.box(-0.36, 0.5, 0.36, 0.78, Part.SHADE, 0.05)
    pen.half_ellipse(0, rim, width, 0.84, Part.PRIMARY)
    pen.ellipse(0, rim, width, 0.22, Part.SECONDARY)
    pen.ellipse(0, rim + 0.02, width * 0.86, 0.15, Part.DARK if variant % 2 else Part.CREAM)
    return Anchor(0, rim - 0.1, 0.5)


def draw_can(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A drinks can with a pull tab and a label band."""
    width, height = 0.48 + 0.07 * a, 0.8 + 0.06 * b
    pen.ellipse(0, height, width, 0.15, Part.SHADE)
    pen.box(-width, -height, width, height, Part.PRIMARY)
    pen.box(-width, -0.2, width, 0.3, Part.SECONDARY)
    if variant % 2:
        pen.ellipse(0, 0.05, width * 0.45, 0.19, Part.ACCENT)
    else:
        pen.polygon([(0, -0.14), (width * 0.5, 0.05), (0, 0.24), (-width * 0.5, 0.05)], Part.ACCENT)
    pen.ellipse(0, -height, width, 0.16, Part.DARK)
    pen.ellipse(0, -height, width * 0.87, 0.12, Part.GLASS)
    pen.ellipse(0.06, -height, 0.14, 0.05, Part.DARK)
    return Anchor(0, -height - 0.05, 0.45)


def draw_candle(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A burning candle on a saucer, with a drop of wax."""
    width, top = 0.36 + 0.07 * a, -0.28 + 0.1 * b
    pen.ellipse(0, 0.82, width + 0.34, 0.17, Part.SECONDARY)
    pen.ellipse(0, 0.77, width + 0.22, 0.12, Part.DARK)
    pen.ellipse(0, 0.75, width, 0.1, Part.SHADE)
    pen.box(-width, top, width, 0.75, Part.PRIMARY)
    pen.ellipse(0, top, width, 0.11, Part.CREAM)
    drip = width * (0.55 if variant % 2 else -0.55)
    pen.box(drip - 0.09, top, drip + 0.09, top + 0.3, Part.CREAM, 0.09)
    pen.line([(0, top), (0, top - 0.2)], 0.06, Part.DARK)
    pen.ellipse(0, top - 0.36, 0.17, 0.24, Part.FLAME)
    pen.polygon([(-0.12, top - 0.5), (0, top - 0.82), (0.12, top - 0.5)], Part.FLAME)
    pen.ellipse(0, top - 0.31, 0.08, 0.13, Part.WHITE)
    return Anchor(0, top, 0.4)


def draw_clock(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """An alarm clock with two bells, legs, hour marks and hands."""
    radius = 0.74 + 0.04 * a
    for side in (-1, 1):
        pen.line([(side * 0.42, 0.55), (side * 0.62, 0.97)], 0.15, Part.SHADE)
        pen.ellipse(side * 0.43, -0.74, 0.28, 0.23, Part.SECONDARY, 0.6 * side)
    pen.box(-0.05, -0.98, 0.05, -0.6, Part.DARK)
    pen.ellipse(0, 0, radius, radius, Part.PRIMARY)
    pen.ellipse(0, 0, radius * 0.7, radius * 0.7, Part.CREAM if variant % 2 else Part.WHITE)
    for x, y in arc_points(13, 0, 2 * math.pi)[:-1] * radius * 0.57:
        pen.ellipse(x, y, 0.05, 0.05, Part.DARK)
    hour, minute = b * 3.0, b * 6.0 + 1.0
    pen.line([(0, 0), (math.cos(hour) * 0.25, math.sin(hour) * 0.25)], 0.1, Part.DARK)
    pen.line([(0, 0), (math.cos(minute) * 0.38, math.sin(minute) * 0.38)], 0.07, Part.ACCENT)
    pen.ellipse(0, 0, 0.07, 0.07, Part.DARK)
    return Anchor(0, -radius, 0.42)


def draw_teapot(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A round teapot: spout to the left, handle to the right, a lid with a knob."""
    height, lid = 0.54 + 0.06 * a, -0.24 - 0.08 * b
    pen.arc(0.6, 0.15, 0.36, 0.36, (-0.55, 0.55), 0.14, Part.SHADE)
    spout = [
        (-0.4, 0.5),
        (-0.45, 0.05),
        (-0.72, -0.36),
        (-1.04, -0.44),
        (-0.98, -0.26),
        (-0.86, -0.18),
        (-0.72, 0.3),
    ]
    pen.polygon(spout, Part.SHADE)
    pen.ellipse(0, 0.22, 0.66, height, Part.PRIMARY)
    pen.box(-0.36, 0.64, 0.36, 0.82, Part.SHADE, 0.04)
    if variant % 2:
        pen.ellipse(0, 0.25, 0.62, 0.12, Part.SECONDARY)
    else:
        pen.ellipse(0, 0.27, 0.24, 0.22, Part.SECONDARY)
    pen.ellipse(0, lid, 0.4, 0.17, Part.SECONDARY)
    pen.ellipse(0, lid - 0.2, 0.11, 0.11, Part.ACCENT)
    return Anchor(0, lid - 0.18, 0.36)


def draw_vase(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A bulging vase with a narrow neck; odd variants hold flowers."""
    belly, neck = 0.54 + 0.09 * a, 0.2 + 0.05 * b
    if variant % 2:
        for x, y, part in (
            (-0.36, -0.76, Part.ACCENT),
            (0.36, -0.76, Part.ACCENT),
            (0.0, -0.86, Part.ACCENT2),
        ):
            pen.line([(0, -0.3), (x, y)], 0.06, Part.DARK)
            pen.ellipse(x, y, 0.17, 0.17, part)
            pen.ellipse(x, y, 0.07, 0.07, Part.FLAME)
    right = [
        (neck + 0.14, -0.47),
        (neck, -0.2),
        (belly * 0.8, 0.02),
        (belly * 1.05, 0.25),
        (belly, 0.55),
        (0.32, 0.92),
    ]
    pen.polygon(right + [(-x, y) for x, y in reversed(right)], Part.PRIMARY)
    pen.ellipse(0, 0.3, belly * 1.02, 0.1, Part.SECONDARY)
    pen.ellipse(0, -0.47, neck + 0.14, 0.08, Part.SHADE)
    pen.ellipse(0, -0.47, neck + 0.06, 0.04, Part.DARK)
    return Anchor(0, -0.46, 0.36)


DRAWINGS = {
    "bowl": draw_bowl,
    "can": draw_can,
    "candle": draw_candle,
    "clock": draw_clock,
    "teapot": draw_teapot,
    "vase": draw_vase,
}
