"""Which t to evaluate: to estimate the sum over t, and to train."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def stratified(u: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """K samples from the distribution p over {0, …, n−1}, one from each of K equal strata of its distribution function.

    E[Σ_k weight_k · f(index_k)] = Σ_i f(i) exactly, for any p > 0; with p uniform and K = n, every index comes once.

    Args:
        u: independent uniforms in [0, 1), shape (B, K).
        p: probabilities, shape (n,), positive, with sum 1.

    Returns:
        The indices and their weights 1/(K p), both of shape (B, K).
    """
    strata, p = u.shape[1], p.to(u.device, torch.float64)
    level = (torch.arange(strata, dtype=torch.float64, device=u.device) + u.double()) / strata
    edges = p.cumsum(0) * (1 + 1e-15)
    index = torch.searchsorted(edges, level, right=True).clamp(max=len(p) - 1)
    return index, 1.0 / (strata * p[index])


def harmonic(first: int, last: int) -> Tensor:
    """Probabilities of t = first … last, half uniform and half ∝ 1/t: the bound's terms are largest at small t.

    Returns:
        Probabilities in float64, shape (last − first + 1,).
    """
    inverse = 1.0 / torch.arange(first, last + 1, dtype=torch.float64)
    return 0.5 / len(inverse) + 0.5 * inverse / inverse.sum()


class LossProfile(nn.Module):
    """The root mean square of the loss at each t, learned while training, and the distribution of t that follows.

    p(t) ∝ √E[L_t²] minimises the variance of L_t/p(t) (Nichol & Dhariwal 2021 (18)). Neighbouring t share a bin, and a
    uniform part keeps p(t) > 0.

    Args:
        T: the number of steps.
        bins: the number of bins.
        decay: the factor of the old mean square at each update.
        floor: the uniform part of p.
    """

    mean_square: Tensor
    edges: Tensor

    def __init__(self, T: int, bins: int = 64, decay: float = 0.98, floor: float = 0.1) -> None:
        super().__init__()
        self.T, self.decay, self.floor = T, decay, floor
        # Bins are narrow at small t, where the profile is steep.
        edges = torch.unique((T * torch.linspace(0, 1, min(bins, T) + 1, dtype=torch.float64) ** 2).ceil().long())
        # Bin k holds t = edges[k] + 1 … edges[k + 1].
        self.register_buffer("edges", edges, persistent=False)
        self.register_buffer("mean_square", torch.ones(len(edges) - 1, dtype=torch.float64))

    def bin_of(self, t: Tensor) -> Tensor:
        """The bin of each t."""
        return torch.searchsorted(self.edges, t, side="left") - 1

    def probabilities(self) -> Tensor:
        """p(bin), float64."""
        share = (self.edges[1:] - self.edges[:-1]).double() / self.T
        weight = share * self.mean_square.sqrt()
        return (1 - self.floor) * weight / weight.sum() + self.floor * share

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t and the importance weight 1/(T p(t)) from uniforms u in [0, 1), by inversion.

        Args:
            u: shape (B,).

        Returns:
            t in 1 … T; weights with E[weight · f(t)] = mean of f over t; and τ, uniform in [t − 1, t), for continuous
            time; all of shape (B,).
        """
        p = self.probabilities()
        upper = p.cumsum(0)
        bins = torch.searchsorted(upper, u.double(), side="right").clamp(max=len(p) - 1)
        inside = ((u - (upper - p)[bins]) / p[bins]).clamp(0, 1 - 1e-9)
        width = self.edges[1:] - self.edges[:-1]
        place = self.edges[bins] + inside * width[bins]
        return place.long() + 1, width[bins] / (self.T * p[bins]), place

    @torch.no_grad()
    def update(self, t: Tensor, loss: Tensor) -> None:
        """Update the profile with a batch's losses, shape (B,), each at its t; ignore those that are not finite."""
        loss, bins = loss.detach().double(), self.bin_of(t)
        finite = loss.isfinite()
        count = torch.zeros_like(self.mean_square).index_add_(0, bins, finite.double())
        total = torch.zeros_like(count).index_add_(0, bins, loss.square().where(finite, 0.0))
        keep = self.decay**count  # 1 where no loss was seen
        self.mean_square.copy_(keep * self.mean_square + (1 - keep) * total / count.clamp(min=1.0))
