"""Vectors of labels: what a network adds to its features if the class of an image is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LabelledNetwork(nn.Module):
    """A network with a vector e_y of each class y, 1 … K, and e_0 of an unknown one; all start at zero.

    The other weights of a seed are therefore those of the same network without labels.
    """

    labels: nn.Parameter | None
    """e_0 … e_K, shape (1 + K, size); None for a network without labels."""

    def learn_labels(self, classes: int, size: int) -> None:
        """Make the vectors; every constructor calls this.

        Args:
            classes: K; 0 for none.
            size: their size.
        """
        self.labels = nn.Parameter(torch.zeros(1 + classes, size)) if classes else None

    def plus_label(self, h: Tensor, label: Tensor | None, part: slice = slice(None)) -> Tensor:
        """Features plus e_y; without labels the features themselves.

        Args:
            h: shape (B, size), or (B, size, H, W).
            label: y of each image, 1 … K, 0 if unknown, int64, shape (B,); None if all are unknown.
            part: the part of e_y to add, if it is for several features.
        """
        if self.labels is None:
            return h
        vector = (self.labels[0] if label is None else F.embedding(label, self.labels))[..., part]
        return h + (vector if h.ndim == 2 else vector[..., None, None])
