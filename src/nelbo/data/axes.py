"""The axes of an array of images, from its shape, or from ``layout`` if the shape is ambiguous."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from nelbo.data.advice import advice
from nelbo.data.raw import Pixels
from nelbo.errors import InputError
from nelbo.options import Layout

Array = NDArray[np.generic]


def as_images(values: Array, where: str, layout: Layout | None = None) -> Pixels:
    """An array as uint8, ``(N, C, H, W)``, by its shape or ``layout``; bool becomes 0 and 1."""
    if values.dtype not in (np.uint8, np.bool_):
        raise InputError(where, advice(values))
    pixels = cast(Pixels, values.view(np.uint8))
    shape = " x ".join(map(str, values.shape))
    if layout is not None:
        return arranged(pixels, where, layout)
    if pixels.ndim == 3:
        if is_ambiguous(pixels):
            raise InputError(where, f"has the shape {shape}, {readings(pixels.shape)}")
        return pixels[:, None]
    if pixels.ndim != 4:
        raise InputError(where, f"has the shape {shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W)")
    first, last = 1 <= pixels.shape[1] <= 4, 1 <= pixels.shape[3] <= 4
    if first and last:
        raise InputError(where, f"has the shape {shape}, with channels first or last; add `layout` nchw|nhwc")
    if not first and not last:
        raise InputError(where, f"has the shape {shape}, without an axis of 1 to 4 channels; remove or merge channels")
    return pixels if first else pixels.transpose(0, 3, 1, 2)


def is_ambiguous(values: Array) -> bool:
    """Whether an array of three axes can be grey images, or one image with its channels first or last."""
    return values.shape[0] in (1, 3, 4) or values.shape[2] in (1, 3, 4)


def readings(shape: tuple[int, ...]) -> str:
    """Both meanings of three axes, and the option that selects one."""
    a, b, c = shape
    one = (f"{a}x{b}", c, "hwc") if c in (1, 3, 4) else (f"{b}x{c}", a, "chw")
    grey, single = f"{a} grey images of {b}x{c} (`layout` nhw)", f"one image of {one[0]} with {one[1]} channels"
    return f"which can be {grey} or {single} (`layout` {one[2]}); add the right one"


def arranged(pixels: Pixels, where: str, layout: Layout) -> Pixels:
    """An array with known axes as ``(N, C, H, W)``."""
    if len(layout) != pixels.ndim:
        raise InputError("layout", f"{layout} has {len(layout)} axes, but {where} has {pixels.ndim}; use another")
    for axis in "nc":
        if axis not in layout:
            pixels, layout = pixels[None], cast(Layout, axis + layout)
    found = pixels.transpose([layout.index(axis) for axis in "nchw"])
    if found.shape[1] > 4:
        raise InputError("layout", f"{where} has {found.shape[1]} channels in this layout; at most 4 are possible")
    return found
