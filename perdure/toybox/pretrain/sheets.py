"""Sheets of pictures to look at: samples with their prompts, originals above reconstructions."""

import textwrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_LINE = 11  # pixels a line of text


def labelled_sheet(pixels: NDArray[np.uint8], labels: list[str], columns: int = 8, scale: int = 2) -> Image.Image:
    """Pictures (N, H, W, 3), enlarged, each with its label below."""
    height, width = pixels.shape[1] * scale, pixels.shape[2] * scale
    lines = [textwrap.wrap(label, width // 6) for label in labels]
    room = _LINE * max(map(len, lines), default=0) + 6
    rows = -(-len(pixels) // columns)
    sheet = Image.new("RGB", (columns * (width + 6) + 6, rows * (height + room) + 6), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for number, picture in enumerate(pixels):
        x, y = 6 + number % columns * (width + 6), 6 + number // columns * (height + room)
        sheet.paste(_enlarged(picture, scale), (x, y))
        for offset, line in enumerate(lines[number]):
            pen.text((x, y + height + 1 + offset * _LINE), line, fill=(40, 40, 40), font=font)
    return sheet


def paired_sheet(above: NDArray[np.uint8], below: NDArray[np.uint8], columns: int = 14, scale: int = 2) -> Image.Image:
    """Two series (N, H, W, 3) in pairs of rows: the first series above, its counterpart below."""
    height, width = above.shape[1] * scale, above.shape[2] * scale
    rows = -(-len(above) // columns)
    sheet = Image.new("RGB", (columns * (width + 4) + 4, rows * (2 * height + 12) + 4), "white")
    for number, pair in enumerate(zip(above, below, strict=True)):
        for half, picture in enumerate(pair):
            x = 4 + number % columns * (width + 4)
            y = 4 + number // columns * (2 * height + 12) + half * (height + 2)
            sheet.paste(_enlarged(picture, scale), (x, y))
    return sheet


def _enlarged(picture: NDArray[np.uint8], scale: int) -> Image.Image:
    image = Image.fromarray(picture)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
