"""Contact sheets: many pictures on one, to look at."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from perdure.toybox.world.model import Scene
from perdure.toybox.world.sampling import random_pose, random_scene, random_seed, random_thing
from perdure.toybox.world.scene import draw
from perdure.toybox.world.styles import STYLES
from perdure.toybox.world.subjects import Subject
from perdure.toybox.world.vocabulary import CLASSES, CONTEXTS

_GAP = 2
_LABEL_WIDTH = 110
_LINE_HEIGHT = 11
"""Pixels a line of text below a picture."""


def sheet(
    images: Sequence[Image.Image], columns: int, scale: int = 2, labels: Sequence[str] | None = None
) -> Image.Image:
    """The images (all of one size) in rows of `columns`, enlarged; `labels` names the rows at their left."""
    width, height = images[0].width * scale + _GAP, images[0].height * scale + _GAP
    rows = -(-len(images) // columns)
    left = _LABEL_WIDTH if labels else 0
    page = Image.new("RGB", (left + columns * width + _GAP, rows * height + _GAP), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        page.paste(_enlarged(image, scale), (left + _GAP + column * width, _GAP + row * height))
    pen = ImageDraw.Draw(page)
    for row, label in enumerate(labels or ()):
        pen.text((4, _GAP + row * height + height // 2 - 6), label, fill="black")
    return page


def labelled_sheet(pixels: NDArray[np.uint8], labels: list[str], columns: int = 8, scale: int = 2) -> Image.Image:
    """Pictures (N, H, W, 3), enlarged, each with its label below."""
    height, width = pixels.shape[1] * scale, pixels.shape[2] * scale
    lines = [textwrap.wrap(label, width // 6) for label in labels]
    room = _LINE_HEIGHT * max(map(len, lines), default=0) + 6
    rows = -(-len(pixels) // columns)
    page = Image.new("RGB", (columns * (width + 6) + 6, rows * (height + room) + 6), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=10)
    for number, picture in enumerate(pixels):
        x, y = 6 + number % columns * (width + 6), 6 + number // columns * (height + room)
        page.paste(_enlarged(Image.fromarray(picture), scale), (x, y))
        for offset, line in enumerate(lines[number]):
            pen.text((x, y + height + 1 + offset * _LINE_HEIGHT), line, fill=(40, 40, 40), font=font)
    return page


def paired_sheet(above: NDArray[np.uint8], below: NDArray[np.uint8], columns: int = 14, scale: int = 2) -> Image.Image:
    """Two series (N, H, W, 3) in pairs of rows: the first series above, its counterpart below."""
    height, width = above.shape[1] * scale, above.shape[2] * scale
    rows = -(-len(above) // columns)
    page = Image.new("RGB", (columns * (width + 4) + 4, rows * (2 * height + 12) + 4), "white")
    for number, pair in enumerate(zip(above, below, strict=True)):
        for half, picture in enumerate(pair):
            x = 4 + number % columns * (width + 4)
            y = 4 + number // columns * (2 * height + 12) + half * (height + 2)
            page.paste(_enlarged(Image.fromarray(picture), scale), (x, y))
    return page


def _enlarged(image: Image.Image, scale: int) -> Image.Image:
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _photos(seed: int, class_name: str | None, context: str | None, count: int) -> list[Scene]:
    """Photos of random things, where given all of one class, or all in one context."""
    rng = np.random.default_rng(seed)
    return [
        Scene(
            random_thing(rng, class_name or CLASSES[i % len(CLASSES)]),
            context or CONTEXTS[i % len(CONTEXTS)],
            pose=random_pose(rng),
            seed=random_seed(rng),
        )
        for i in range(count)
    ]


def class_sheet(columns: int = 12, size: int = 64, scale: int = 2, seed: int = 0) -> Image.Image:
    """A row for each class: random individuals, one in each context."""
    scenes = [scene for i, name in enumerate(CLASSES) for scene in _photos(seed + i, name, None, columns)]
    return sheet([draw(scene, size) for scene in scenes], columns, scale, CLASSES)


def context_sheet(columns: int = 10, size: int = 64, scale: int = 2, seed: int = 100) -> Image.Image:
    """A row for each context: random things in it."""
    scenes = [scene for i, name in enumerate(CONTEXTS) for scene in _photos(seed + i, None, name, columns)]
    return sheet([draw(scene, size) for scene in scenes], columns, scale, CONTEXTS)


def style_sheet(
    styles: Sequence[str] = tuple(STYLES), columns: int = 8, size: int = 64, scale: int = 2, seed: int = 2
) -> Image.Image:
    """A row for each style, all of the same scenes."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, styles=()) for _ in range(columns)]
    images = [draw(replace(scene, style=style), size) for style in styles for scene in scenes]
    return sheet(images, columns, scale, styles)


def subject_sheet(
    chosen: Sequence[Subject], training: int = 5, references: int = 7, size: int = 64, scale: int = 2
) -> Image.Image:
    """A row for each subject: its training pictures, a blank, then reference pictures."""
    blank = Image.new("RGB", (size, size), "white")
    images: list[Image.Image] = []
    for subject in chosen:
        images += [draw(scene, size) for scene in subject.training_scenes(training)]
        images.append(blank)
        images += [draw(scene, size) for scene in subject.reference_scenes(references)]
    labels = [f"{subject.token} {subject.class_name}" for subject in chosen]
    return sheet(images, training + references + 1, scale, labels)
