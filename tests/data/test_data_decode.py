"""One image file: every mode without loss, orientation, and unusable files."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from data_helpers import random_pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nelbo.data.decode import BadImageError, quiet_decoding, read_header, read_pixels


def both(path):
    """Header and pixels, which must agree."""
    with quiet_decoding():
        header, pixels = read_header(path), read_pixels(path)
    assert header.shape == pixels.shape
    assert pixels.dtype == np.uint8
    return pixels, header


@pytest.mark.parametrize("kind", ["png", "bmp", "tif", "webp", "ppm", "PNG"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_mode_is_read_without_loss(tmp_path, mode, kind):
    if (kind in ("bmp", "ppm") and mode in ("LA", "RGBA")) or (kind == "webp" and mode in ("L", "LA")):
        pytest.skip("the format has no such mode")
    channels = len(mode)
    pixels = random_pixels((7, 5, channels))
    pixels[..., -1] |= 1 if kind == "webp" else 0  # webp gives up the colour of what is wholly transparent
    path = tmp_path / f"image.{kind}"
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(
        path, **({"lossless": True} if kind == "webp" else {})
    )
    found, header = both(path)
    assert np.array_equal(found, pixels.transpose(2, 0, 1))
    assert header.levels == 256


def test_one_bit(tmp_path):
    bits = random_pixels((5, 9), top=2).astype(bool)
    Image.fromarray(bits).save(tmp_path / "a.png")
    found, header = both(tmp_path / "a.png")
    assert header.levels == 2
    assert np.array_equal(found[0], bits * 255)


@pytest.mark.parametrize("kind", ["png", "gif"])
@pytest.mark.parametrize("transparent", [False, True])
def test_palettes_become_colours(tmp_path, kind, transparent):
    index = random_pixels((6, 5), top=4)
    palette = np.array([[200, 10, 3], [1, 2, 250], [9, 90, 9], [77, 7, 177]], np.uint8)
    image = Image.fromarray(index).convert("P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / f"a.{kind}", **({"transparency": 2} if transparent else {}))
    found, _ = both(tmp_path / f"a.{kind}")
    assert len(found) == (4 if transparent else 3)
    seen = index != 2 if transparent else np.full(index.shape, True)
    assert np.array_equal(found[:3].transpose(1, 2, 0)[seen], palette[index][seen])
    if transparent:
        assert np.array_equal(found[3], np.where(seen, 255, 0))


@pytest.mark.parametrize(("mode", "key", "channels"), [("L", 7, 2), ("RGB", (7, 7, 7), 4)])
def test_a_transparent_colour_becomes_alpha(tmp_path, mode, key, channels):
    grey = random_pixels((4, 5), top=16)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png", transparency=key)
    found, _ = both(tmp_path / "a.png")
    assert len(found) == channels
    assert np.array_equal(found[-1], np.where(grey == 7, 0, 255))


UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
# What a viewer shows for each orientation, from the definition: which edge row 0 and column 0 of the file are.
SHOWN = {
    1: UPRIGHT,  # top, left
    2: UPRIGHT[:, ::-1],  # top, right
    3: UPRIGHT[::-1, ::-1],  # bottom, right
    4: UPRIGHT[::-1],  # bottom, left
    5: UPRIGHT.T,  # left, top
    6: UPRIGHT[::-1].T,  # right, top
    7: UPRIGHT[::-1, ::-1].T,  # right, bottom
    8: UPRIGHT[:, ::-1].T,  # left, bottom
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("png", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"}), ("webp", {"lossless": True})],
)
@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_is_applied(tmp_path, orientation, kind, options):
    image = Image.fromarray(UPRIGHT)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image.convert("RGB") if kind == "webp" else image
    image.save(tmp_path / f"a.{kind}", exif=exif, **options)
    found, _ = both(tmp_path / f"a.{kind}")
    assert np.array_equal(found[0], SHOWN[orientation])


def test_damaged_exif_leaves_the_pixels(tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    found, _ = both(tmp_path / "a.png")
    assert np.array_equal(found[0], UPRIGHT)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FRAMES = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (10, 200)]
GOOD = saved(Image.fromarray(random_pixels((40, 40, 3))), "PNG")
UNUSABLE = {
    "16-bit grey": (png(2, 1, 16, 0, bytes(5)), "more than 8 bits"),
    "16-bit grey and alpha": (png(2, 1, 16, 4, bytes(9)), "more than 8 bits"),
    "16-bit RGB": (png(2, 1, 16, 2, bytes(13)), "more than 8 bits"),
    "16-bit RGBA": (png(2, 1, 16, 6, bytes(17)), "more than 8 bits"),
    "16-bit PGM": (b"P5 2 1 65535\n" + bytes(4), "more than 8 bits"),
    "16-bit PPM": (b"P6 2 1 65535\n" + bytes(12), "more than 8 bits"),
    "10-bit PPM": (b"P6 2 1 1023\n" + bytes(12), "more than 8 bits"),
    "float": (saved(Image.new("F", (2, 2)), "TIFF"), "more than 8 bits"),
    "32-bit": (saved(Image.new("I", (2, 2)), "TIFF"), "more than 8 bits"),
    "CMYK": (saved(Image.new("CMYK", (2, 2)), "JPEG"), "mode CMYK; convert it to 8-bit"),
    "animated gif": (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "animated"),
    "animated png": (saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "animated"),
    "pages": (saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "several pages"),
    "bomb": (png(50_000, 50_000, 8, 0, b""), "implausibly many pixels"),
    "large": (png(10_000, 9_500, 8, 0, b""), "implausibly many pixels"),
    "cut": (GOOD[:-200], "truncated or corrupt"),
    "no pixels": (png(0, 3, 8, 0, b""), "truncated or corrupt|not an image|no pixels"),
    "text": (b"hello", "not an image of a known format"),
    "empty": (b"", "not an image of a known format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_says_why(tmp_path, name):
    data, match = UNUSABLE[name]
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(BadImageError, match=match) as caught:
        both(tmp_path / "a.png")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_16_bit_colour_tiff_is_not_quietly_halved(tmp_path):
    # A little-endian TIFF of one RGB pixel with three 16-bit samples, written by hand.
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 122), (262, 3, 1, 2), (273, 4, 1, 128), (277, 3, 1, 3)]
    tags += [(278, 3, 1, 1), (279, 4, 1, 6), (284, 3, 1, 1)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    data = (b"II*\0\x08\0\0\0" + directory).ljust(122, b"\0") + struct.pack("<3H", 16, 16, 16) + bytes(6)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(BadImageError, match="more than 8 bits"):
        both(tmp_path / "a.tif")


@given(place=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255), cut=st.integers(0, len(GOOD)))
def test_damage_never_raises_anything_else(tmp_path_factory, place, value, cut):
    path = tmp_path_factory.getbasetemp() / "fuzzed.png"
    path.write_bytes((GOOD[:place] + bytes([value]) + GOOD[place + 1 :])[: cut + place])
    with contextlib.suppress(BadImageError):
        both(path)


def test_photographs_with_previews_are_read_as_their_first_image(tmp_path):
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200)]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    found, _ = both(tmp_path / "a.jpg")
    assert abs(int(found[0].mean()) - 10) <= 2


def test_jpeg_is_decoded_as_pillow_does_and_turned(tmp_path):
    image = Image.fromarray(random_pixels((6, 9, 3)))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpeg", quality=95, exif=exif)
    plain = np.asarray(Image.open(tmp_path / "a.jpeg").convert("RGB"))
    found, _ = both(tmp_path / "a.jpeg")
    assert np.array_equal(found, plain[::-1].transpose(2, 1, 0))


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
def test_a_side_that_no_image_has_is_refused_before_it_is_decoded(tmp_path, size):
    """A BMP of 60 bytes that claims so many rows or columns; one side shorter, and it is merely cut short."""
    for by, words in ((0, "65,536 pixels; the maximum is 65,535"), (1, "truncated")):
        width, height = (length - by if length > 1 else 1 for length in size)
        header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 60, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        (tmp_path / "x.bmp").write_bytes(header + bytes(6))
        with quiet_decoding(), pytest.raises(BadImageError, match=words):
            read_pixels(tmp_path / "x.bmp")
