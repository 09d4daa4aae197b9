"""The training data in batches: one permutation after another, a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nelbo.data.binarize import drawn
from nelbo.rng import Stream, permutation, words


class Batches:
    """The batches of a run, each a function of its step.

    Args:
        images: integer levels, uint8, shape (N, C, H, W); never copied.
        size: B, the number of images of the whole batch.
        seed: the seed of the run.
        grey_levels: the number of levels of the images, if each batch is binarised; else None.
        flip: whether to mirror each image, left to right, with probability ½.
        labels: the class of each image, 1 … K, 0 if unknown, int64, shape (N,); None without labels.
    """

    def __init__(
        self,
        images: Tensor,
        size: int,
        seed: int,
        grey_levels: int | None = None,
        flip: bool = False,
        labels: Tensor | None = None,
    ) -> None:
        self.images, self.size, self.seed, self.grey_levels, self.flip = images, size, seed, grey_levels, flip
        self.labels = labels
        self._order = (-1, np.empty(0, dtype=np.int64))

    def rows(self, step: int) -> np.ndarray:
        """The rows of ``images`` in the whole batch of this step, int64, shape (B,)."""
        n = len(self.images)
        places = step * self.size + np.arange(self.size)
        rows = np.empty(self.size, dtype=np.int64)
        for epoch in range(places[0] // n, places[-1] // n + 1):
            inside = places // n == epoch
            rows[inside] = self.order(epoch)[places[inside] % n]
        return rows

    def gather(self, step: int, places: Sequence[int], out: Tensor | None = None) -> Tensor:
        """Copy images of the batch of this step, as they are in ``images``.

        Args:
            step: the step of the batch.
            places: the places of the images in the batch, 0 … B−1.
            out: the tensor to fill, uint8, shape (len(places), C, H, W); None for a new one.
        """
        out = torch.empty(len(places), *self.images.shape[1:], dtype=self.images.dtype) if out is None else out
        np.take(self.images.numpy(), self.rows(step)[list(places)], axis=0, out=out.numpy())
        return out

    def gather_labels(self, step: int, places: Sequence[int]) -> Tensor | None:
        """The labels of images of the batch of this step, int64, shape (len(places),); None without labels.

        Args:
            step, places: as in :meth:`gather`.
        """
        return None if self.labels is None else self.labels[torch.from_numpy(self.rows(step)[list(places)])]

    def augment(self, images: Tensor, step: int, places: Sequence[int]) -> Tensor:
        """Binarise and mirror gathered images, if the run does so, on their device; uint8, of their shape."""
        if self.grey_levels is not None:
            images = drawn(images, self.grey_levels, self.seed, Stream.BINARIZE, step, places)
        if self.flip:
            coin = words(self.seed, Stream.FLIP, step, places, (1, 1, 1), images.device) < 2**31
            images = torch.where(coin, images.flip(-1), images)
        return images

    def order(self, epoch: int) -> np.ndarray:
        """The order of the data in one epoch; the last one is cached."""
        kept = self._order
        if kept[0] != epoch:
            kept = self._order = (epoch, permutation(self.seed, epoch, len(self.images)))
        return kept[1]

    def position(self, step: int) -> dict[str, int]:
        """The epoch, and the place in it, at which the batch of this step begins."""
        epoch, position = divmod(step * self.size, len(self.images))
        return {"epoch": epoch, "position": position}
