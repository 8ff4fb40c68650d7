"""Outlines of the classes that are worn: backpack, sneaker, boot and glasses.

The convention of the drawing functions is that of `objects_alive`.
"""

from perdure.toybox.world.pen import Anchor, Part, Pen


def draw_backpack(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A backpack seen from behind: a loop, side pockets, a front pocket with a zip."""
    width, height = 0.6 + 0.08 * a, 0.82 + 0.07 * b
    pen.arc(0, -height + 0.02, 0.19, 0.2, (1, 2), 0.1, Part.DARK)
    pen.mirrored_ellipses(width, 0.32, 0.17, 0.42, Part.SHADE)
    pen.box(-width, -height, width, height, Part.PRIMARY, 0.42)
    pen.line([(-width * 0.86, -0.2), (width * 0.86, -0.2)], 0.06, Part.DARK)
    pen.box(-width * 0.72, 0.1, width * 0.72, height * 0.88, Part.SECONDARY, 0.15)
    pen.line([(-width * 0.55, 0.3), (width * 0.55, 0.3)], 0.07, Part.DARK)
    pen.ellipse(width * 0.5, 0.36, 0.06, 0.09, Part.ACCENT)
    if variant % 2:
        pen.ellipse(0, -0.48, 0.14, 0.14, Part.SECONDARY)
    else:
        for side in (-1, 1):
            pen.box(side * width * 0.45 - 0.06, -height * 0.93, side * width * 0.45 + 0.06, -0.2, Part.SECONDARY)
    return Anchor(0, -height, 0.45)


def draw_sneaker(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A sneaker seen from the side: white sole, toe cap, side stripe and laces."""
    height, toe = 0.52 + 0.09 * a, 0.2 + 0.05 * b
    upper = [
        (-0.85, -height),
        (-0.35, -height + 0.05),
        (-0.1, -0.15),
        (0.55, 0.06),
        (0.9, toe),
        (0.96, 0.5),
        (-0.92, 0.5),
    ]
    pen.polygon(upper, Part.PRIMARY)
    pen.ellipse(0.72, 0.38, 0.27, 0.2, Part.SECONDARY)
    pen.polygon([(-0.6, 0.42), (-0.3, 0.42), (0.12, -0.02), (-0.07, -0.12)], Part.SECONDARY)
    if variant % 2:
        pen.box(-0.88, -0.1, -0.66, 0.42, Part.SECONDARY)
    pen.box(-0.98, 0.42, 1.02, 0.7, Part.WHITE, 0.1)
    pen.line([(-0.94, 0.6), (0.98, 0.6)], 0.07, Part.SHADE)
    for lace in range(3):
        x, y = -0.13 + 0.21 * lace, -0.13 + 0.08 * lace
        pen.line([(x, y), (x - 0.15, y + 0.2)], 0.075, Part.WHITE)
    pen.ellipse(-0.6, -height + 0.02, 0.25, 0.1, Part.DARK)
    return Anchor(-0.6, -height, 0.36)


def draw_boot(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A high laced boot with a cuff, a thick sole and a heel."""
    height, width = 0.84 + 0.08 * a, 0.37 + 0.05 * b
    front = -0.55 + 2 * width
    shaft = [
        (-0.55, -height),
        (front, -height),
        (front + 0.04, 0.15),
        (0.6, 0.28),
        (0.84, 0.5),
        (0.84, 0.74),
        (-0.6, 0.74),
    ]
    pen.polygon(shaft, Part.PRIMARY)
    pen.box(-0.62, -height - 0.04, front + 0.07, -height + 0.2, Part.SECONDARY, 0.06)
    if variant % 2:
        pen.ellipse(0.55, 0.55, 0.3, 0.2, Part.SECONDARY)
    pen.box(-0.66, 0.68, 0.9, 0.84, Part.DARK, 0.05)
    pen.box(-0.66, 0.8, -0.22, 0.97, Part.DARK)
    for lace in range(4):
        y = -0.42 + 0.19 * lace
        pen.line([(front - 0.34, y), (front - 0.02, y + 0.06)], 0.07, Part.CREAM)
    return Anchor(-0.2, -height, 0.42)


def draw_glasses(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A pair of glasses, round or square, with clear, dark or tinted lenses; drawn large on purpose."""
    radius, tall = 0.43 + 0.03 * a, 0.95 + 0.15 * b
    lens = (Part.GLASS, Part.DARK, Part.SECONDARY)[variant % 3]
    for side in (-1, 1):
        x = side * 0.54
        pen.line([(side * 0.96, -0.12), (side * 1.1, -0.2), (side * 1.04, -0.62)], 0.12, Part.SHADE)
        outer, inner = radius + 0.09, radius - 0.07
        if variant < 3:
            pen.ellipse(x, 0, outer, outer * tall, Part.PRIMARY)
            pen.ellipse(x, 0, inner, inner * tall, lens)
        else:
            pen.box(x - outer, -outer * tall * 0.8, x + outer, outer * tall * 0.8, Part.PRIMARY, 0.15)
            pen.box(x - inner, -inner * tall * 0.75, x + inner, inner * tall * 0.75, lens, 0.08)
        pen.line([(x - 0.16, 0.1), (x + 0.1, -0.16)], 0.08, Part.WHITE)
    pen.arc(0, -0.02, 0.14, 0.14, (1, 2), 0.12, Part.PRIMARY)
    return Anchor(0, -0.24, 0.42)


DRAWINGS = {
    "backpack": draw_backpack,
    "sneaker": draw_sneaker,
    "boot": draw_boot,
    "glasses": draw_glasses,
}
