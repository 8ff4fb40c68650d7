"""Pictures of every kind in, one clear sentence for what cannot be used, and never a write."""

import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from perdure import images
from perdure.errors import ImageError


def colours(height=24, width=20):
    """A smooth RGB picture whose corners differ."""
    y, x = np.mgrid[0:height, 0:width]
    levels = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 60)], axis=2)
    return Image.fromarray(levels.astype(np.uint8))


def sentence(path, *parts):
    """The one-sentence error of `path`, after checking that it names the file and holds `parts`."""
    with pytest.raises(ImageError) as caught:
        images.read_image(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path)) and message.endswith(".")
    for part in parts:
        assert part in message
    return message


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "CMYK", "F"])
def test_every_mode_comes_out_rgb_from_every_format_that_holds_it(tmp_path, mode):
    grey = np.asarray(colours().convert("L"))
    deep = {"I;16": grey.astype(np.uint16) * 257, "I": grey.astype(np.int32) * 257}
    deep["F"] = grey.astype(np.float32) / 255
    picture = Image.fromarray(deep[mode]) if mode in deep else colours().convert(mode)
    held = 0
    for suffix in ("png", "tif", "jpg", "webp", "bmp", "gif", "jp2"):
        path = tmp_path / f"picture.{suffix}"
        try:
            picture.save(path)
        except (OSError, KeyError, ValueError):
            continue
        held += 1
        read = images.read_image(path)
        assert read.mode == "RGB" and read.size == (20, 24)
        if mode in deep and suffix in ("png", "tif"):
            assert np.abs(np.asarray(read)[..., 0].astype(int) - grey).max() <= 1
    assert held


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    read = np.asarray(images.read_image(tmp_path / "ramp.png"))[..., 0]
    assert read.min() == 0 and read.max() == 255 and 120 < np.median(read) < 136


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    upright = colours()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("picture.png", "picture.jpg"):
        stored.save(tmp_path / name, exif=exif, **({"quality": 100} if name.endswith("jpg") else {}))
        read = np.asarray(images.read_image(tmp_path / name)).astype(int)
        assert np.abs(read - np.asarray(upright)).max() <= (0 if name.endswith("png") else 12)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_reason_to_refuse(tmp_path):
    colours().save(tmp_path / "picture.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert images.read_image(tmp_path / "picture.jpg").size == (20, 24)


def test_alpha_is_flattened_on_the_stated_colour(tmp_path):
    clear = np.zeros((20, 20, 4), np.uint8)
    clear[:10] = (200, 0, 0, 255)
    Image.fromarray(clear).save(tmp_path / "rgba.png")
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([200, 0, 0, 0, 0, 0])
    palette.paste(0, (0, 0, 20, 10))
    palette.save(tmp_path / "palette.png", transparency=1)
    Image.fromarray(clear).convert("LA").save(tmp_path / "la.png")
    for name in ("rgba.png", "palette.png", "la.png"):
        assert images.read_image(tmp_path / name).getpixel((5, 15)) == (255, 255, 255)
        assert images.read_image(tmp_path / name, background=(0, 9, 0)).getpixel((5, 15)) == (0, 9, 0)
    assert images.read_image(tmp_path / "palette.png").getpixel((5, 5)) == (200, 0, 0)


def png_claiming(width, height):
    """A PNG whose header claims any size, with next to no pixels behind it."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [(10_001, 10_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused_unseen(tmp_path, width, height):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_claiming(width, height))
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sentence(bomb, f"{width}x{height} pixels", "at most 100,000,000")
    assert before == Image.MAX_IMAGE_PIXELS


def test_what_cannot_be_used_is_said_in_one_sentence(tmp_path):
    (tmp_path / "text.jpg").write_text("I am not a picture, whatever my name says.")
    sentence(tmp_path / "text.jpg", "is not an image")
    (tmp_path / "empty.png").touch()
    sentence(tmp_path / "empty.png", "is empty")
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    sentence(tmp_path / "one.png", "1x1 pixels; at least 16 needed")
    sentence(tmp_path / "nowhere.png", "no such file")
    (tmp_path / "folder.png").mkdir()
    sentence(tmp_path / "folder.png", "is a folder")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
def test_truncated_and_corrupt_files_are_named(tmp_path, suffix):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    for cut in (len(whole) // 2, 24):
        (tmp_path / f"cut.{suffix}").write_bytes(whole[:cut])
        sentence(tmp_path / f"cut.{suffix}", "corrupt or truncated")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif", "jp2", "avif"])
def test_damaged_bytes_give_a_picture_or_an_image_error(tmp_path, suffix):
    rng = np.random.default_rng(1)
    colours(40, 40).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"hurt.{suffix}"
    for _ in range(60):
        hurt = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            hurt[place] = rng.integers(256)
        path.write_bytes(hurt)
        try:
            assert images.read_image(path).mode == "RGB"
        except ImageError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("suffix", ["gif", "jp2", "avif"])
def test_formats_of_phones_and_the_web_are_read_whatever_they_are_called(tmp_path, suffix):
    colours(40, 40).save(tmp_path / f"picture.{suffix}")
    (tmp_path / "picture.jpg").write_bytes((tmp_path / f"picture.{suffix}").read_bytes())
    read = np.asarray(images.read_image(tmp_path / "picture.jpg")).astype(int)
    assert np.abs(read - np.asarray(colours(40, 40))).mean() < 10


def test_heic_is_named_with_the_remedy(tmp_path):
    for brand in (b"heic", b"mif1"):
        (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(64))
        sentence(tmp_path / "a.jpg", "HEIC", "convert it to JPEG")


def test_a_png_may_carry_texts_and_profiles_of_any_size(tmp_path):
    """Pillow refuses them from 1 MB, decompressed, and 64 MB in all; nothing of them is used but the orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = colours().transpose(Image.Transpose.ROTATE_90)
    long = PngInfo()
    long.add_text("parameters", "x" * 2_000_000, zip=True)
    many = PngInfo()
    for number in range(70):
        many.add_text(f"t{number}", "x" * 1_000_000)
    path = tmp_path / "a.png"
    for how in ({"pnginfo": long}, {"pnginfo": many}, {"icc_profile": bytes(3_000_000)}):
        stored.save(path, exif=exif, **how)
        with pytest.raises(ValueError), Image.open(path) as picture:  # so does Pillow
            picture.load()
        assert np.array_equal(images.read_image(path), np.asarray(colours()))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 200])
    sentence(path, "corrupt or truncated")


def test_no_permission_is_said(tmp_path, monkeypatch):
    colours().save(tmp_path / "locked.png")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    sentence(tmp_path / "locked.png", "no permission")


def test_check_images_reports_all_and_changes_nothing(tmp_path):
    colours().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("L", (15, 40)).save(tmp_path / "thin.png")
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    problems = images.check_images([tmp_path / name for name in ("bad.png", "good.png", "thin.png")])
    assert len(problems) == 2 and "bad.png" in problems[0] and "15x40" in problems[1]
    assert before == {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}


@pytest.mark.parametrize("width, height", [(40, 24), (24, 40), (33, 33), (57, 32)])
def test_square_keeps_scale_and_reports_sdxl_facts(width, height):
    crop = images.square(colours(height, width), 16)
    assert crop.image.size == (16, 16) and crop.original_size == (height, width)
    assert min(crop.corner) == 0 and max(crop.corner) == round((16 * max(width, height) // min(width, height) - 16) / 2)


def test_square_random_crops_come_from_the_generator():
    picture = colours(20, 60)
    first, again = (images.square(picture, 20, "random", rng=np.random.default_rng(7)) for _ in range(2))
    assert first.corner == again.corner and first.corner[0] == 0 and 0 <= first.corner[1] <= 40
    left = first.corner[1]
    assert np.array_equal(first.image, np.asarray(picture)[:, left : left + 20])
    rng = np.random.default_rng(0)
    assert len({images.square(picture, 20, "random", rng=rng).corner for _ in range(20)}) > 5
    with pytest.raises(ValueError, match="rng"):
        images.square(picture, 20, "random")


def test_square_flip_mirrors_before_the_crop():
    picture = colours(20, 50)
    flipped = images.square(picture, 20, flip=True)
    left = flipped.corner[1]
    assert np.array_equal(flipped.image, np.asarray(picture)[:, ::-1][:, left : left + 20])


def test_arrays_are_in_minus_one_to_one():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    array = images.to_array(Image.fromarray(levels))
    assert array.dtype == np.float32 and array.min() == -1 and array.max() == 1
    assert np.array_equal(np.round((array + 1) * 127.5), levels)


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert images.sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea")


def test_import_is_light():
    code = "import sys, perdure.images, perdure.score.matrix, perdure.score; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
