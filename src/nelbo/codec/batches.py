"""Images on a stack in batches of one size, with a model that computes in float64."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from nelbo.codec.convolution import replace_convolutions
from nelbo.codec.stack import Stack, Words
from nelbo.errors import InputError
from nelbo.options import Shape
from nelbo.torch_settings import default_dtype

M = TypeVar("M", bound=nn.Module)
MOST_IN_FLIGHT = 64
"""Images per batch: the network's memory is proportional, and a file may claim any number."""
THINNEST = 2.0**-30
"""The least width of a bin: whole numbers of bins are exact in float64."""
InFlight = Annotated[int, Field(ge=1, le=MOST_IN_FLIGHT)]


def in_float64(model: M) -> M:
    """A copy of the model in evaluation mode, on the CPU, in float64, with faster convolutions."""
    found = copy.deepcopy(model).cpu().double().eval().requires_grad_(False)
    replace_convolutions(found)
    return found


@contextmanager
def float64() -> Iterator[None]:
    """A context without gradients in which float64 is torch's default dtype, as nelbo's models use it."""
    with default_dtype(torch.float64), torch.no_grad():
        yield


def batches(count: int, size: int) -> list[slice]:
    """Consecutive rows, the last of them fewer.

    >>> batches(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def power_below(value: float) -> float:
    """The largest power of two that is at most a positive number.

    >>> power_below(0.3), power_below(0.5), power_below(6.0)
    (0.25, 0.5, 4.0)
    """
    return math.ldexp(1.0, math.frexp(value)[1] - 1)


def padded(rows: NDArray[Any], size: int) -> Tensor:
    """Rows as a tensor, followed by rows of zeros, so that the network always computes the same number of rows."""
    whole = np.zeros((size, *rows.shape[1:]), rows.dtype)
    whole[: len(rows)] = rows
    return torch.from_numpy(whole)


def patterned(*shape: int) -> Tensor:
    """Numbers between −1 and 1 without a pattern to the eye, the same on every machine, float64.

    >>> patterned(3).tolist()
    [-1.0, -0.265625, 0.375]
    """
    count = int(np.prod(shape))
    mixed = (np.arange(count, dtype=np.int64) * 2654435761 + (np.arange(count, dtype=np.int64) ** 2) * 40503) >> 7
    return torch.from_numpy((mixed % 128) / 64.0 - 1.0).reshape(shape)


def pattern_images(shape: Shape, levels: int, count: int = 2) -> NDArray[np.uint8]:
    """Images for a test, the same on every machine."""
    raised = (patterned(count, *shape).numpy() + 1) / 2 * (levels - 1)
    return np.floor(raised).astype(np.uint8)


class BatchCoder(ABC):
    """A coder that pushes and pops a batch of images.

    Args:
        shape: (C, H, W) of the images.
        levels: L.
        settings: the settings, JSON values.
        in_flight: images per batch.
    """

    def __init__(self, shape: Shape, levels: int, settings: dict[str, Any], in_flight: int) -> None:
        self.shape, self.levels, self.settings, self.in_flight = shape, levels, settings, in_flight

    @abstractmethod
    def push(self, stack: Stack, images: NDArray[np.uint8]) -> None:
        """Push at most ``in_flight`` images."""

    @abstractmethod
    def pop(self, stack: Stack, count: int) -> NDArray[np.uint8]:
        """Pop the images of :meth:`push`."""

    def encode(self, images: NDArray[np.uint8], words: Words) -> Words:
        """As in :class:`~nelbo.codec.coder.Coder`.

        Raises:
            InputError: the images have another shape, or more levels.
            OutOfWordsError: the stack has too few words.
        """
        self.require(images)
        stack = Stack(words)
        with float64():
            for rows in reversed(batches(len(images), self.in_flight)):
                self.push(stack, images[rows])
        return stack.words()

    def decode(self, words: Words, count: int) -> tuple[NDArray[np.uint8], Words]:
        """As in :class:`~nelbo.codec.coder.Coder`."""
        stack, found = Stack(words, sealed=False), [np.zeros((0, *self.shape), np.uint8)]
        with float64():
            found += [self.pop(stack, rows.stop - rows.start) for rows in batches(count, self.in_flight)]
        return np.concatenate(found), stack.unsealed()

    def require(self, images: NDArray[np.uint8]) -> None:
        """Check the images.

        Raises:
            InputError: they have another shape or dtype, or more levels.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            raise InputError("images", f"are {images.dtype} of shape {images.shape}, not uint8 of (n, *{self.shape})")
        if images.size and int(images.max()) >= self.levels:
            raise InputError("images", f"have a level {int(images.max())}, but the model has 0 … {self.levels - 1}")

    def flat(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The levels of all pixels, shape (n,)."""
        return images.reshape(-1).astype(np.int64)

    def unflat(self, x: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images of these levels."""
        return x.astype(np.uint8).reshape(-1, *self.shape)
