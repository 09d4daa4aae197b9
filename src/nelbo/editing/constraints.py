"""Linear constraints A x = y: a mask, block means, any matrix.

Every method of editing needs A only by the orthogonal projection P = A⁺A on what is seen, where A⁺ is the
pseudo-inverse (Penrose 1955). For a y that some image has, A x = y if and only if P x = A⁺y, and x + A⁺y − P x is the
image nearest to x that fulfils it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.errors import InputError


class Constraint(ABC):
    """A linear map A of images."""

    @abstractmethod
    def measure(self, x: Tensor) -> Tensor:
        """A x, shape (B, …), for images of shape (B, C, H, W)."""

    @abstractmethod
    def lift(self, y: Tensor) -> Tensor:
        """A⁺y, shape (B, C, H, W): of the images with A x = y, the one with the smallest norm."""

    def project(self, x: Tensor) -> Tensor:
        """P x = A⁺A x, of the shape of x."""
        return self.lift(self.measure(x))


class Mask(Constraint):
    """The seen pixels: A x = m x with m = 1 where a pixel is seen and 0 where it is hidden.

    Args:
        seen: m, boolean, a shape that broadcasts with (C, H, W).

    Raises:
        InputError: all pixels are seen, or none.
    """

    def __init__(self, seen: Tensor) -> None:
        if bool(seen.all()) or not bool(seen.any()):
            what = "hides no pixel" if bool(seen.all()) else "hides every pixel"
            fix = (
                "mark the pixels to draw" if bool(seen.all()) else "leave some pixels to be seen, or use 'nelbo sample'"
            )
            raise InputError("mask", f"{what}; {fix}")
        self.seen = seen

    def measure(self, x: Tensor) -> Tensor:
        """m x, of the shape of x."""
        return torch.where(self.seen.to(x.device), x, torch.zeros_like(x))

    def lift(self, y: Tensor) -> Tensor:
        """m y: a selection is its own pseudo-inverse."""
        return self.measure(y)


class BlockMeans(Constraint):
    """The means of blocks of f × f pixels: the reduced image.

    Args:
        factor: f ≥ 2; the height and the width of the images are multiples of it.
    """

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def measure(self, x: Tensor) -> Tensor:
        """The block means, shape (B, C, H/f, W/f)."""
        return F.avg_pool2d(x, self.factor)

    def lift(self, y: Tensor) -> Tensor:
        """Every mean repeated over its block: A Aᵀ = I/f², so that A⁺ = f² Aᵀ."""
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


class Matrix(Constraint):
    """A x for any matrix A, with images as vectors.

    Args:
        matrix: A, shape (m, D), D = C·H·W.
        shape: (C, H, W).
    """

    def __init__(self, matrix: Tensor, shape: tuple[int, ...]) -> None:
        self.matrix, self.inverse, self.shape = matrix, torch.linalg.pinv(matrix.double()).to(matrix), shape

    def measure(self, x: Tensor) -> Tensor:
        """A x, shape (B, m)."""
        return x.flatten(1) @ self.matrix.to(x).T

    def lift(self, y: Tensor) -> Tensor:
        """A⁺y, shape (B, C, H, W)."""
        return (y @ self.inverse.to(y).T).reshape(-1, *self.shape)


class Seen(NamedTuple):
    """What is seen of each image: A, and A⁺y of shape (B, C, H, W)."""

    constraint: Constraint
    known: Tensor

    @classmethod
    def of(cls, constraint: Constraint, y: Tensor) -> Seen:
        """What y = A x says of x.

        Args:
            constraint: A.
            y: shape (B, …), in the range of A.
        """
        return cls(constraint, constraint.lift(y))

    def missing(self, x: Tensor) -> Tensor:
        """A⁺y − P x, of the shape of x: what x lacks to fulfil A x = y."""
        return self.known - self.constraint.project(x)

    def fulfilled(self, x: Tensor) -> Tensor:
        """The image nearest to x with A x = y."""
        return x + self.missing(x)

    def repeated(self, count: int) -> Seen:
        """The same for ``count`` copies of every image, one image after another."""
        return self._replace(known=self.known.repeat_interleave(count, 0))
