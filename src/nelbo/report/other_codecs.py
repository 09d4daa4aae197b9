"""Images in files of other lossless codecs: PNG, WebP, and JPEG XL where it is installed."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Codec = Callable[[np.ndarray], bytes]


def saved(kind: str, **options: Any) -> Codec:
    """An image as a file of Pillow."""

    def encode(pixels: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind, **options)
        return stream.getvalue()

    return encode


def codecs() -> dict[str, Codec]:
    """The codecs of pictures that are installed: name → function from pixels to bytes."""
    found = {"PNG": saved("PNG", optimize=True), "WebP": saved("WEBP", lossless=True, quality=100, method=6)}
    try:
        importlib.import_module("pillow_jxl")
    except ImportError:
        return found
    return {**found, "JPEG XL": saved("JXL", lossless=True, effort=9)}


def shown(image: np.ndarray, levels: int) -> np.ndarray:
    """An image of levels, shape (C, H, W), as Pillow has it, shape (H, W) or (H, W, C)."""
    pixels = (image.astype(np.uint16) * 255 // (levels - 1)).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def tiled(images: np.ndarray) -> np.ndarray:
    """All images in one, as square as possible, shape (C, rows, columns)."""
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n * height / width))
    rows = math.ceil(n / columns)
    places = np.zeros((rows * columns, channels, height, width), np.uint8)
    places[:n] = images
    split = places.reshape(rows, columns, channels, height, width)
    return split.transpose(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def other_sizes(images: np.ndarray, levels: int) -> dict[str, int]:
    """Bytes of all images by each codec, one file for each image, and one for all of them side by side.

    Args:
        images: integer levels, uint8, shape (n, C, H, W).
        levels: L, the number of values a pixel can take.
    """
    found = {}
    for name, encode in codecs().items():
        found[f"{name}, a file each"] = sum(len(encode(shown(image, levels))) for image in images)
        found[f"{name}, side by side"] = len(encode(shown(tiled(images), levels)))
    return found
