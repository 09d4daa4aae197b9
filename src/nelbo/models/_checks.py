"""Checks of the arguments of Python calls: images that are levels, and integers in range."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nelbo.errors import InputError, nearest
from nelbo.theory.likelihoods import float_levels, to_default_dtype

if TYPE_CHECKING:
    from nelbo.models.sampling import SampleSettings

Images = Tensor | np.ndarray
"""Integer levels, shape (n, C, H, W), as a tensor on any device or a NumPy array."""


class Imaged(Protocol):
    """A model of images of one shape and number of levels."""

    shape: tuple[int, int, int]
    levels: int
    family: str


class Labelled(Protocol):
    """A model with the names of its classes."""

    classes: tuple[str, ...]
    family: str

    @property
    def device(self) -> torch.device:
        """The device of the weights."""


def checked_images(model: Imaged, images: Images, where: str = "images") -> Tensor:
    """The images as a tensor on their own device, after checks of type, dtype, shape and range.

    Args:
        model: the model that will use the images.
        images: integer levels 0 … L−1, shape (n, C, H, W), n ≥ 1.
        where: the caller's name for them, for messages.

    Raises:
        InputError: not integers, levels out of range, or another shape.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "biuf":
        native = images.dtype.newbyteorder("=")
        known = native if images.dtype.kind in "bf" or native == np.uint8 else np.dtype(np.int64)
        images = torch.from_numpy(np.ascontiguousarray(images.astype(known)))
    if not isinstance(images, Tensor):
        kind = f"{type(images).__name__}" + (f" of {images.dtype}" if isinstance(images, np.ndarray) else "")
        raise InputError(where, f"is a {kind}; pass a tensor or a NumPy array of integer levels")
    if images.dtype == torch.bool:
        raise InputError(where, "is boolean; .to(torch.uint8) converts it to the levels 0 and 1")
    if images.is_floating_point() or images.is_complex():
        raise InputError(where, float_levels(images, model.levels))
    fits(model, tuple(images.shape), where)
    # torch can store uint16 to uint64, but has few operations for them.
    images = images if images.dtype in (torch.uint8, torch.int32, torch.int64) else images.long()
    low, high = (int(end) for end in images.aminmax())
    if low < 0 or high >= model.levels:
        wrong = low if low < 0 else high
        raise InputError(
            where, f"contains the level {wrong}, but this {model.family} has {model.levels}: 0 … {model.levels - 1}"
        )
    return images


def fits(model: Imaged, shape: tuple[int, ...], where: str) -> None:
    """Check the shape of a batch; the message suggests a fix for common mistakes.

    Raises:
        InputError: the shape is not the model's (n, C, H, W) with n ≥ 1.
    """
    channels, height, width = model.shape
    if shape[1:] == model.shape and shape[0] > 0:
        return
    fix = ""
    if shape == model.shape:
        fix = "; use images[None] for one image"
    elif shape[1:] == (height, width, channels):
        fix = "; put the channels first with .permute(0, 3, 1, 2) (NumPy: .transpose(0, 3, 1, 2))"
    elif channels == 1 and shape[1:] == (height, width):
        fix = "; add the channel with images[:, None]"
    elif shape[:1] == (0,):
        fix = "; it contains no image"
    raise InputError(where, f"has shape {shape}, but this {model.family} takes (n, {channels}, {height}, {width}){fix}")


def checked_labels(model: Labelled, labels: Sequence[str], n: int) -> Tensor:
    """The labels of n images as 1 … K, int64, shape (n,).

    Args:
        model: the model that will use them.
        labels: the name of each image's class.
        n: the number of images.

    Raises:
        InputError: the model has no such class, or there are not n labels.
    """
    if not model.classes:
        raise InputError("labels", f"this {model.family} was trained without labels; leave it out")
    if isinstance(labels, str) or len(labels) != n:
        count = f"{labels!r}" if isinstance(labels, str) else f"{len(labels)} labels"
        raise InputError("labels", f"is {count}, but there are {n} images; give the name of the class of each")
    for name in labels:
        if name not in model.classes:
            raise InputError("labels", f"{name!r} is not one of the classes{nearest(str(name), model.classes)}")
    return torch.tensor([model.classes.index(name) + 1 for name in labels], dtype=torch.int64)


def checked_output(part: str, output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A network's output in torch's default dtype, after a check of its shape, since another shape might broadcast.

    Raises:
        InputError: the output has another shape.
    """
    if tuple(output.shape) != shape:
        raise InputError(part, f"outputs shape {tuple(output.shape)}, but the model needs {shape}")
    return to_default_dtype(output)


def checked_int(where: str, value: Any, least: int, most: int | None = None) -> int:
    """An integer in [least, most].

    Raises:
        InputError: the value is not an integer, or is out of range.
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
        InputError: the value is not an integer, or is out of range.
    """
    return checked_int("seed", seed, 0, 2**63 - 1)


def require_sampling(n: Any, seed: Any, start: Any, batch: Any, settings: SampleSettings) -> None:
    """Check the integers of a call of ``sample``.

    Raises:
        InputError: a value is out of its range.
    """
    for where, value, least in (("n", n, 0), ("start", start, 0), ("batch", batch, 1)):
        checked_int(where, value, least)
    checked_seed(seed)
    if settings.steps is not None:
        checked_int("steps", settings.steps, 1)
