"""What a Python call may get wrong, checked where it enters: images that are levels, and whole numbers in range."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nelbo.errors import InputError
from nelbo.theory.likelihoods import float_levels, to_default_dtype

if TYPE_CHECKING:
    from nelbo.models.sampling import SampleSettings

Images = Tensor | np.ndarray
"""Integer levels, shape (n, C, H, W), in a tensor on any device or a NumPy array."""


class Imaged(Protocol):
    """What has images of one shape, with so many levels."""

    shape: tuple[int, int, int]
    levels: int
    family: str


def checked_images(model: Imaged, images: Images, where: str = "images") -> Tensor:
    """The images as a tensor, where they were, after a look at everything that would make a number of no image.

    Args:
        model: whose images they are to be.
        images: integer levels 0 … L−1, shape (n, C, H, W), n ≥ 1.
        where: what the caller calls them.

    Raises:
        InputError: no integers, levels out of range, or another shape.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "biuf":
        native = images.dtype.newbyteorder("=")
        known = native if images.dtype.kind in "bf" or native == np.uint8 else np.dtype(np.int64)
        images = torch.from_numpy(np.ascontiguousarray(images.astype(known)))
    if not isinstance(images, Tensor):
        kind = f"{type(images).__name__}" + (f" of {images.dtype}" if isinstance(images, np.ndarray) else "")
        raise InputError(where, f"is a {kind}; give a tensor or a NumPy array of integer levels")
    if images.dtype == torch.bool:
        raise InputError(where, "is of True and False; .to(torch.uint8) makes them the levels 1 and 0")
    if images.is_floating_point() or images.is_complex():
        raise InputError(where, float_levels(images, model.levels))
    fits(model, tuple(images.shape), where)
    # torch has uint16 to uint64 to hold, not to compute with.
    images = images if images.dtype in (torch.uint8, torch.int32, torch.int64) else images.long()
    low, high = (int(end) for end in images.aminmax())
    if low < 0 or high >= model.levels:
        wrong = low if low < 0 else high
        raise InputError(
            where, f"holds the level {wrong}, and this {model.family} has {model.levels}: 0 … {model.levels - 1}"
        )
    return images


def fits(model: Imaged, shape: tuple[int, ...], where: str) -> None:
    """Check the shape of a batch, with what helps where it is a usual mistake.

    Raises:
        InputError: it is not (n, C, H, W) of the model, with n ≥ 1.
    """
    channels, height, width = model.shape
    if shape[1:] == model.shape and shape[0] > 0:
        return
    fix = ""
    if shape == model.shape:
        fix = "; one image is images[None]"
    elif shape[1:] == (height, width, channels):
        fix = "; channels come first, as of .permute(0, 3, 1, 2) (NumPy: .transpose(0, 3, 1, 2))"
    elif channels == 1 and shape[1:] == (height, width):
        fix = "; the channel is images[:, None]"
    elif shape[:1] == (0,):
        fix = "; there is no image in it"
    raise InputError(where, f"has shape {shape}, and this {model.family} takes (n, {channels}, {height}, {width}){fix}")


def checked_output(part: str, output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What a network gave, in torch's default type, after a look at its shape: another one might broadcast.

    Raises:
        InputError: it has another shape.
    """
    if tuple(output.shape) != shape:
        raise InputError(part, f"gave shape {tuple(output.shape)}, and {shape} is needed")
    return to_default_dtype(output)


def checked_int(where: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number in its range.

    Raises:
        InputError: it is none, or out of it.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(where, f"{value!r} is not a whole number") from None
    if isinstance(value, bool):
        raise InputError(where, f"{value!r} is not a whole number")
    if number < least or (most is not None and number > most):
        span = f"less than {least}" if most is None else f"not between {least} and {most}"
        raise InputError(where, f"{number} is {span}")
    return number


def checked_seed(seed: Any) -> int:
    """A seed, 0 ≤ seed < 2^63.

    Raises:
        InputError: another number.
    """
    return checked_int("seed", seed, 0, 2**63 - 1)


def require_sampling(n: Any, seed: Any, start: Any, batch: Any, settings: SampleSettings) -> None:
    """Check the numbers of a call of ``sample``.

    Raises:
        InputError: one of them is out of its range.
    """
    for where, value, least in (("n", n, 0), ("start", start, 0), ("batch", batch, 1)):
        checked_int(where, value, least)
    checked_seed(seed)
    if settings.steps is not None:
        checked_int("steps", settings.steps, 1)
