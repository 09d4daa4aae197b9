"""What is known of each image beside z: a picture that comes with it, and its label."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Rows = slice | list[int] | Tensor
"""Rows of a batch: a slice, their indices, or a mask, shape (B,)."""


@dataclass(frozen=True, eq=False)
class Known:
    """What a denoiser is told of a batch of images. A part is None if it is unknown for the whole batch.

    Args:
        picture: a picture of each image, such as the mean of its cluster, shape (B, C, H, W); zeros if unknown.
        label: the class y of each image, 1 … K, int64, shape (B,), or (1,) for all images of any batch; 0 if unknown.
    """

    picture: Tensor | None = None
    label: Tensor | None = None

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return self.picture is not None or self.label is not None

    def for_batch(self, count: int) -> Known:
        """The same of a batch of this size, where one label is that of every image."""
        if self.label is None or len(self.label) == count:
            return self
        return replace(self, label=self.label.expand(count))

    @property
    def keywords(self) -> dict[str, Tensor]:
        """The label as the keyword of a network's call, if any label is known."""
        return {} if self.label is None else {"label": self.label}

    def rows(self, rows: Rows) -> Known:
        """The same of some rows of the batch."""
        return Known(*(None if part is None else part[rows] for part in (self.picture, self.label)))

    def followed_by(self, other: Known) -> Known:
        """What is known of two batches, one after the other, with the same parts known."""
        pairs = ((self.picture, other.picture), (self.label, other.label))
        return Known(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))

    def without_pictures(self, hidden: Tensor) -> Known:
        """The same with zeros for the pictures of the hidden images, bool, shape (B,)."""
        if self.picture is None:
            return self
        return replace(self, picture=self.picture * (~hidden).to(self.picture).reshape(-1, 1, 1, 1))

    def without_labels(self, hidden: Tensor | None = None) -> Known:
        """The same with 0 for the labels of the hidden images, bool, shape (B,); None: without any label."""
        if self.label is None or hidden is None:
            return replace(self, label=None)
        return replace(self, label=self.label * ~hidden)


NOTHING = Known()
