"""Images without a model: xz of their levels, or lossless WebP of all of them in one picture; whichever is smaller."""

from __future__ import annotations

import lzma
import math
from io import BytesIO

import numpy as np
from PIL import Image

from nelbo.codec.coder import Images

DICTIONARY = 1 << 23
"""Bytes of the dictionary of xz, at most."""
LONGEST_SIDE = 16_383
"""Of a WebP, in pixels."""
MOST_PIXELS = 1 << 26
"""Of a WebP: 256 MB while it is made."""
RAW, XZ, WEBP = b"R", b"X", b"W"


def pack(data: bytes) -> bytes:
    """xz of any bytes, without xz's own header; they must be unpacked with their length.

    >>> unpack(pack(b"ab" * 1000), 2000) == b"ab" * 1000
    True
    """
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters(len(data)))


def filters(most: int) -> list[dict[str, int]]:
    """The settings of xz for at most this number of bytes. Literals have no context: a byte is a level, no letter."""
    return [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": min(DICTIONARY, max(4096, most)), "lc": 0, "pb": 0}]


def unpack(data: bytes, length: int) -> bytes:
    """The bytes of :func:`pack`.

    Raises:
        ValueError: they are not of this length.
    """
    found = unpack_most(data, length)
    if len(found) != length:
        raise ValueError(f"{len(found)} bytes instead of {length}")
    return found


def unpack_most(data: bytes, most: int) -> bytes:
    """The bytes of :func:`pack`, if they are at most this number.

    Raises:
        ValueError: they are more, or not such bytes.
    """
    try:
        unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=filters(most))
        found = unpacker.decompress(data, max_length=most + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"not xz: {error}") from None
    if len(found) > most:
        raise ValueError(f"more than {most} bytes")
    return found


def encode_plain(images: Images) -> bytes:
    """The shortest bytes of images, which :func:`decode_plain` gives back.

    Args:
        images: levels, shape (n, C, H, W).
    """
    return plain_codes(images)[0]


def plain_codes(images: Images) -> list[bytes]:
    """The bytes of images by each method, the shortest first."""
    candidates = [RAW + images.tobytes(), XZ + pack(images.tobytes())]
    sheet = to_sheet(images)
    if sheet is not None:
        candidates.append(WEBP + to_webp(sheet))
    return sorted(candidates, key=len)


def decode_plain(data: bytes, shape: tuple[int, ...]) -> Images:
    """The images of :func:`encode_plain`.

    Args:
        data: its bytes.
        shape: (n, C, H, W).

    Raises:
        ValueError: the bytes are not those of such images.
    """
    method, rest = data[:1], data[1:]
    if method == WEBP:
        return from_sheet(from_webp(rest, sheet_size(shape)), shape)
    if method not in (RAW, XZ):
        raise ValueError("an unknown method")
    plain = rest if method == RAW else unpack(rest, math.prod(shape))
    if len(plain) != math.prod(shape):
        raise ValueError("another number of bytes")
    return np.frombuffer(plain, np.uint8).reshape(shape).copy()


def sheet_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the picture of all images: one beside the other only where one column would be too high."""
    n, _, height, width = shape
    columns = max(1, math.ceil(n / max(1, LONGEST_SIDE // height)))
    return math.ceil(n / columns) * height, columns * width


def to_sheet(images: Images) -> np.ndarray | None:
    """All images in one picture of 4 channels, shape (rows, columns, 4); None if it would be too large."""
    n, channels, height, width = images.shape
    size = sheet_size(images.shape)
    if n == 0 or max(size) > LONGEST_SIDE or math.prod(size) > MOST_PIXELS:
        return None
    rows, columns = size[0] // height, size[1] // width
    places = np.zeros((rows * columns, channels, height, width), np.uint8)
    places[:n] = images
    tiled = places.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    sheet = tiled.reshape(rows * height, columns * width, channels)
    alpha = sheet[..., -1:] if channels % 2 == 0 else np.full_like(sheet[..., :1], 255)
    colour = sheet[..., :3] if channels >= 3 else np.repeat(sheet[..., :1], 3, 2)
    return np.concatenate([colour, alpha], 2)


def from_sheet(sheet: np.ndarray, shape: tuple[int, ...]) -> Images:
    """The images in a picture of the size of :func:`sheet_size`."""
    n, channels, height, width = shape
    rows, columns = sheet.shape[0] // height, sheet.shape[1] // width
    kept = [*range(1 if channels <= 2 else 3), *([3] if channels % 2 == 0 else [])]
    tiled = sheet[..., kept].reshape(rows, height, columns, width, channels).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(tiled.reshape(-1, channels, height, width)[:n])


def to_webp(sheet: np.ndarray) -> bytes:
    """A picture of 4 channels as lossless WebP, colours under full transparency included."""
    stream = BytesIO()
    opaque = int(sheet[..., 3].min()) == 255
    picture = Image.fromarray(sheet[..., :3] if opaque else sheet)
    picture.save(stream, "WEBP", lossless=True, quality=100, method=4, exact=True)
    return stream.getvalue()


def from_webp(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """The picture of :func:`to_webp`, shape (rows, columns, 4).

    Args:
        data: its bytes.
        size: its rows and columns, which are compared with the header before pixels are decoded.

    Raises:
        ValueError: the bytes are not those of such a picture.
    """
    try:
        with Image.open(BytesIO(data), formats=["WEBP"]) as image:
            if image.size != size[::-1]:
                raise ValueError(f"a picture of {image.size}")
            return np.asarray(image.convert("RGBA"))
    except Exception as error:  # a damaged file can cause almost any exception
        raise ValueError(f"not such a WebP: {error}") from None
