"""Convert images to a size and a number of channels, if the user asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageOps

from nelbo.data.raw import Part, Pixels
from nelbo.data.storage import allocate
from nelbo.errors import InputError
from nelbo.options import Fit, RunDataOptions


def fit_pixels(pixels: Pixels, size: tuple[int, int], fit: Fit, *, alpha: bool = True) -> Pixels:
    """One image at another size.

    ``crop`` scales it to cover the size and keeps the centre. ``pad`` scales it down if it is too large and centres it
    on zeros. ``resize`` scales each axis separately. Scaling uses an antialiased Lanczos filter.

    Args:
        pixels: uint8, ``(C, h, w)``.
        size: (H, W).
        fit: ``crop``, ``pad`` or ``resize``.
        alpha: whether the last of 2 or 4 channels is opacity from 0 to 255, so that hidden colours do not bleed into
            visible ones.

    Returns:
        uint8, ``(C, H, W)``.
    """
    if pixels.shape[1:] == size:
        return pixels
    channels = len(pixels)
    if not alpha and channels in (2, 4):
        return np.concatenate([fit_pixels(plane[None], size, fit) for plane in pixels])
    height, width = size
    image = Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if fit == "crop":
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    elif fit == "resize":
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    else:
        image = pad(image, height, width)
    return to_planes(image)


def pad(image: Image.Image, height: int, width: int) -> Image.Image:
    """Centre on zeros, after scaling down if it is too large."""
    scale = min(1.0, height / image.height, width / image.width)
    if scale < 1.0:
        small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(small, Image.Resampling.LANCZOS)
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def to_planes(image: Image.Image) -> Pixels:
    """An image of mode L, LA, RGB or RGBA as uint8, ``(C, H, W)``."""
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def to_channels(pixels: Pixels, channels: int, levels: int) -> Pixels:
    """One image with another number of channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.

    RGB becomes grey by the luma of ITU-R BT.601. Removed alpha is not blended; added alpha is opaque.

    Args:
        pixels: uint8, ``(C, H, W)``.
        channels: the number of channels.
        levels: the number of values a pixel can take; the highest is opaque.

    Returns:
        uint8, ``(channels, H, W)``.
    """
    have = len(pixels)
    if have == channels:
        return pixels
    colour, alpha = (pixels[:-1], pixels[-1:]) if have % 2 == 0 else (pixels, None)
    wanted = channels if channels % 2 else channels - 1
    if len(colour) < wanted:
        colour = np.repeat(colour, wanted, axis=0)
    elif len(colour) > wanted:
        red, green, blue = colour.astype(np.uint32)
        colour = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)[None]
    if channels % 2:
        return colour
    return np.concatenate([colour, np.full_like(colour[:1], levels - 1) if alpha is None else alpha])


def shape_pixels(pixels: Pixels, options: RunDataOptions, levels: int) -> Pixels:
    """One image with the given size and channels; uint8, ``(C, H, W)`` in and out."""
    if options.height_width is not None and options.fit is not None:
        pixels = np.minimum(fit_pixels(pixels, options.height_width, options.fit, alpha=levels == 256), levels - 1)
    return pixels if options.channels is None else to_channels(pixels, options.channels, levels)


def shape_part(part: Part, options: RunDataOptions, levels: int, where: str) -> Part:
    """Every image of a part with the given size and channels."""
    _, channels, height, width = part.images.shape
    target = (options.channels or channels, *(options.height_width or (height, width)))
    if target == (channels, height, width) or 0 in part.images.shape:
        return part
    require_fit({(height, width)}, options)
    images = allocate((len(part.images), *target), where)
    for row, pixels in enumerate(part.images):
        images[row] = shape_pixels(pixels, options, levels)
    return replace(part, images=images)


def require_fit(sizes: Iterable[tuple[int, int]], options: RunDataOptions) -> None:
    """Check that images of another size have a ``fit``."""
    other = [size for size in sizes if options.height_width is not None and size != options.height_width]
    if other and options.fit is None and options.height_width is not None:
        wanted, found = (f"{height}x{width}" for height, width in (options.height_width, other[0]))
        raise InputError("fit", f"images of {found} do not have the size {wanted}; add `fit` crop, pad or resize")


def shaping_notes(shapes: Iterable[tuple[int, int, int]], options: RunDataOptions) -> list[str]:
    """Notes on how images of these shapes (C, H, W) are converted."""
    found = sorted(set(shapes))
    notes = []
    if options.height_width is not None and any(shape[1:] != options.height_width for shape in found):
        notes.append(f"sizes converted to {options.height_width[0]}x{options.height_width[1]} by `fit` {options.fit}")
    have = sorted({shape[0] for shape in found} - {options.channels})
    if options.channels is not None and have:
        lost = options.channels % 2 == 1 and any(count % 2 == 0 for count in have)
        what = f"channels converted from {' and '.join(map(str, have))} to {options.channels}"
        notes.append(f"{what}; alpha removed" if lost else what)
    return notes
