"""The order of the training data: one permutation after another, cut into batches, by (seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nelbo.data.binarize import drawn
from nelbo.rng import Stream, permutation


class Batches:
    """The batches of a run, each a function of its step.

    Args:
        images: integer levels, uint8, shape (N, C, H, W); never copied.
        size: B, the number of images of the whole batch.
        seed: the seed of the run.
        grey_levels: the number of levels of the images where each batch is binarised, else None.
    """

    def __init__(self, images: Tensor, size: int, seed: int, grey_levels: int | None = None) -> None:
        self.images, self.size, self.seed, self.grey_levels = images, size, seed, grey_levels
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def rows(self, step: int) -> np.ndarray:
        """The rows of ``images`` in the whole batch of this step, int64, shape (B,)."""
        n = len(self.images)
        places = step * self.size + np.arange(self.size)
        rows = np.empty(self.size, dtype=np.int64)
        for epoch in range(places[0] // n, places[-1] // n + 1):
            inside = places // n == epoch
            rows[inside] = self.order(epoch)[places[inside] % n]
        return rows

    def at(self, step: int, places: Sequence[int]) -> Tensor:
        """The images in these places, 0 … B−1, of the batch of this step, uint8, shape (len(places), C, H, W)."""
        images = self.images[torch.from_numpy(self.rows(step)[list(places)])]
        if self.grey_levels is None:
            return images
        return drawn(images, self.grey_levels, self.seed, Stream.BINARIZE, step, places)

    def order(self, epoch: int) -> np.ndarray:
        """The order of the data in one epoch; the last one is kept."""
        if self._epoch != epoch:
            self._epoch, self._order = epoch, permutation(self.seed, epoch, len(self.images))
        return self._order

    def position(self, step: int) -> dict[str, int]:
        """The epoch, and the place in it, at which the batch of this step begins."""
        epoch, position = divmod(step * self.size, len(self.images))
        return {"epoch": epoch, "position": position}
