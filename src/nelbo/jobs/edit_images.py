"""The images and masks of ``nelbo edit``, on the scale of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nelbo.data.decode import BadImageError, quiet_decoding, read_pixels
from nelbo.data.raw import Pixels
from nelbo.data.shaping import fit_pixels, to_channels
from nelbo.editing.constraints import BlockMeans
from nelbo.errors import InputError
from nelbo.models._checks import Images
from nelbo.options import Fit, Shape
from nelbo.theory.likelihoods import float_levels, to_levels, to_unit

HIDDEN_FROM = 128
"""The darkest level, of 256, of a mask that hides a pixel."""
WORDS = {1: "grey", 2: "grey with transparency", 3: "colour", 4: "colour with transparency"}
Given = str | Path | Images
"""An image: a file, or integer levels of shape (C, H, W) or (H, W)."""


def read_file(path: str | Path) -> Pixels:
    """The pixels of an image file, uint8, (C, H, W).

    Raises:
        InputError: there is no such file, or it cannot be used.
    """
    if not Path(path).is_file():
        raise InputError(str(path), "there is no such image file")
    try:
        with quiet_decoding():
            return read_pixels(Path(path))
    except BadImageError as error:
        raise InputError(str(path), str(error)) from None


def read_image(given: Given, channels: int, levels: int, where: str) -> tuple[Tensor, str]:
    """An image on [0, 1], float32, of shape (C, h, w), and its name.

    Args:
        given: a file, or integer levels 0 … L−1 of shape (C, H, W) or (H, W).
        channels: C of the run.
        levels: L of the run.
        where: the name of an array.

    Raises:
        InputError: it cannot be read, or has other channels.
    """
    if isinstance(given, str | Path):
        return torch.from_numpy(with_channels(read_file(given), channels, str(given)).copy()) / 255.0, str(given)
    x = torch.as_tensor(given)
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise InputError(where, float_levels(x.float(), levels) if x.dtype == torch.bool else float_levels(x, levels))
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[0] != channels or 0 in x.shape:
        raise InputError(where, f"has shape {tuple(x.shape)}, but one image of the run has {channels} × height × width")
    if int(x.min()) < 0 or int(x.max()) >= levels:
        raise InputError(where, f"has levels from {int(x.min())} to {int(x.max())}, but the run has 0 … {levels - 1}")
    return x.cpu().float() / (levels - 1), where


def with_channels(pixels: Pixels, channels: int, where: str) -> Pixels:
    """The same image with C channels, if that loses nothing.

    Raises:
        InputError: colour or transparency would be lost.
    """
    have = len(pixels)
    if have in (2, 4) and channels in (1, 3) and int(pixels[-1].min()) == 255:  # opaque
        pixels = pixels[:-1]
    grey = len(pixels) >= 3 and bool((pixels[:1] == pixels[1:3]).all())
    loses_alpha = len(pixels) in (2, 4) and channels in (1, 3)
    if loses_alpha or (len(pixels) >= 3 and channels <= 2 and not grey):
        raise InputError(where, f"is {WORDS[have]}, but the run's images are {WORDS[channels]}; convert it first")
    return pixels[:1] if grey and channels == 1 else to_channels(pixels, channels, 256)


def at_size(image: Tensor, shape: Shape, fit: Fit | None, where: str) -> Tensor:
    """The image at the size of the run's images.

    Raises:
        InputError: it has another size, and ``fit`` is None.
    """
    have, wanted = tuple(image.shape[1:]), shape[1:]
    if have == wanted:
        return image
    if fit is None:
        said, run = (f"{height}x{width}" for height, width in (have, wanted))
        raise InputError(
            where, f"is {said}, but the run's images are {run}; scale it, or add `fit` crop, pad or resize"
        )
    pixels = (image * 255).round().to(torch.uint8).numpy()
    return torch.from_numpy(fit_pixels(pixels, wanted, fit).copy()) / 255.0


def converted_levels(path: Path, shape: Shape, levels: int, fit: Fit | None) -> tuple[Tensor, str]:
    """A file as integer levels of a run's images, uint8, shape (C, H, W), and what its channels lost, or "".

    Args:
        path: the file.
        shape: (C, H, W) of the run's images.
        levels: L of the run.
        fit: how another size is converted; None to refuse it.

    Raises:
        InputError: it cannot be used.
    """
    pixels, channels = read_file(path), shape[0]
    try:
        with_channels(pixels, channels, str(path))
        lost = ""
    except InputError:
        lost = f"it is {WORDS[len(pixels)]}, and the run's images are {WORDS[channels]}"
    image = at_size(torch.from_numpy(pixels.copy()) / 255.0, shape, fit, str(path))
    whole = to_channels((image * 255).round().to(torch.uint8).numpy(), channels, 256)
    return to_levels(2.0 * (torch.from_numpy(whole.copy()) / 255.0) - 1.0, levels), lost


def reduced(image: Tensor, levels: int, factor: int) -> Tensor:
    """The means of blocks of f × f pixels, rounded to levels, uint8, shape (C, H/f, W/f).

    Args:
        image: integer levels, shape (C, H, W).
        levels: L.
        factor: f.

    Raises:
        InputError: a side is not a multiple of the factor.
    """
    height, width = image.shape[1:]
    if height % factor or width % factor:
        raise InputError("factor", f"{height} × {width} pixels cannot be reduced {factor} times; choose a divisor")
    return to_levels(BlockMeans(factor).measure(to_unit(image[None], levels))[0], levels)


def read_mask(given: Given, shape: Shape) -> Tensor:
    """Where a pixel is seen, boolean, shape (1, H, W).

    Args:
        given: a file, whose bright pixels are hidden, or an array of shape (H, W) that is not 0 where they are.
        shape: (C, H, W) of the run's images.

    Raises:
        InputError: it cannot be read, has another size, colours or transparency.
    """
    where = str(given) if isinstance(given, str | Path) else "mask"
    if isinstance(given, str | Path):
        hidden = torch.from_numpy(with_channels(read_file(given), 1, where)[0] >= HIDDEN_FROM)
    else:
        hidden = torch.as_tensor(np.asarray(given) != 0)
    if tuple(hidden.shape) != shape[1:]:
        have, wanted = ("x".join(map(str, size)) for size in (hidden.shape, shape[1:]))
        raise InputError(where, f"is a mask of {have}, but the images are {wanted}; draw it at their size")
    return ~hidden[None]


def factor_of(small: tuple[int, ...], shape: Shape, factor: int | None, where: str) -> int:
    """The factor from a reduced image of (h, w) to the run's images.

    Raises:
        InputError: the sizes have no common factor of at least 2, or not the given one.
    """
    found = shape[1] // small[0]
    if (small[0] * found, small[1] * found) == shape[1:] and found >= 2 and factor in (None, found):
        return found
    size, run = ("x".join(map(str, each)) for each in (small, shape[1:]))
    by = f"times {factor}" if factor else "times a whole number of at least 2"
    raise InputError(
        where, f"is {size}, which {by} is not {run}, the size of the run's images; reduce it to a fraction"
    )
