"""Where in t the bits are: the diffusion term of every image, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nelbo.rng import Draws
from nelbo.units import bits_per_dim


class Profiled(Protocol):
    """A model whose bound has a term over t."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def dims(self) -> int:
        """D."""

    def over_t(self, x: Tensor, draws: Draws, pieces: int) -> tuple[Tensor, Tensor]:
        """Edges of the pieces and nats of each, shape (B, K)."""


@dataclass(frozen=True)
class Profile:
    """The diffusion term of n images over K pieces of t.

    Args:
        edges: K + 1 edges of t, rising.
        nats: of each image and piece, float64, shape (n, K); a row's sum is that image's diffusion term.
        dims: D.
    """

    edges: Tensor
    nats: Tensor
    dims: int

    def density(self) -> tuple[list[float], list[float]]:
        """bits/dim per unit of t in each piece, averaged over images, and its standard error over images."""
        width = self.edges[1:] - self.edges[:-1]
        scale = bits_per_dim(1.0, self.dims) / width
        mean, error = self.nats.mean(0) * scale, self.nats.std(0) / len(self.nats) ** 0.5 * scale
        return mean.tolist(), error.tolist()


@torch.no_grad()
def score_profile(
    model: Profiled,
    images: Tensor,
    *,
    pieces: int = 32,
    replicates: int = 1,
    seed: int = 0,
    batch: int = 128,
    progress: Callable[[int], None] = lambda done: None,
) -> Profile:
    """The profile of every image, averaged over replicates. Image i has the same noise whatever the batch.

    Args:
        model: a diffusion model, on its device.
        images: integer levels, uint8, shape (n, C, H, W).
        pieces: K, of t.
        replicates: independent estimates of each piece.
        seed: of the noise.
        batch: images at a time.
        progress: called with the number of images done, as a share of n · replicates.
    """
    edges, total = torch.empty(0), []
    for replicate in range(replicates):
        rows = []
        for first in range(0, len(images), batch):
            x = images[first : first + batch].to(model.device)
            draws = Draws(seed, replicate, range(first, first + len(x)), len(images), model.device)
            edges, nats = model.over_t(x, draws, pieces)
            rows.append(nats.cpu())
            progress(replicate * len(images) + first + len(x))
        total.append(torch.cat(rows))
    return Profile(edges.cpu(), torch.stack(total).mean(0), model.dims)
