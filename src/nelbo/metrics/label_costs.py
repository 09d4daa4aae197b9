"""What each label costs an image: the part of the bound of p(x|y) that depends on y, from random places.

    bound(x|y) = −ln P(c|y) + E[−ln p(x|z_0, c, y)] + ½ ∫ E‖ε − ε̂(z, γ, c, y)‖² dγ + terms without y

with c = c(x, y), the nearest cluster of the class (:class:`nelbo.nn.clusters.Clusters`), and for a chain the sum over
its steps in place of the integral (:mod:`nelbo.diffusion.bound`). The middle two terms are a sum over pieces: those of
t, and the reconstruction. One draw of a piece takes a γ in it and a noise ε, and evaluates the network twice for each
label, at (γ, ε) and (γ, −ε); their mean has the right expectation. The noise of two labels is the same, so that most of
it cancels in their difference (Li et al. 2023; Clark & Jaini 2023), and what is odd in ε cancels in the pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nelbo.cores import on_own_cores
from nelbo.diffusion.known import Known
from nelbo.diffusion.process import diffuse
from nelbo.metrics.label_profile import CostProfile, profile_of
from nelbo.models._diffusion_clusters import given
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.diffusion import Diffusion
from nelbo.rng import Draws, Stream
from nelbo.theory.likelihoods import to_unit

PIECES = 20
"""Pieces of t."""
EVALUATIONS = 2
"""Network evaluations of one draw for one label."""


@dataclass(frozen=True)
class LabelCosts:
    """The costs of the labels of one batch of images.

    Args:
        model: a diffusion model with classes, on its device, in evaluation mode.
        x: integer levels, on the device, shape (B, C, H, W).
        indices: the index of each image in the data set, which its noise depends on.
        edges: the edges of the pieces of t, from :func:`edges_of`.
        seed: the seed of the noise.
        batch: network evaluations at a time.
        matrices: what the network multiplies matrices in, float32 or bfloat16; the errors of the latter count as noise.
    """

    model: Diffusion
    x: Tensor
    indices: range
    edges: Tensor
    seed: int
    batch: int
    matrices: torch.dtype = torch.float32

    def without_network(self) -> tuple[Tensor, Tensor]:
        """−ln P(c|y) of each label, in nats, and ‖x̄ − m_c‖², both float64, shape (B, K), and 0 without clusters."""
        count, clusters = len(self.model.classes), self.model.clusters
        if clusters is None:
            nothing = torch.zeros(len(self.x), count, dtype=torch.float64, device=self.x.device)
            return nothing, nothing
        x_0, labels = to_unit(self.x, self.model.levels), torch.arange(1, count + 1, device=self.x.device)
        distances = [clusters.distance(x_0, cluster) for cluster in self.clusters.T]
        return clusters.cost(self.clusters, labels[None]), torch.stack(distances, 1)

    @cached_property
    def clusters(self) -> Tensor:
        """c(x, y) of each label, shape (B, K); the model has clusters."""
        assert self.model.clusters is not None
        x_0, each = to_unit(self.x, self.model.levels), torch.ones(len(self.x), dtype=torch.int64, device=self.x.device)
        return torch.stack([self.model.clusters(x_0, y * each) for y in range(1, len(self.model.classes) + 1)], 1)

    def draw(self, number: int, piece: int, asked: Tensor) -> Tensor:
        """One draw of a piece, at the same (γ, ±ε) for all labels of an image.

        Args:
            number: which draw, from 0; two draws are independent.
            piece: k, from 0; the last is the reconstruction.
            asked: the labels of each image to evaluate, bool, shape (B, K).

        Returns:
            Nats, float64, shape (B, K); NaN where not asked.
        """
        images = asked.any(1).nonzero()[:, 0]
        draws = Draws(self.seed, number, [self.indices[i] for i in images.tolist()], len(self.x), self.x.device)
        u = draws.uniform(Stream.CLASSIFY_PLACE)
        eps = draws.normal(Stream.CLASSIFY_NOISE, self.model.shape).double()
        place, label = asked[images].nonzero().unbind(1)
        found = torch.full(asked.shape, torch.nan, dtype=torch.float64, device=self.x.device)
        for rows, y in zip(
            *(torch.split(part, max(1, self.batch // EVALUATIONS)) for part in (place, label)), strict=True
        ):
            with torch.autocast(self.x.device.type, self.matrices, enabled=self.matrices == torch.bfloat16):
                both = self.terms(images[rows].repeat(2), y.repeat(2) + 1, piece, u[rows].repeat(2), signed(eps[rows]))
            found[images[rows], y] = torch.stack(both.chunk(2)).mean(0)
        return found

    def terms(self, rows: Tensor, labels: Tensor, piece: int, u: Tensor, eps: Tensor) -> Tensor:
        """The term of a piece for images given labels.

        Args:
            rows: the images, int64, shape (P,).
            labels: their labels, 1 … K.
            piece: k.
            u: places in the piece, in [0, 1).
            eps: the noise, shape (P, C, H, W).
        """
        x, clusters = self.x[rows], self.model.clusters
        x_0 = to_unit(x, self.model.levels)
        picture = None if clusters is None else clusters.picture(self.clusters[rows, labels - 1])
        bound = bound_of(given(self.model, Known(picture, labels)))
        if piece == len(self.edges) - 1:
            return bound.decode(x, diffuse(x_0.double(), bound.at(bound.first, x), eps))
        place = bound.place_in(self.edges, torch.full_like(rows, piece), u)
        denoised = bound.denoise(diffuse(x_0.double(), place.gamma, eps), place.gamma)
        return place.pixels(denoised, eps).flatten(1).sum(1)


def signed(eps: Tensor) -> Tensor:
    """ε, then −ε."""
    return torch.cat([eps, -eps])


def edges_of(model: Diffusion) -> Tensor:
    """The edges of the pieces of t."""
    return bound_of(model).edges(PIECES)


def other_labels(distance: Tensor, own: Tensor, near: bool) -> Tensor:
    """A wrong label of each image: that with the nearest cluster, or one of them all in turn, indices, shape (n, 1)."""
    if near:
        return distance.scatter(1, own, torch.inf).argmin(1, keepdim=True)
    turn = torch.arange(len(own), device=own.device)[:, None] % (distance.shape[1] - 1)
    return (own + 1 + turn) % distance.shape[1]


@on_own_cores()
@torch.no_grad()
def cost_profile(
    model: Diffusion,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    batch: int = 32,
    matrices: torch.dtype = torch.float32,
    progress: Callable[[int], None] = lambda done: None,
) -> CostProfile:
    """The profile of a model, from the own label of each image and the other one with the nearest cluster.

    Args:
        model: a diffusion model with at least two classes, on its device, in evaluation mode.
        images: held-out images, integer levels, shape (n, C, H, W), n ≥ 1.
        labels: y of each image, 1 … K, int64, shape (n,).
        seed: the seed of the noise.
        batch: network evaluations at a time.
        matrices: as in :class:`LabelCosts`.
        progress: called with the number of pieces done.
    """
    edges, x = edges_of(model), images.to(model.device)
    costs, own = LabelCosts(model, x, range(len(x)), edges, seed, batch, matrices), labels.to(model.device)[:, None] - 1
    _, distance = costs.without_network()
    other = other_labels(distance, own, model.clusters is not None)
    asked = torch.zeros_like(distance, dtype=torch.bool).scatter(1, torch.cat([own, other], 1), True)
    parts = []
    for piece in range(len(edges)):
        drawn = [costs.draw(2 * piece + again, piece, asked) for again in range(2)]
        parts.append(torch.stack([(d.gather(1, other) - d.gather(1, own))[:, 0] for d in drawn]))
        progress(1)
    apart = (distance.gather(1, other) - distance.gather(1, own))[:, 0]
    return profile_of(torch.stack(parts, 2).cpu(), apart.cpu(), edges.cpu())
