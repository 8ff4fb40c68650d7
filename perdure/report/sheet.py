"""A sheet of samples as one PNG picture, for readmes, slides and papers. Same lineage, same bytes."""

import io
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from perdure import files
from perdure.report.palette import INK, MARK, PAPER, RULE, SOFT, css, sequential
from perdure.report.samples import Line, Sample, Sheet
from perdure.wording import short_number

GAP, HEAD, FOOT, EDGE = 10, 48, 22, 20
DIMMED = 0.62
"""How far pictures from before a concept's own lesson fade into the paper."""


def draw(sheet: Sheet, path: Path, side: int = 128) -> Path:
    """Draw a sheet with its headings and scores, and write it as PNG."""
    left = _left(sheet)
    width = left + len(sheet.columns) * (side + GAP) + 2 * EDGE
    height = HEAD + len(sheet.lines) * (side + FOOT + GAP) + 2 * EDGE
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    for k, column in enumerate(sheet.columns):
        x = EDGE + left + k * (side + GAP)
        _text(pen, (x, EDGE), column.title, 15, INK, side)
        _text(pen, (x, EDGE + 19), column.subtitle, 13, SOFT, side)
    for i, line in enumerate(sheet.lines):
        _line(canvas, pen, line, left, EDGE + HEAD + i * (side + FOOT + GAP), side)
    buffer = io.BytesIO()
    canvas.save(buffer, "png", optimize=True)
    files.write_bytes(path, buffer.getvalue())
    return path


def _left(sheet: Sheet) -> int:
    widest = max((_font(16).getlength(line.head) for line in sheet.lines), default=0)
    return round(min(widest, 220)) + 18


def _line(canvas: Image.Image, pen: ImageDraw.ImageDraw, line: Line, left: int, y: int, side: int) -> None:
    _text(pen, (EDGE, y + side // 2 - 18), line.head, 16, INK, left - 12)
    _text(pen, (EDGE, y + side // 2 + 3), line.measure, 13, SOFT, left - 12)
    for k, sample in enumerate(line.samples):
        _place(canvas, pen, sample, EDGE + left + k * (side + GAP), y, side)


def _place(canvas: Image.Image, pen: ImageDraw.ImageDraw, sample: Sample, x: int, y: int, side: int) -> None:
    if sample.path is None:
        pen.rectangle((x, y, x + side - 1, y + side - 1), outline=RULE)
        return
    picture = _fitted(sample.path, side)
    if sample.state == "before":
        picture = Image.blend(picture, Image.new("RGB", picture.size, PAPER), DIMMED)
    canvas.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
    if sample.state == "own":
        pen.rectangle((x - 4, y - 4, x + side + 3, y + side + 3), outline=MARK, width=3)
    if sample.state == "reference" and not math.isfinite(sample.score):
        return
    text = short_number(sample.score)
    _text(pen, (x, y + side + 5), text, 13, MARK if sample.state == "own" else INK, side)
    start = x + 44
    pen.rectangle((start, y + side + 11, x + side - 1, y + side + 14), fill=RULE)
    end = start + max(2, round((x + side - 1 - start) * sample.fraction))
    pen.rectangle((start, y + side + 11, end, y + side + 14), fill=css(sequential(0.25 + 0.75 * sample.fraction)))


def _fitted(path: Path, side: int) -> Image.Image:
    """A picture inside a square: small ones enlarged pixel by pixel where that fits, large ones shrunk."""
    picture = files.read_png(path)
    longest = max(picture.size)
    times = side / longest
    how = Image.Resampling.NEAREST if times == int(times) else Image.Resampling.LANCZOS
    size = (max(1, round(picture.width * times)), max(1, round(picture.height * times)))
    return picture.resize(size, how)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, ink: str, room: float) -> None:
    """One line of text, cut with an ellipsis where it does not fit."""
    font = _font(size)
    text = text.replace("−", "-")
    if font.getlength(text) > room:
        while text and font.getlength(f"{text}...") > room:
            text = text[:-1]
        text = f"{text}..."
    pen.text(at, text, fill=ink, font=font)
