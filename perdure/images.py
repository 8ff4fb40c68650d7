"""Photos on disk -> RGB pictures: any size and mode in, one clear sentence for what cannot be used; read
only.

Upright (EXIF rotation applied), alpha flattened on a stated colour, 16 bits scaled rather than clipped.
Colour profiles are not applied: trainers and metric code of the field read the stored values as sRGB, and so
does this.
"""

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from perdure.errors import ImageError

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF")
MAX_PIXELS = 100_000_000
MIN_SIDE = 16
CAPTION_KEYS = ("text", "prompt", "caption")

# What Pillow's decoders let escape when the bytes are damaged.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)


def list_images(folder: str | Path) -> tuple[Path, ...]:
    """Pictures directly in `folder`, in natural order (2.jpg before 10.jpg); hidden files are left out.

    Raises ImageError when the folder is missing, is no folder, cannot be read or holds no picture.
    """
    folder = Path(folder)
    if not folder.exists():
        raise ImageError(f"{folder}: there is no such folder.")
    if not folder.is_dir():
        raise ImageError(f"{folder}: is a file; a folder of images is needed.")
    try:
        files = [file for file in folder.iterdir() if file.is_file() and _is_picture(file)]
    except OSError as error:
        raise ImageError(f"{folder}: cannot be read ({error.strerror or error}).") from error
    if not files:
        looked_for = " ".join(f".{extension}" for extension in EXTENSIONS)
        raise ImageError(f"{folder}: no images in this folder (looked for {looked_for}, in either case).")
    return tuple(sorted(files, key=_natural))


def _is_picture(file: Path) -> bool:
    return not file.name.startswith(".") and file.suffix[1:].lower() in EXTENSIONS


def _natural(file: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", file.name.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], file.name


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
            picture = _identify(stream, path)
            _check_size(picture.size, path, max_pixels, min_side)
            picture.load()
            return _flatten(_upright(picture), background)
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


def _identify(stream: Any, path: Path) -> Image.Image:
    """The picture with its header read and no pixel decoded.

    `Image.open` would do, were it not that it measures against Pillow's own, process-wide pixel limit: it
    warns or raises on its own terms. The plugins it calls are asked directly instead, so that ours is the
    only limit.
    """
    Image.init()
    prefix = stream.read(16)
    if not prefix:
        raise ImageError(f"{path}: is empty (0 bytes).")
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or accept is None or accept(prefix) is not True:
            continue
        stream.seek(0)
        return factory(stream, str(path))
    known = ", ".join(name for name in FORMATS if name != "DIB")
    raise ImageError(f"{path}: is not an image (its contents are none of {known}).")


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


def caption_of(path: str | Path) -> str | None:
    """Text of the `.txt` beside a picture (00.jpg -> 00.txt), or None where there is none or it is blank."""
    sidecar = Path(path).with_suffix(".txt")
    if not sidecar.is_file():
        return None
    return _read_text(sidecar).strip() or None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(f"{path}: is not UTF-8 text (byte {error.start}).") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error}).") from error


def read_metadata(folder: str | Path) -> dict[str, str]:
    """Captions of `metadata.jsonl` (the imagefolder layout): file name -> caption; {} without that file.

    Each line is a JSON object with `file_name` and one of `text`, `prompt`, `caption`.
    Raises ImageError naming every bad line by its number.
    """
    file = Path(folder) / "metadata.jsonl"
    if not file.is_file():
        return {}
    captions: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(_read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            name, caption = _metadata_line(line, file.parent)
            if name in captions:
                raise ValueError(f"{name!r} was named before")
            captions[name] = caption
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise ImageError(f"{file}: {'; '.join(problems)}.")
    return captions


def _metadata_line(line: str, folder: Path) -> tuple[str, str]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        raise ValueError('an object with a "file_name" is needed')
    captions = [entry[key] for key in CAPTION_KEYS if isinstance(entry.get(key), str) and entry[key].strip()]
    if not captions:
        raise ValueError(f"no caption (one of {', '.join(CAPTION_KEYS)})")
    name = entry["file_name"]
    if Path(name).is_absolute() or ".." in Path(name).parts or not (folder / name).is_file():
        raise ValueError(f"no file {name!r} in this folder")
    return name, captions[0].strip()


@dataclass(frozen=True)
class Crop:
    """A square picture and the two facts on which SDXL is conditioned, in SDXL's own order.

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
    """Shorter side to `size` pixels, then a `size` x `size` crop; `flip` mirrors left to right before the
    crop.

    "center" rounds as torchvision does; "random" draws top and left from `rng` (which it then needs, else
    ValueError). The code of arXiv 2410.04891 resizes with BILINEAR; LANCZOS keeps more detail at small sizes.
    """
    width, height = image.size
    short = min(width, height)
    resized = (size * width // short, size * height // short)
    picture = image if resized == image.size else image.resize(resized, resample)
    if flip:
        picture = ImageOps.mirror(picture)
    spare_top, spare_left = picture.height - size, picture.width - size
    if crop == "center":
        top, left = round(spare_top / 2), round(spare_left / 2)
    elif crop == "random" and rng is not None:
        top, left = int(rng.integers(spare_top + 1)), int(rng.integers(spare_left + 1))
    else:
        raise ValueError(f'crop={crop!r}: "center", or "random" together with a generator (rng), is needed')
    picture = picture.crop((left, top, left + size, top + size))
    return Crop(picture, (height, width), (top, left))


def to_array(image: Image.Image) -> np.ndarray:
    """RGB picture -> (height, width, 3) float32 in [-1, 1]."""
    return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(127.5) - np.float32(1)


def from_array(array: np.ndarray) -> Image.Image:
    """(height, width, 3) in [-1, 1], clipped beyond -> RGB picture; undoes `to_array` exactly."""
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an array of shape (height, width, 3) is needed, not {array.shape}")
    levels = np.round((np.clip(array.astype(np.float64), -1, 1) + 1) * 127.5)
    return Image.fromarray(levels.astype(np.uint8))


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
