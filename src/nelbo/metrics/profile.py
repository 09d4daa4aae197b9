"""The diffusion term of every image for each piece of t."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.cores import on_own_cores
from nelbo.metrics._evaluating import evaluating
from nelbo.models._checks import Images, checked_images, checked_int, checked_seed
from nelbo.models._diffusion_clusters import shown_clusters
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.diffusion import Diffusion
from nelbo.rng import Draws
from nelbo.units import bits_per_dim


@dataclass(frozen=True)
class Profile:
    """The diffusion term of n images over K pieces of t.

    Args:
        edges: K + 1 increasing edges of t, in [0, 1] or in 1 … T; a piece of steps includes only its upper edge.
        gamma: γ = −ln SNR at each edge.
        nats: the term of each image and piece, float64, shape (n, K); a row's sum is the image's diffusion term.
        dims: D.
    """

    edges: Tensor
    gamma: Tensor
    nats: Tensor
    dims: int

    @property
    def width(self) -> Tensor:
        """The length of each piece in t, shape (K,)."""
        return self.edges[1:] - self.edges[:-1]

    def bits(self) -> tuple[Tensor, Tensor]:
        """bits/dim of each piece, averaged over images, and its standard error over images (0 for one image), (K,)."""
        scale, n = bits_per_dim(1.0, self.dims), len(self.nats)
        return self.nats.mean(0) * scale, self.nats.std(0, correction=min(1, n - 1)) / n**0.5 * scale


@on_own_cores()
@torch.no_grad()
def score_profile(
    model: Diffusion,
    images: Images,
    *,
    pieces: int = 32,
    replicates: int = 1,
    seed: int = 0,
    batch: int = 128,
    rows: range | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Profile:
    """The profile of every image, averaged over replicates. The noise of image i does not depend on the batch.

    Args:
        model: a diffusion model, on its device.
        images: integer levels 0 … L−1, shape (n, C, H, W), n ≥ 1, as a tensor or a NumPy array.
        pieces: K, the number of pieces of t.
        replicates: independent estimates of each piece.
        seed: the seed of the noise.
        batch: images per batch.
        rows: the rows of the images to score, with the same noise as in a score of all images; None for all.
        progress: called with the number of estimates done, of n · replicates.

    Returns:
        The profile of the rows.

    Raises:
        InputError: the images do not fit the model, or a number is out of range.
    """
    images = checked_images(model, images)
    for where, value in (("pieces", pieces), ("replicates", replicates), ("batch", batch)):
        checked_int(where, value, 1)
    checked_seed(seed)
    edges, total = torch.empty(0), []
    rows = range(len(images)) if rows is None else rows
    with evaluating(model):
        for replicate in range(replicates):
            parts = []
            for first in range(rows.start, rows.stop, batch):
                indices = range(first, min(first + batch, rows.stop))
                x = images[indices.start : indices.stop].to(model.device)
                edges, nats = bound_of(shown_clusters(model, x)).diffusion_profile(
                    x, Draws(seed, replicate, indices, len(images), model.device), pieces
                )
                parts.append(nats.cpu())
                progress(replicate * len(rows) + indices.stop - rows.start)
            total.append(torch.cat(parts))
    edges = edges.cpu()
    return Profile(edges, model.timeline.gamma_at(edges), torch.stack(total).mean(0), model.dims)
