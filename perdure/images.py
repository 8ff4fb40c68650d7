"""Photos on disk -> RGB pictures: any size and mode in, one clear sentence for what cannot be used; read
only.

Upright (EXIF rotation applied), alpha flattened on a stated colour, 16 bits scaled rather than clipped.
Colour profiles are not applied: trainers and metric code of the field read the stored values as sRGB, and so
does this.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageOps

from perdure.errors import ImageError

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "avif", "jp2", "jfif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000")
TELLING = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "JPEG2000")
"""Formats that tell themselves by their first bytes; text can begin as BMP does, and camera raw files as TIFF."""
MAX_PIXELS = 100_000_000
MIN_SIDE = 16
PREFIX = 64
"""Bytes that tell the format; of HEIF containers they hold the list of what they are compatible with."""
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks of a PNG that say nothing of its pixels and can be of any size."""

# What Pillow's decoders let escape when the bytes are damaged.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error)


def read_image(
    path: str | Path,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
) -> Image.Image:
    """One picture, mode RGB, upright, alpha flattened on `background` (r, g, b in 0..255).

    Of several frames or pages the first counts. Pixels are decoded only once the size is known to be allowed.
    Raises ImageError, naming the file and the reason, for what is missing, unreadable, no image, corrupt,
    truncated, smaller than `min_side` on a side or larger than `max_pixels`.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            try:
                return _decoded(stream, path, background, max_pixels, min_side)
            except ValueError:  # among others Pillow's bound on the texts and the profile of a PNG
                return _decoded(_without_texts(stream), path, background, max_pixels, min_side)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file.") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: is a folder; an image file is needed.") from error
    except PermissionError as error:
        raise ImageError(f"{path}: no permission to read it.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # from within a decoder
        raise ImageError(f"{path}: holds more pixels than its size says ({_plain(error)}).") from error
    except DAMAGED as error:
        raise ImageError(f"{path}: is corrupt or truncated ({_plain(error)}).") from error


def _decoded(
    stream: IO[bytes], path: Path, background: tuple[int, int, int], max_pixels: int, min_side: int
) -> Image.Image:
    picture = _identify(stream, path)
    _check_size(picture.size, path, max_pixels, min_side)
    picture.load()
    return _flatten(_upright(picture), background)


def _identify(stream: IO[bytes], path: Path) -> Image.Image:
    """The picture with its header read and no pixel decoded.

    `Image.open` would do, were it not that it measures against Pillow's own, process-wide pixel limit: it
    warns or raises on its own terms. The plugins it calls are asked directly instead, so that ours is the
    only limit.
    """
    prefix = stream.read(PREFIX)
    if not prefix:
        raise ImageError(f"{path}: is empty (0 bytes).")
    if name := _format(prefix, FORMATS):
        stream.seek(0)
        return Image.OPEN[name][0](stream, str(path))
    if prefix[4:8] == b"ftyp" and any(brand in prefix for brand in (b"hei", b"hev")):
        raise ImageError(f"{path}: is a HEIC picture, which is not read here: convert it to JPEG or PNG.")
    known = ", ".join(name for name in FORMATS if name != "DIB")
    raise ImageError(f"{path}: is not an image (its contents are none of {known}).")


def shape_of(path: Path) -> tuple[int, int] | None:
    """Width and height as stored, from a picture's head; None where it cannot be read, which `check_images` tells."""
    try:
        with path.open("rb") as stream:
            width, height = _identify(stream, path).size
            return width, height
    except (ImageError, *DAMAGED):
        return None


def tells_itself(path: Path) -> bool:
    """Whether a file is a picture by its first bytes, whatever its name is. Raises OSError."""
    with path.open("rb") as stream:
        return _format(stream.read(PREFIX), TELLING) is not None


def _format(prefix: bytes, among: Iterable[str]) -> str | None:
    """Which of some formats Pillow takes a file for by its first bytes; None where it can read none of them."""
    Image.init()
    for name in among:
        accept = Image.OPEN[name][1] if name in Image.OPEN else None
        sure = name != "AVIF" or b"avi" in prefix  # its container is that of HEIC too
        if accept is not None and sure and accept(prefix) is True:
            return name
    return None


def _without_texts(stream: IO[bytes]) -> IO[bytes]:
    """A PNG without texts and colour profile; anything else, and what is cut short, as it is."""
    stream.seek(0)
    data = stream.read()
    kept, at = [data[:8]], 8
    while data[:8] == b"\x89PNG\r\n\x1a\n" and at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] not in PNG_TEXTS:
            kept.append(data[at:end])
        at = end
    return io.BytesIO(b"".join([*kept, data[at:]]))


def _check_size(size: tuple[int, int], path: Path, max_pixels: int, min_side: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: {width}x{height} pixels ({width * height:,}); at most {max_pixels:,} are allowed, "
            "lest a small file fill the memory: scale it down first."
        )
    if min(size) < min_side:
        raise ImageError(f"{path}: {width}x{height} pixels; at least {min_side} needed on each side.")


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except DAMAGED:
        return picture  # unreadable EXIF beside sound pixels: there is no rotation to apply


def _flatten(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bit(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    canvas = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(canvas, picture.convert("RGBA")).convert("RGB")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or floating point in [0, 1], scaled to 0..255 (Pillow's own `convert` clips)."""
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("pixels that are negative or not finite")
    if picture.mode == "F":
        top = 1.0
    elif picture.mode == "I":  # 32-bit container: nearly always 8 or 16 bits of content
        top = next(top for top in (255.0, 65535.0, 2.0**31 - 1) if values.max() <= top)
    else:
        top = 65535.0
    if values.max() > top:
        raise ValueError(f"floating-point pixels up to {values.max():g}; 0 to 1 is understood")
    return Image.fromarray(np.round(values * (255.0 / top)).astype(np.uint8))


def _plain(error: BaseException) -> str:
    text = str(error.args[-1]) if error.args else type(error).__name__
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def check_images(paths: Iterable[str | Path]) -> list[str]:
    """One sentence for every picture that `read_image` would refuse; an empty list when all can be used."""
    problems = []
    for path in paths:
        try:
            read_image(path)
        except ImageError as error:
            problems.append(str(error))
    return problems


@dataclass(frozen=True)
class Crop:
    """A part of a picture and the two facts on which SDXL is conditioned, in SDXL's own order.

    original_size: (height, width) in pixels before any resizing. corner: (top, left) of the crop in pixels
    of the resized (and, if asked for, mirrored) picture; (0, 0) says "nothing cut off".
    """

    image: Image.Image
    original_size: tuple[int, int]
    corner: tuple[int, int]


def square(
    image: Image.Image,
    size: int,
    crop: Literal["center", "random"] = "center",
    flip: bool = False,
    rng: np.random.Generator | None = None,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Crop:
    """A crop of `size` x `size`; see `fitted`."""
    return fitted(image, (size, size), crop, flip, rng, resample)


def fitted(
    image: Image.Image,
    size: tuple[int, int],
    crop: Literal["center", "random"] = "center",
    flip: bool = False,
    rng: np.random.Generator | None = None,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Crop:
    """Resized so that it just covers `size` (width, height), then a crop of that; `flip` mirrors left to right before.

    "center" rounds as torchvision does; "random" draws top and left from `rng` (which it then needs, else
    ValueError). The code of arXiv 2410.04891 resizes with BILINEAR; LANCZOS keeps more detail at small sizes.
    """
    picture = covering(image, size, resample)
    if flip:
        picture = ImageOps.mirror(picture)
    spare_top, spare_left = picture.height - size[1], picture.width - size[0]
    if crop == "center":
        top, left = round(spare_top / 2), round(spare_left / 2)
    elif crop == "random" and rng is not None:
        top, left = int(rng.integers(spare_top + 1)), int(rng.integers(spare_left + 1))
    else:
        raise ValueError(f'crop={crop!r}: "center", or "random" together with a generator (rng), is needed')
    picture = picture.crop((left, top, left + size[0], top + size[1]))
    return Crop(picture, (image.height, image.width), (top, left))


def shortened(image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """The whole image, its shorter side `size` pixels long."""
    return covering(image, (size, size), resample)


def covering(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """The whole image, as large as just covers `size` (width, height)."""
    wide = image.width * size[1] > image.height * size[0]
    wanted = (
        (size[1] * image.width // image.height, size[1]) if wide else (size[0], size[0] * image.height // image.width)
    )
    return image if wanted == image.size else image.resize(wanted, resample)


def to_array(image: Image.Image) -> np.ndarray:
    """RGB picture -> (height, width, 3) float32 in [-1, 1]."""
    return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(127.5) - np.float32(1)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
