"""Rendering: a `Scene` becomes a picture, always the same one."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from perdure.toybox.world import objects_alive, objects_home, objects_worn
from perdure.toybox.world.accessories import draw_accessory
from perdure.toybox.world.contexts import draw_context
from perdure.toybox.world.model import Pose, Scene, Thing
from perdure.toybox.world.patterns import pattern_mask
from perdure.toybox.world.pen import Part, Pen
from perdure.toybox.world.styles import STYLES

#: Drawing happens at this multiple of the asked size; styles reduce it.
OVERSAMPLING = 4

_OBJECTS = objects_alive.DRAWINGS | objects_home.DRAWINGS | objects_worn.DRAWINGS
_SHADE = 0.72
_NIGHT = 0.82
_OUTLINE = 0.62
# The same seed must not give context and style the same numbers.
_CONTEXT_STREAM, _STYLE_STREAM = 1, 2


def object_matrix(thing: Thing, pose: Pose, side: int) -> NDArray[np.float64]:
    """The affine map (2, 3) from object coordinates to pixels of a picture of `side` pixels."""
    scale, drop = pose.scale * side * 0.46, 0.1
    if thing.accessory is not None:
        # Make room above the object, so that what it wears stays inside the picture.
        scale, drop = scale * 0.86, drop + 0.13
    cos, sin = math.cos(pose.rotation) * scale, math.sin(pose.rotation) * scale
    mirror = -1.0 if pose.flip else 1.0
    x, y = (pose.x + 1) * side / 2, (pose.y + drop + 1) * side / 2
    return np.array([[cos * mirror, -sin, x], [sin * mirror, cos, y]])


def _colour_table(thing: Thing) -> NDArray[np.float32]:
    """RGB (11, 3) of the parts of a thing."""
    table = np.zeros((len(Part), 3), dtype=np.float32)
    table[Part.PRIMARY] = thing.primary.rgb
    table[Part.SECONDARY] = thing.secondary.rgb
    table[Part.DARK] = (35, 32, 38)
    table[Part.WHITE] = (248, 248, 248)
    table[Part.ACCENT] = thing.accent.rgb
    table[Part.SHADE] = np.multiply(thing.primary.rgb, _SHADE)
    table[Part.CREAM] = (245, 232, 205)
    table[Part.GLASS] = (200, 225, 238)
    table[Part.FLAME] = (252, 205, 70)
    table[Part.ACCENT2] = thing.accent2.rgb
    return table


def _object_coordinates(
    matrix: NDArray[np.float64], box: tuple[int, int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """u and v of the pixels of a box (left, upper, right, lower), each of the box's shape."""
    inverse = np.linalg.inv(matrix[:, :2]).astype(np.float32)
    x = (np.arange(box[0], box[2]) + 0.5 - matrix[0, 2]).astype(np.float32)[None, :]
    y = (np.arange(box[1], box[3]) + 0.5 - matrix[1, 2]).astype(np.float32)[:, None]
    return inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y


def _rim(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of a silhouette (H, W) that lie within `width` of its outside."""
    core = np.zeros_like(inside)
    w = width
    core[w:-w, w:-w] = inside[w:-w, : -2 * w] & inside[w:-w, 2 * w :] & inside[: -2 * w, w:-w] & inside[2 * w :, w:-w]
    return inside & ~core


def _paint(
    thing: Thing, parts: NDArray[np.uint8], u: NDArray[np.float32], v: NDArray[np.float32], rim: int
) -> NDArray[np.float32]:
    """Colours (H, W, 3) of a part map: the thing's inks, its pattern, light from above and a dark rim."""
    colours = _colour_table(thing)[parts]
    if thing.pattern != "none":
        second = pattern_mask(thing.pattern, u, v)
        ink = np.asarray(thing.pattern_ink.rgb, dtype=np.float32)
        colours[second & (parts == Part.PRIMARY)] = ink
        colours[second & (parts == Part.SHADE)] = ink * _SHADE
    light = np.clip(1.04 - 0.1 * v - 0.08 * u, 0.75, 1.15)
    light[_rim(parts > 0, rim)] *= _OUTLINE
    colours *= light[..., None]
    return colours


def _cast_shadow(image: Image.Image, matrix: NDArray[np.float64]) -> None:
    """Darken the ground below an object, in place."""
    reach = math.hypot(matrix[0, 1], matrix[1, 1])
    x, y = matrix[0, 2], matrix[1, 2] + reach * 0.92
    box = (int(x - reach * 0.85), int(y - reach * 0.13), int(x + reach * 0.85), int(y + reach * 0.13))
    ground = image.crop(box)
    mask = Image.new("L", ground.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, ground.width - 1, ground.height - 1), fill=255)
    image.paste(ground.point(lambda value: value * 0.72), box[:2], mask)


def draw_large(scene: Scene, size: int) -> Image.Image:
    """The unstyled drawing, `OVERSAMPLING` times larger than `size`."""
    side = size * OVERSAMPLING
    image = draw_context(scene.context, side, np.random.default_rng([scene.seed, _CONTEXT_STREAM]))
    matrix = object_matrix(scene.thing, scene.pose, side)
    _cast_shadow(image, matrix)
    pen = Pen(side, matrix)
    anchor = _OBJECTS[scene.thing.class_name](pen, *scene.thing.shape, scene.thing.variant)
    if scene.thing.accessory is not None:
        draw_accessory(pen, scene.thing.accessory, anchor)
    box = pen.map.getbbox()
    if box is None:  # posed outside the picture
        return image
    cut = pen.map.crop(box)
    u, v = _object_coordinates(matrix, box)
    colours = _paint(scene.thing, np.asarray(cut), u, v, max(1, round(side / 110)))
    if scene.context == "at night":
        colours *= _NIGHT
    painted = Image.fromarray(np.minimum(colours, 255).astype(np.uint8))
    image.paste(painted, box[:2], cut.point([0] + [255] * 255))
    return image


def draw(scene: Scene, size: int = 64) -> Image.Image:
    """The picture of a scene: RGB, `size` x `size`. The same scene and size always give the same bytes."""
    large = draw_large(scene, size)
    return STYLES[scene.style].apply(large, np.random.default_rng([scene.seed, _STYLE_STREAM]))
