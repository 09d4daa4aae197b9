"""The steps of a chain with the lowest bound, by dynamic programming over measured costs (Watson et al. 2021).

The bound of a chain γ_1 < … < γ_K is a sum over neighbours, for any γ from one set:

    bound(γ_1, …, γ_K) = R(γ_1) + Σ_k C(γ_k, γ_{k+1}) + P(γ_K)

with R the reconstruction term, C(γ_s, γ_t) = E KL(q(z_s|z_t, x) ‖ p_θ(z_s|z_t)) and P the prior term. One network
evaluation at each γ_t gives the costs of the steps to every γ_s. The best path of each length follows by recursion:
V_1(t) = R(t), V_{k+1}(t) = min_s V_k(s) + C(s, t), and the result ends where V_K(t) + P(t) is lowest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.diffusion.bound import DiffusionBound
from nelbo.diffusion.process import diffuse, on_device, prior_term
from nelbo.diffusion.schedules import chain_of
from nelbo.diffusion.variances import ReverseVariance
from nelbo.errors import InputError
from nelbo.rng import Draws, Stream
from nelbo.theory.likelihoods import to_default_dtype, to_unit

GRID = 64
"""The number of γ among which steps are chosen."""


class StepCosts(NamedTuple):
    """The terms of the bound of every chain over n values of γ, averaged over images, in nats, float64.

    Attributes:
        gammas: γ, increasing, shape (n,).
        reconstruction: R, shape (n,); +∞ where a chain cannot begin.
        steps: C, with row s and column t, shape (n, n); +∞ for s ≥ t.
        prior: P, shape (n,).
    """

    gammas: Tensor
    reconstruction: Tensor
    steps: Tensor
    prior: Tensor

    def best(self, count: int) -> Tensor:
        """−∞, γ_1, …, γ_K of the chain with the lowest bound.

        Args:
            count: K, the number of latents: network evaluations per image.

        Raises:
            InputError: there are fewer than K values of γ.
        """
        if not 1 <= count <= len(self.gammas):
            raise InputError("steps", f"{count} is not between 1 and {len(self.gammas)}, the number of measured γ")
        value, before = self.reconstruction, []
        for _ in range(count - 1):
            value, came_from = (value[:, None] + self.steps).min(0)
            before.append(came_from)
        place = int((value + self.prior).argmin())
        path = [place]
        for came_from in reversed(before):
            path.append(int(came_from[path[-1]]))
        return chain_of(self.gammas[path[::-1]])

    def bound(self, gammas: Tensor) -> float:
        """The bound of a chain −∞, γ_1, …, γ_K of measured γ, in nats."""
        path = torch.searchsorted(self.gammas, gammas[1:].contiguous())
        between = self.steps[path[:-1], path[1:]].sum()
        return float(self.reconstruction[path[0]] + between + self.prior[path[-1]])


def refined(gammas: Tensor, count: int) -> Tensor:
    """A chain of more latents with the density of steps of a given chain: γ interpolated at even places.

    Args:
        gammas: −∞, γ_1, …, γ_n.
        count: K > n.

    Returns:
        −∞, γ_1, …, γ_K, float64.
    """
    place = torch.linspace(0, len(gammas) - 2, count, dtype=torch.float64)
    low = place.long().clamp(max=len(gammas) - 3)
    latents = gammas[1:]
    return chain_of(latents[low] + (place - low) * (latents[low + 1] - latents[low]))


def measured_costs(
    bound: DiffusionBound, variance: ReverseVariance, gammas: Tensor, x: Tensor, draws: Draws
) -> StepCosts:
    """The costs of some images, from one z at each γ.

    Args:
        bound: the denoiser, decoder and levels.
        variance: σ² of the reverse steps.
        gammas: γ, increasing, float64, shape (n,).
        x: integer levels, shape (B, C, H, W).
        draws: the images' random numbers.

    Returns:
        The mean costs of the images. A chain can begin at any γ with a categorical decoder, else at the first γ.
    """
    x_0, n = to_unit(x, bound.levels).double(), len(gammas)
    noise, grid = draws.normal_iter(Stream.SCORE_NOISE, bound.shape), on_device(gammas, x.device)
    reconstruction = torch.full((n,), math.inf, dtype=torch.float64)
    steps = torch.full((n, n), math.inf, dtype=torch.float64)
    for t in range(n):
        gamma, eps = grid[t].expand(len(x)), next(noise).double()
        z = to_default_dtype(diffuse(x_0, gamma, eps))
        if t == 0 or not bound.decoder.rare_crossings:
            nll = bound.decoder.nll(x, bound.denoiser(z, gamma), z, gamma)
            reconstruction[t] = nll.double().flatten(1).sum(1).mean()
        denoised = variance.prepared(bound.denoise(z, gamma), gamma)
        for s in range(t):
            steps[s, t] = variance.diffusion_term(denoised, eps, grid[s].expand(len(x)), gamma).mean()
    prior = torch.stack([prior_term(x_0, gamma).mean().cpu() for gamma in gammas])
    return StepCosts(gammas, reconstruction, steps, prior)
