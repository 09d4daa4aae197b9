"""Clusters: k-means cells of the images, so that a network receives a number or a mean for an image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.theory.likelihoods import to_default_dtype, to_unit

LOOK = 16
"""Images are averaged over squares of pixels until no side has more squares than this."""
ROUNDS = 10
MOST_IMAGES = 65_536
MEMBERS = 20
"""The smallest average number of training images per cluster; it limits the number of clusters."""
STRIDE = 4096


class Clusters(nn.Module):
    """c(x) = argmin_k ‖x̄ − m_k‖², with x̄ the image x averaged over squares and m_k the mean of the images of cluster k.

    Lloyd's algorithm (k-means) computes the centres, starting from K images. Before it, every image is in cluster 0.
    Written by hand because the images stay on the model's device.

    With labels y the centres are those of k-means in each class. Of the n_y images of class y n_cy are in cluster c:

        P(c|y) = n_cy/n_y,   c(x, y) = argmin_k ‖x̄ − m_k‖² over the k with P(k|y) > 0

    A class without images has P(c|y) = P(c). With more classes than K, they share the clusters of all images.

    Args:
        shape: (C, H, W) of the images.
        count: the largest K.
        classes: the number of classes of labels; 0 for none.
    """

    centres: Tensor
    shares: Tensor
    shares_by_label: Tensor
    """P(c|y), float64, shape (1 + classes, K); in row 0, where y is unknown, P(c)."""

    def __init__(self, shape: tuple[int, int, int], count: int, classes: int = 0) -> None:
        super().__init__()
        channels, height, width = self.shape = shape
        self.square = -(-max(height, width) // LOOK)
        size = channels * -(-height // self.square) * -(-width // self.square)
        self.register_buffer("centres", torch.zeros(count, size))
        self.register_buffer("shares", F.one_hot(torch.tensor(0), count).double())
        if classes:
            self.register_buffer("shares_by_label", self.shares.repeat(1 + classes, 1))

    def __len__(self) -> int:
        return len(self.shares)

    def look(self, x_0: Tensor) -> Tensor:
        """x̄ of images on [−1, 1], shape (B, size)."""
        return F.avg_pool2d(x_0, self.square, ceil_mode=True).flatten(1)

    def forward(self, x_0: Tensor, label: Tensor | None = None) -> Tensor:
        """c(x), or c(x, y), shape (B,).

        Args:
            x_0: images on [−1, 1], shape (B, C, H, W).
            label: y, 1 …, 0 if unknown, int64, shape (B,); None if all are unknown.
        """
        filled = self.shares if label is None else self.shares_by_label[label]
        return nearest(self.look(to_default_dtype(x_0)), self.centres, filled)

    def distance(self, x_0: Tensor, cluster: Tensor) -> Tensor:
        """‖x̄ − m_c‖² of images on [−1, 1] and a cluster of each, float64, shape (B,)."""
        return (self.look(to_default_dtype(x_0)) - self.centres[cluster]).double().square().sum(1)

    def picture(self, cluster: Tensor) -> Tensor:
        """m_k of each cluster as an image on [−1, 1], shape (B, C, H, W), each square of one value."""
        channels, height, width = self.shape
        rows, columns = -(-height // self.square), -(-width // self.square)
        squares = self.centres[cluster].reshape(-1, channels, rows, columns)
        fine = squares.repeat_interleave(self.square, 2).repeat_interleave(self.square, 3)
        return fine[..., :height, :width]

    def cost(self, cluster: Tensor, label: Tensor | None = None) -> Tensor:
        """−ln P(c) or −ln P(c|y) in nats, float64, shape (B,), with P(c) the share of the training images in cluster c.

        Args:
            cluster: c, shape (B,).
            label: y, 1 …, 0 if unknown, int64, shape (B,); None if all are unknown.
        """
        return -(self.shares[cluster] if label is None else self.shares_by_label[label, cluster]).log()

    def drawn(self, u: Tensor, label: Tensor | None = None) -> Tensor:
        """Clusters drawn by their frequencies in the training images, or in those of the class y, shape (B,).

        Args:
            u: uniforms in [0, 1), shape (B,).
            label: y, 1 …, 0 if unknown, int64, shape (B,); None if all are unknown.
        """
        if label is None:
            edges = self.shares.cumsum(0)
            return torch.searchsorted(edges, u.to(edges) * edges[-1], right=True)
        return drawn_by(self.shares_by_label[label], u)

    def share(self, label: Tensor | None) -> Tensor:
        """P(c), shape (1, K), or P(c|y) of each label y, shape (B, K)."""
        return self.shares[None] if label is None else self.shares_by_label[label]

    @torch.no_grad()
    def learn(self, images: Tensor, levels: int, seed: int, labels: Tensor | None = None) -> None:
        """Compute the centres and the frequency of each cluster, and with labels P(c|y).

        Args:
            images: the training images, integer levels, shape (N, C, H, W); at most 65,536 random ones are used.
            levels: L, the number of values a pixel can take.
            seed: the seed of the initial centres.
            labels: y of each image, 1 …, 0 if unknown, int64, shape (N,); None if all are unknown.
        """
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:MOST_IMAGES]
        device = self.centres.device
        seen = torch.cat([self.look(to_unit(images[rows].to(device), levels)) for rows in torch.split(order, STRIDE)])
        used = max(1, min(len(self), len(seen) // MEMBERS))
        kinds = torch.zeros(len(seen), dtype=torch.int64) if labels is None else labels.cpu()[order]
        if len(np.unique(kinds.numpy())) > used:
            kinds.zero_()
        counts = counts_by_kind(kinds, used)
        found = [k_means(seen[(kinds == kind).to(device)], count) for kind, count in counts]
        centres, filled = (torch.cat(each) for each in zip(*found, strict=True))
        self.centres[: len(centres)] = centres
        own = torch.repeat_interleave(*torch.tensor(counts).T)  # the kind of each cluster
        cluster = nearest(seen, centres, filled * (own == kinds[:, None]).to(seen))
        self.shares.copy_(torch.bincount(cluster, minlength=len(self)).double() / len(seen))
        if labels is not None:
            rows = torch.zeros_like(self.shares_by_label)
            rows.index_put_((labels[order].to(device), cluster), rows.new_ones(()), accumulate=True)
            unseen = rows.sum(1, keepdim=True) == 0
            self.shares_by_label.copy_(torch.where(unseen, self.shares, rows / rows.sum(1, keepdim=True)))
            self.shares_by_label[0] = self.shares


def drawn_by(law: Tensor, u: Tensor) -> Tensor:
    """A cluster of each row from its law, by inversion, int64, shape (B,).

    Args:
        law: the probability of each cluster, up to a factor, shape (B, K).
        u: uniforms in [0, 1), shape (B,).
    """
    ends = law.cumsum(1)
    return torch.searchsorted(ends, u.to(ends)[:, None] * ends[:, -1:], right=True)[:, 0]


def nearest(seen: Tensor, centres: Tensor, filled: Tensor) -> Tensor:
    """The nearest centre of those that are filled (not 0).

    Args:
        seen: x̄ of the images, shape (N, size).
        centres: shape (K, size).
        filled: shape (K,), or of each image (N, K).

    Returns:
        Indices, shape (N,).
    """
    half, empty = 0.5 * centres.square().sum(1), (filled == 0).expand(len(seen), -1)
    parts = zip(torch.split(seen, STRIDE), torch.split(empty, STRIDE), strict=True)
    return torch.cat([(part @ centres.T - half).masked_fill(out, -torch.inf).argmax(1) for part, out in parts])


def counts_by_kind(kinds: Tensor, used: int) -> list[tuple[int, int]]:
    """Each kind and the number of its clusters: 1, and more by its share of the images.

    >>> counts_by_kind(torch.tensor([2, 1, 2, 2]), 10)
    [(1, 3), (2, 7)]
    """
    found, sizes = np.unique(kinds.numpy(), return_counts=True)
    counts = 1 + sizes * (used - len(found)) // len(kinds)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


def k_means(seen: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The centres by Lloyd's algorithm from the first images, and the number of images of each in the last round.

    Args:
        seen: x̄ of the images, shape (N, size).
        count: K.
    """
    centres, members = seen[:count].clone(), seen.new_ones(count)
    for _ in range(ROUNDS):
        cluster = nearest(seen, centres, members)
        members = torch.bincount(cluster, minlength=count).to(seen)
        sums = torch.zeros_like(centres).index_add_(0, cluster, seen)
        centres = torch.where(members[:, None] > 0, sums / members[:, None].clamp(min=1), centres)
    return centres, members
