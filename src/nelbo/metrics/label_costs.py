"""What each label costs an image: the part of the bound of p(x|y) that depends on y, from random places.

    bound(x|y) = −ln P(c(x)|y) + E[−ln p(x|z_0, c, y)] + ½ ∫ E‖ε − ε̂(z, γ, c, y)‖² dγ + terms without y

and for a chain the sum over its steps in place of the integral (:mod:`nelbo.diffusion.bound`). The middle two terms are
a sum over pieces: those of t, and the reconstruction. One draw takes a piece with the probability p_k, a γ in it and a
noise ε, and evaluates the network once for each label, at the same (γ, ε); term/p_k has the right expectation. The
noise of two labels is the same, so that most of it cancels in their difference (Li et al. 2023; Clark & Jaini 2023).

The variance of a difference is least for p_k ∝ √E[d_k²], with d_k the difference of the k-th piece. It is measured on
pairs of labels of held-out images, and so is the variance of one draw, as a + b m² for a difference with the mean m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.cores import on_own_cores
from nelbo.diffusion.known import Known
from nelbo.diffusion.process import diffuse
from nelbo.models._diffusion_clusters import given, shown_clusters
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.diffusion import Diffusion
from nelbo.rng import Draws, Stream
from nelbo.theory.likelihoods import to_unit

PIECES = 24
"""Pieces of t."""
UNIFORM = 0.1
"""The uniform part of p, so that every piece has p_k > 0."""


@dataclass(frozen=True)
class CostProfile:
    """Where labels differ, and by how much one draw varies.

    Args:
        edges: the edges of the n pieces of t, float64, shape (n + 1,).
        probabilities: p of each piece of t, and at the end of the reconstruction, float64, shape (n + 1,).
        spread: a ≥ 0 and b ≥ 0: a draw of a difference with the mean m has the variance a + b m², in nats².
    """

    edges: Tensor
    probabilities: Tensor
    spread: tuple[float, float]

    def variance(self, mean: Tensor) -> Tensor:
        """a + b m² of each mean difference, in nats²."""
        constant, quadratic = self.spread
        return constant + quadratic * mean.square()


def profile_of(differences: Tensor, edges: Tensor) -> CostProfile:
    """The profile from the differences of some pairs of labels.

    The second moment of a draw is Σ_k d_k²/p_k. The half of the pairs with the smaller |m| gives a, the other b.

    Args:
        differences: d_k of each pair, one draw in each piece, in nats, float64, shape (pairs, n + 1), pairs ≥ 1.
        edges: as in :class:`CostProfile`.
    """
    size = differences.square().mean(0).sqrt()
    even = torch.full_like(size, 1 / len(size))
    probabilities = (1 - UNIFORM) * size / size.sum() + UNIFORM * even if float(size.sum()) > 0 else even
    mean = differences.sum(1)
    variance = ((differences.square() / probabilities).sum(1) - mean.square()).clamp(min=0)
    small, large = mean.abs().argsort().tensor_split([(len(mean) + 1) // 2])
    constant = float(variance[small].mean())
    excess = float((variance[large] - constant).clamp(min=0).sum())
    return CostProfile(edges, probabilities, (constant, excess / max(float(mean[large].square().sum()), 1e-300)))


@on_own_cores()
@torch.no_grad()
def cost_profile(model: Diffusion, images: Tensor, labels: Tensor, *, seed: int = 0, batch: int = 32) -> CostProfile:
    """The profile of a model, from the own label of each image and another one.

    Args:
        model: a diffusion model with at least two classes, on its device, in evaluation mode.
        images: held-out images, integer levels, shape (n, C, H, W), n ≥ 1.
        labels: y of each image, 1 … K, int64, shape (n,).
        seed: the seed of the noise.
        batch: images per batch.
    """
    count, parts, edges = len(model.classes), [], torch.zeros(0)
    for first in range(0, len(images), batch):
        x, own = images[first : first + batch].to(model.device), labels[first : first + batch].to(model.device)
        rows = range(first, first + len(x))
        shift = 1 + torch.arange(rows.start, rows.stop, device=model.device) % (count - 1)
        draws = Draws(seed, 0, rows, len(images), model.device)
        edges, costs = terms_of_pieces(model, x, own, draws)
        _, others = terms_of_pieces(model, x, (own - 1 + shift) % count + 1, draws)
        parts.append((others - costs).cpu())
    return profile_of(torch.cat(parts), edges.cpu())


def terms_of_pieces(model: Diffusion, x: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """The edges of the pieces of t, and each piece's term and the reconstruction given these labels, (B, n + 1)."""
    bound = bound_of(shown_clusters(model, x, labels))
    edges, terms = bound.diffusion_profile(x, draws, PIECES)
    eps = draws.normal(Stream.CLASSIFY_NOISE, model.shape).double()
    z = diffuse(to_unit(x, model.levels).double(), bound.at(bound.first, x), eps)
    return edges, torch.cat([terms, bound.decode(x, z)[:, None]], 1)


@dataclass(frozen=True)
class LabelCosts:
    """The costs of the labels of one batch of images.

    Args:
        model: a diffusion model with classes, on its device, in evaluation mode.
        x: integer levels, on the device, shape (B, C, H, W).
        indices: the index of each image in the data set, which its noise depends on.
        profile: where to draw.
        seed: the seed of the noise.
        batch: network evaluations at a time.
    """

    model: Diffusion
    x: Tensor
    indices: range
    profile: CostProfile
    seed: int
    batch: int

    def without_network(self) -> Tensor:
        """−ln P(c(x)|y) of each label, or 0 without clusters, in nats, float64, shape (B, K)."""
        count = len(self.model.classes)
        if self.model.clusters is None:
            return torch.zeros(len(self.x), count, dtype=torch.float64, device=self.x.device)
        cluster = self.model.clusters(to_unit(self.x, self.model.levels))
        labels = torch.arange(1, count + 1, device=self.x.device)
        return self.model.clusters.cost(cluster[:, None], labels[None])

    def draw(self, number: int, asked: Tensor) -> Tensor:
        """One draw of the network's part of the cost, at the same (γ, ε) for all labels of an image.

        Args:
            number: which draw, from 0; two draws are independent.
            asked: the labels of each image to evaluate, bool, shape (B, K).

        Returns:
            Nats, float64, shape (B, K); NaN where not asked.
        """
        images = asked.any(1).nonzero()[:, 0]
        draws = Draws(self.seed, number, [self.indices[i] for i in images.tolist()], len(self.x), self.x.device)
        u = draws.uniform(Stream.CLASSIFY_PLACE, (2,))
        eps = draws.normal(Stream.CLASSIFY_NOISE, self.model.shape).double()
        upper = self.profile.probabilities.to(u.device).cumsum(0)
        piece = torch.searchsorted(upper, u[:, 0].contiguous(), right=True).clamp(max=len(upper) - 1)
        place, label = asked[images].nonzero().unbind(1)
        found = torch.full(asked.shape, torch.nan, dtype=torch.float64, device=self.x.device)
        # The reconstructions come first, so that each part is of one kind.
        order = (piece[place] < len(upper) - 1).long().argsort(stable=True)
        decoded = int((piece[place] == len(upper) - 1).sum())
        for part in (*torch.split(order[:decoded], self.batch), *torch.split(order[decoded:], self.batch)):
            rows, of = place[part], images[place[part]]
            if len(part):
                found[of, label[part]] = self.terms(of, label[part] + 1, piece[rows], u[rows, 1], eps[rows])
        return found

    def terms(self, rows: Tensor, labels: Tensor, piece: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """The term of a piece over its probability, for images given labels; the pieces are all of t, or none is.

        Args:
            rows: the images, int64, shape (P,).
            labels: their labels, 1 … K.
            piece: the numbers of the pieces; the last is the reconstruction.
            u: places in the pieces, in [0, 1).
            eps: the noise, shape (P, C, H, W).
        """
        x, clusters = self.x[rows], self.model.clusters
        x_0 = to_unit(x, self.model.levels)
        picture = None if clusters is None else clusters.picture(clusters(x_0))
        bound = bound_of(given(self.model, Known(picture, labels)))
        weight = 1 / self.profile.probabilities.to(u.device)[piece]
        if int(piece[0]) == len(self.profile.probabilities) - 1:
            return weight * bound.decode(x, diffuse(x_0.double(), bound.at(bound.first, x), eps))
        place = bound.place_in(self.profile.edges, piece, u)
        denoised = bound.denoise(diffuse(x_0.double(), place.gamma, eps), place.gamma)
        return weight * place.pixels(denoised, eps).flatten(1).sum(1)
