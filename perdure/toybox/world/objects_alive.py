"""Outlines of the classes with a face: cat, dog, stuffed animal, toy (a robot) and cartoon (a monster).

Every drawing function takes a pen, two proportions `a` and `b` in [-1, 1] and a variant (0..5), draws in
object coordinates (about [-1, 1], y down, feet near y = 0.9) and returns where an accessory sits.
"""

from perdure.toybox.world.pen import Anchor, Part, Pen


def draw_stuffed_animal(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A sitting teddy bear with round ears, a muzzle and a belly patch."""
    head, ear = 0.45 + 0.05 * a, 0.18 + 0.04 * b
    pen.mirrored_ellipses(0.42, 0.78, 0.22, 0.18, Part.SHADE)
    pen.mirrored_ellipses(0.42, 0.78, 0.12, 0.1, Part.SECONDARY)
    pen.mirrored_ellipses(0.54, 0.25, 0.16, 0.32, Part.SHADE, 0.5)
    pen.ellipse(0, 0.4, 0.52, 0.53, Part.PRIMARY)
    pen.ellipse(0, 0.46, 0.28, 0.33, Part.SECONDARY)
    ear_x, ear_y = head * 0.8, -0.35 - head * 0.72
    pen.mirrored_ellipses(ear_x, ear_y, ear, ear, Part.PRIMARY)
    pen.mirrored_ellipses(ear_x, ear_y, ear * 0.55, ear * 0.55, Part.SECONDARY)
    pen.ellipse(0, -0.35, head * 1.12, head, Part.PRIMARY)
    pen.ellipse(0, -0.2, 0.23, 0.18, Part.CREAM if variant % 2 else Part.SECONDARY)
    pen.ellipse(0, -0.27, 0.09, 0.065, Part.DARK)
    pen.mirrored_ellipses(0.2, -0.46, 0.065, 0.075, Part.DARK)
    return Anchor(0, -0.32 - head, 0.42)


def draw_cat(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A sitting cat seen from the front: pointed ears, whiskers, a curled tail."""
    head, ear = 0.42 + 0.04 * a, 0.34 + 0.08 * b
    pen.arc(0.5, 0.35, 0.34, 0.47, (-0.45, 0.5), 0.15, Part.SHADE)
    pen.ellipse(0, 0.45, 0.43, 0.5, Part.PRIMARY)
    pen.mirrored_ellipses(0.25, 0.88, 0.18, 0.11, Part.SECONDARY)
    pen.ellipse(0, 0.52, 0.19, 0.28, Part.SECONDARY)
    for side in (-1, 1):
        outer = [
            (side * head * 1.08, -0.35),
            (side * head, -0.38 - head * 0.6 - ear),
            (side * 0.1, -0.35 - head * 0.85),
        ]
        inner = [(side * head * 0.9, -0.5), (side * head * 0.88, -0.38 - head * 0.6 - ear * 0.6),
                 (side * 0.22, -0.35 - head * 0.75)]  # fmt: skip
        pen.polygon(outer, Part.PRIMARY)
        pen.polygon(inner, Part.SECONDARY)
    pen.ellipse(0, -0.3, head * 1.15, head * 0.95, Part.PRIMARY)
    pen.ellipse(0, -0.14, 0.21, 0.14, Part.SECONDARY if variant % 2 else Part.WHITE)
    pen.polygon([(-0.07, -0.22), (0.07, -0.22), (0, -0.13)], Part.DARK)
    for side in (-1, 1):
        pen.ellipse(side * 0.21, -0.36, 0.1, 0.11, Part.FLAME)
        pen.ellipse(side * 0.21, -0.36, 0.04, 0.1, Part.DARK)
        pen.line([(side * 0.16, -0.14), (side * 0.6, -0.2)], 0.035, Part.DARK)
        pen.line([(side * 0.16, -0.1), (side * 0.58, -0.04)], 0.035, Part.DARK)
    return Anchor(0, -0.28 - head, 0.36)


def draw_dog(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A standing dog seen from the side: muzzle, hanging ear, collar, raised tail."""
    ear = 0.3 + 0.07 * b
    back = -0.03 - 0.05 * a
    pen.line([(0.6, 0.2), (0.76, 0.0), (0.86, -0.24 - 0.05 * a)], 0.13, Part.SHADE)
    for x in (-0.36, 0.34):
        pen.box(x, 0.3, x + 0.21, 0.92, Part.SHADE, 0.08)
    pen.box(-0.5, back, 0.7, 0.6, Part.PRIMARY, 0.28)
    for x in (-0.54, 0.5):
        pen.box(x, 0.25, x + 0.21, 0.95, Part.PRIMARY, 0.08)
    pen.box(-0.52, -0.3, -0.12, 0.3, Part.PRIMARY, 0.1)
    pen.ellipse(-0.42, -0.36, 0.4, 0.38, Part.PRIMARY)
    pen.ellipse(-0.7, -0.22, 0.3, 0.2, Part.SECONDARY)
    pen.ellipse(-0.94, -0.3, 0.1, 0.09, Part.DARK)
    pen.line([(-0.92, -0.14), (-0.62, -0.1)], 0.04, Part.DARK)
    if variant % 2:
        pen.ellipse(-0.5, -0.46, 0.13, 0.14, Part.SECONDARY)
    pen.ellipse(-0.51, -0.46, 0.065, 0.075, Part.DARK)
    pen.ellipse(-0.14, -0.28, 0.16, ear, Part.SECONDARY if variant >= 3 else Part.SHADE, -0.25)
    pen.line([(-0.56, 0.06), (-0.1, 0.1)], 0.11, Part.ACCENT2)
    return Anchor(-0.42, -0.7, 0.36)


def draw_toy(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A boxy toy robot with an antenna, round eyes and a control panel."""
    width = 0.43 + 0.06 * a
    for side in (-1, 1):
        pen.box(side * 0.22 - 0.13, 0.55, side * 0.22 + 0.13, 0.95, Part.SHADE)
        arm = side * (width + 0.13)
        pen.box(arm - 0.12, -0.1, arm + 0.12, 0.38, Part.SHADE, 0.08)
        pen.ellipse(arm, 0.44, 0.12, 0.12, Part.SECONDARY)
    pen.line([(0, -0.7), (0, -0.94)], 0.06, Part.DARK)
    pen.ellipse(0, -0.95, 0.1, 0.1, Part.ACCENT)
    pen.box(-width * 0.4, -0.25, width * 0.4, 0, Part.DARK)
    pen.box(-width, -0.13, width, 0.64, Part.PRIMARY, 0.06)
    pen.box(-0.27, 0.04, 0.27, 0.4, Part.SECONDARY, 0.04)
    pen.ellipse(-0.12, 0.22, 0.08, 0.08, Part.ACCENT)
    pen.ellipse(0.12, 0.22, 0.08, 0.08, Part.FLAME)
    head = width * 0.92
    pen.mirrored_ellipses(head, -0.47, 0.1, 0.12, Part.SECONDARY)
    pen.box(-head, -0.78, head, -0.2, Part.PRIMARY, 0.08 + 0.05 * b)
    pen.mirrored_ellipses(0.17, -0.54, 0.13, 0.13, Part.WHITE)
    pen.mirrored_ellipses(0.17, -0.54, 0.06, 0.06, Part.DARK)
    mouth = 0.24 if variant % 2 else 0.16
    pen.box(-mouth, -0.35, mouth, -0.27, Part.DARK)
    return Anchor(0, -0.78, 0.4)


def draw_cartoon(pen: Pen, a: float, b: float, variant: int) -> Anchor:
    """A cartoon monster: an egg-shaped body, feelers, one or two big eyes, a wide mouth with fangs."""
    width = 0.6 + 0.08 * a
    for side in (-1, 1):
        pen.line([(side * 0.25, -0.55), (side * 0.38, -0.9)], 0.1, Part.SECONDARY)
        pen.ellipse(side * 0.4, -0.92, 0.12, 0.12, Part.SECONDARY)
        pen.ellipse(side * 0.3, 0.88, 0.22, 0.11, Part.SHADE)
        pen.ellipse(side * (width + 0.08), 0.12, 0.15, 0.32, Part.SHADE, -0.5 * side)
    pen.ellipse(0, 0.1, width, 0.8, Part.PRIMARY)
    pen.ellipse(0, 0.52 + 0.03 * b, width * 0.6, 0.34, Part.SECONDARY)
    if variant % 3 == 0:
        pen.ellipse(0, -0.27, 0.31, 0.31, Part.WHITE)
        pen.ellipse(0.03, -0.24, 0.14, 0.14, Part.DARK)
    else:
        pen.mirrored_ellipses(0.24, -0.27, 0.22, 0.23, Part.WHITE)
        pen.mirrored_ellipses(0.2, -0.24, 0.09, 0.1, Part.DARK)
    pen.half_ellipse(0, 0.16, 0.38, 0.24, Part.DARK)
    for x in (-0.18, 0.18):
        pen.polygon([(x - 0.08, 0.16), (x + 0.08, 0.16), (x, 0.3)], Part.WHITE)
    return Anchor(0, -0.68, 0.42)


DRAWINGS = {
    "stuffed animal": draw_stuffed_animal,
    "cat": draw_cat,
    "dog": draw_dog,
    "toy": draw_toy,
    "cartoon": draw_cartoon,
}
