"""The register of styles: their names, caption phrases and drawing functions."""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator
from PIL import Image

from perdure.toybox.world import styles_held_out as held_out
from perdure.toybox.world import styles_seen as seen

_Filter = Callable[[Image.Image, Generator], Image.Image]


@dataclass(frozen=True)
class Style:
    """A way to draw: `phrase` opens its captions and `apply` turns the 4x drawing into the picture."""

    name: str
    phrase: str
    apply: _Filter


def _image_of(name: str, apply: _Filter) -> Style:
    """A held-out style, worded as personalisation prompts word it."""
    article = "an" if name[0] in "aeiou" else "a"
    return Style(name, f"{article} {name} image of", apply)


_PHOTO = Style("photo", "a photo of", seen.photo)
_SEEN = (
    Style("sketch", "a sketch of", seen.sketch),
    Style("pixel art", "pixel art of", seen.pixel_art),
    Style("mosaic", "a mosaic of", seen.mosaic),
    Style("watercolor", "a watercolor of", seen.watercolor),
    Style("neon", "a neon picture of", seen.neon),
    Style("crayon", "a crayon drawing of", seen.crayon),
    Style("old photo", "an old photo of", seen.old_photo),
    Style("negative", "a negative of", seen.negative),
    Style("ink", "an ink drawing of", seen.ink),
    Style("poster", "a poster of", seen.poster),
    Style("painting", "a painting of", seen.painting),
)
_HELD_OUT = (
    _image_of("stained glass", held_out.stained_glass),
    _image_of("blueprint", held_out.blueprint),
    _image_of("halftone", held_out.halftone),
    _image_of("embossed", held_out.embossed),
    _image_of("pointillism", held_out.pointillism),
    _image_of("thermal", held_out.thermal),
    _image_of("woodcut", held_out.woodcut),
    _image_of("chalkboard", held_out.chalkboard),
    _image_of("cross stitch", held_out.cross_stitch),
    _image_of("glitch", held_out.glitch),
    _image_of("scanline", held_out.scanline),
    _image_of("duotone", held_out.duotone),
    _image_of("frosted", held_out.frosted),
    _image_of("low poly", held_out.low_poly),
)

#: Every style by name.
STYLES: dict[str, Style] = {style.name: style for style in (_PHOTO, *_SEEN, *_HELD_OUT)}
#: Styles that pretraining shows besides "photo".
SEEN_STYLES: tuple[str, ...] = tuple(style.name for style in _SEEN)
#: Styles that only personalisation shows.
HELD_OUT_STYLES: tuple[str, ...] = tuple(style.name for style in _HELD_OUT)
