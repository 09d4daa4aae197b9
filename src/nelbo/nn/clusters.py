"""Clusters: the space of images cut into K cells, each around a centre, so that a network can be told one of K."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.theory.likelihoods import to_default_dtype, to_unit

LOOK = 16
"""Images are compared by squares of pixels, so large that no side has more of them than this."""
ROUNDS = 10
MOST_IMAGES = 65_536
MEMBERS = 20
"""There are never more clusters than leaves each so many training images on average."""
STRIDE = 4096


class Clusters(nn.Module):
    """c(x) = argmin_k ‖x̄ − m_k‖², where x̄ is x by squares of pixels, and m_k the mean of the images nearest to it.

    The centres are found by Lloyd's algorithm (k-means), from K of the images. Until then every image is in the first.
    By hand, so that images stay on the model's device.

    Args:
        shape: (C, H, W) of the images.
        count: K, at most.
    """

    centres: Tensor
    shares: Tensor

    def __init__(self, shape: tuple[int, int, int], count: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.square = -(-max(height, width) // LOOK)
        size = channels * -(-height // self.square) * -(-width // self.square)
        self.register_buffer("centres", torch.zeros(count, size))
        self.register_buffer("shares", F.one_hot(torch.tensor(0), count).double())

    def __len__(self) -> int:
        return len(self.shares)

    def look(self, x_0: Tensor) -> Tensor:
        """x̄ of images on [−1, 1], shape (B, size)."""
        return F.avg_pool2d(x_0, self.square, ceil_mode=True).flatten(1)

    def nearest(self, seen: Tensor) -> Tensor:
        """The cluster with the nearest centre, shape (B,), of x̄, shape (B, size); never an empty one."""
        closeness = seen @ self.centres.T - 0.5 * self.centres.square().sum(1)
        return closeness.masked_fill(self.shares == 0, -torch.inf).argmax(1)

    def forward(self, x_0: Tensor) -> Tensor:
        """c(x) of images on [−1, 1], shape (B,)."""
        return self.nearest(self.look(to_default_dtype(x_0)))

    def drawn(self, u: Tensor) -> Tensor:
        """Clusters by their shares of the training images, from uniform numbers in [0, 1), shape (B,)."""
        edges = self.shares.cumsum(0)
        return torch.searchsorted(edges, u.to(edges) * edges[-1], right=True)

    @torch.no_grad()
    def learn(self, images: Tensor, levels: int, seed: int) -> None:
        """Find the centres, and each cluster's share.

        Args:
            images: the training images, integer levels, shape (N, C, H, W); of more than 65,536, so many are looked at.
            levels: L, the number of values a pixel can take.
            seed: which images are the first centres.
        """
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:MOST_IMAGES]
        device = self.centres.device
        seen = torch.cat([self.look(to_unit(images[rows].to(device), levels)) for rows in torch.split(order, STRIDE)])
        used = max(1, min(len(self), len(seen) // MEMBERS))
        self.centres[:used] = seen[:used]
        self.shares.copy_(torch.arange(len(self), device=device) < used)
        for _ in range(ROUNDS):
            cluster = self.share_out(seen)
            sums = torch.zeros_like(self.centres).index_add_(0, cluster, seen)
            members = torch.bincount(cluster, minlength=len(self))[:, None]
            self.centres.copy_(torch.where(members > 0, sums / members.clamp(min=1), self.centres))
        self.share_out(seen)

    def share_out(self, seen: Tensor) -> Tensor:
        """The cluster of each x̄, shape (N,), and from them the shares."""
        cluster = torch.cat([self.nearest(part) for part in torch.split(seen, STRIDE)])
        self.shares.copy_(torch.bincount(cluster, minlength=len(self)).double() / len(seen))
        return cluster
