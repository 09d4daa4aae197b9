"""Images of files: what fits a model comes back as it was, and all else is stored apart."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nelbo.codec import apart
from nelbo.codec.apart import as_png_bytes, decode_apart, encode_apart, head_of
from nelbo.codec.fallback import decode_plain, encode_plain, pack, unpack
from nelbo.codec.kinds import Kind, from_levels, same, to_levels, why_apart
from nelbo.codec.names import is_safe
from nelbo.data.decode import opened

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 5), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def loaded(data: bytes) -> Image.Image:
    with opened(data) as image:
        assert why_apart(image) is None
        image.load()
        return image


def palette(transparency: Any = None, colours: int = 40) -> bytes:
    image = Image.fromarray(GREY % colours).convert("P")
    image.putpalette(RANDOM.permutation(np.arange(3 * colours) % 256).astype(np.uint8).tobytes())
    return saved(image, **({} if transparency is None else {"transparency": transparency}))


def with_alpha(pixels: np.ndarray, alpha: np.ndarray | int) -> Image.Image:
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return Image.fromarray(np.concatenate([pixels, np.broadcast_to(alpha, (*pixels.shape[:2], 1))], 2).astype(np.uint8))


def twice() -> bytes:
    """A palette whose two entries are the same colour, which does not say which entry it was."""
    image = Image.fromarray(GREY % 2).convert("P")
    image.putpalette(bytes([9, 9, 9, 9, 9, 9]))
    return saved(image)


FITTING: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "grey": (saved(Image.fromarray(GREY)), (1, 6, 5)),
    "colour": (saved(Image.fromarray(COLOUR)), (3, 6, 5)),
    "grey in colour": (saved(Image.fromarray(GREY)), (3, 6, 5)),
    "colour that is grey": (saved(Image.fromarray(np.repeat(GREY[..., None], 3, 2))), (1, 6, 5)),
    "opaque alpha": (saved(with_alpha(COLOUR, 255)), (3, 6, 5)),
    "alpha": (saved(with_alpha(COLOUR, GREY[..., None])), (4, 6, 5)),
    "grey with alpha": (saved(with_alpha(GREY, COLOUR[..., :1])), (2, 6, 5)),
    "grey with alpha in colour with alpha": (saved(with_alpha(GREY, COLOUR[..., :1])), (4, 6, 5)),
    "black and white": (saved(Image.fromarray(GREY > 99)), (1, 6, 5)),
    "black and white in colour": (saved(Image.fromarray(GREY > 99)), (3, 6, 5)),
    "palette": (palette(), (3, 6, 5)),
    "palette with alpha": (palette(bytes(range(40))), (4, 6, 5)),
    "palette with a transparent entry": (palette(3), (4, 6, 5)),
    "GIF": (saved(loaded(palette()), "GIF"), (3, 6, 5)),
    "transparent grey": (saved(Image.fromarray(GREY), transparency=7), (1, 6, 5)),
    "transparent colour": (saved(Image.fromarray(COLOUR), transparency=(1, 2, 3)), (3, 6, 5)),
    "colour profile": (saved(Image.fromarray(COLOUR), icc_profile=b"profile" * 30), (3, 6, 5)),
    "16 levels as PNG of 4 bits": (saved(Image.fromarray(GREY // 16 * 17), bits=4), (1, 6, 5)),
}


@pytest.mark.parametrize("name", FITTING)
def test_an_image_that_fits_comes_back_as_it_was(name: str) -> None:
    """Pixels, mode, palette, transparency and profile, also from the PNG that is written."""
    data, shape = FITTING[name]
    image = loaded(data)
    found = to_levels(image, shape, 256)
    assert found is not None
    levels, kind = found
    assert levels.shape == shape
    kind = Kind.model_validate_json(kind.model_dump_json())
    back = loaded(as_png_bytes(from_levels(levels, kind, 256), kind))
    assert same(back, image)
    assert back.getpalette() == image.getpalette()
    assert back.info.get("transparency") == image.info.get("transparency")
    assert back.info.get("icc_profile") == image.info.get("icc_profile")


MISFITS: dict[str, tuple[bytes, tuple[int, int, int], int]] = {
    "another size": (saved(Image.fromarray(GREY)), (1, 5, 6), 256),
    "colour in grey": (saved(Image.fromarray(COLOUR)), (1, 6, 5), 256),
    "alpha without a channel": (saved(with_alpha(COLOUR, GREY[..., None])), (3, 6, 5), 256),
    "more levels": (saved(Image.fromarray(GREY)), (1, 6, 5), 17),
    "a colour that is twice in the palette": (twice(), (3, 6, 5), 256),
}


@pytest.mark.parametrize("name", MISFITS)
def test_an_image_that_does_not_fit_has_no_levels(name: str) -> None:
    data, shape, levels = MISFITS[name]
    assert to_levels(loaded(data), shape, levels) is None


def test_fewer_levels_come_back() -> None:
    image = loaded(saved(Image.fromarray((GREY // 16).astype(np.uint16) * 255 // 16).convert("L")))
    found = to_levels(image, (1, 6, 5), 17)
    assert found is not None
    assert np.array_equal(found[0][0], GREY // 16)
    assert same(from_levels(*found, 17), image)


TURNED = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""Orientation 6, in EXIF."""
APART: dict[str, bytes] = {
    "deep": saved(Image.fromarray(GREY.astype(np.uint16) * 257)),
    "turned": saved(
        Image.fromarray(GREY), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "animated": saved(
        Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)], duration=50
    ),
    "CMYK": saved(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"),
}


def few_bits(bits: int, clear: int) -> bytes:
    """A grey PNG of 4×2 pixels with a transparent level."""
    rows = {2: b"\0\x1b\0\xe4", 4: b"\0\x01\x5f\0\xf5\x10"}[bits]

    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = part(b"IHDR", struct.pack(">IIBBBBB", 4, 2, bits, 0, 0, 0, 0)) + part(b"tRNS", struct.pack(">H", clear))
    return b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


APART |= {f"transparent of {bits} bits": few_bits(bits, clear) for bits, clear in ((2, 1), (4, 5))}


@pytest.mark.parametrize("name", APART)
def test_what_has_no_levels_is_kept_as_the_file(name: str) -> None:
    with opened(APART[name]) as image:
        assert why_apart(image) is not None
    head, data = decode_apart(encode_apart(3, "x", APART[name], None))
    assert data == APART[name]
    assert (head.item, head.name) == (3, "x")


def test_a_large_picture_is_kept_as_webp_if_that_is_shorter() -> None:
    """And as the file if it is not."""
    smooth = Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8))
    data = saved(smooth, "BMP")
    payload = encode_apart(0, "x.bmp", data, loaded(data))
    assert head_of(payload)[0].method == "webp"
    assert len(payload) < len(data) // 4
    assert same(loaded(decode_apart(payload)[1]), smooth)
    tiny = saved(Image.fromarray(GREY))
    assert decode_apart(encode_apart(0, "x.png", tiny, loaded(tiny)))[1] == tiny


def test_what_does_not_come_back_is_kept_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """An xz that gives other bytes, and a WebP whose PNG has other pixels."""
    data = saved(Image.fromarray(np.zeros((64, 64), np.uint8)), "BMP")
    monkeypatch.setattr(apart, "unpack", lambda data, length: bytes(length))
    monkeypatch.setattr(apart, "as_png_bytes", lambda image, kind: saved(Image.new("L", image.size, 1)))
    payload = encode_apart(0, "x.bmp", data, loaded(data))
    assert head_of(payload)[0].method == "file"
    assert decode_apart(payload)[1] == data


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("smooth", [True, False])
def test_images_without_a_model(channels: int, smooth: bool) -> None:
    images = RANDOM.integers(0, 256, (300, channels, 6, 5), dtype=np.uint8)
    if smooth:
        images = (images // 64 + np.arange(6, dtype=np.uint8)[:, None] * 20).astype(np.uint8)
    data = encode_plain(images)
    assert np.array_equal(decode_plain(data, images.shape), images)
    assert len(data) <= images.size + 1
    for wrong in ((299, channels, 6, 5), (300, channels, 5, 5)):
        with pytest.raises(ValueError, match=r"\w"):
            decode_plain(data, wrong)


def test_many_high_images_are_in_several_columns() -> None:
    images = np.zeros((40, 1, 1000, 2), np.uint8)
    images[:, 0, :, 1] = np.arange(40, dtype=np.uint8)[:, None]
    assert np.array_equal(decode_plain(encode_plain(images), images.shape), images)


def test_more_bytes_than_stated_are_refused() -> None:
    """A few bytes of xz can claim gigabytes; only as many as stated are made."""
    with pytest.raises(ValueError, match="more than 10 bytes"):
        unpack(pack(bytes(10**6)), 10)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a//b", "./x", "x/.", "", "a\0b", "x" * 5000, "..", "a/.."]
)
def test_names_that_lead_out_of_a_folder(name: str) -> None:
    assert not is_safe(name)


@pytest.mark.parametrize("name", ["x.png", "a/b.png", "..x", "a b/é\n.png", "\udcff.png", "x..y/z"])
def test_names_that_stay_in_it(name: str) -> None:
    assert is_safe(name)
