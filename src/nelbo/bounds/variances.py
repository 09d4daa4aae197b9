"""The variance of the reverse step p_θ(x_s|x_t): fixed to β or β̃ (DDPM, section 3.2), or learned between them.

ln σ² = v ln β + (1 − v) ln β̃                              Nichol & Dhariwal 2021 (15)
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nelbo.bounds.denoising import REVERSE_VARIANCES, denoising_weight, diffusion_term
from nelbo.diffusion import Denoised, Gaussian, Process, along
from nelbo.divergences import kl_of_variances


class ReverseVariance(Protocol):
    """σ², as a reverse step and as a term of the bound."""

    def step(self, process: Process, denoised: Denoised, x_t: Tensor, t: Tensor, s: Tensor | None = None) -> Gaussian:
        """p_θ(x_s|x_t) = N(μ̃(x̂_0, x_t), σ²), a point at s = 0; s = t − 1 unless given.

        Args:
            process: the forward process.
            denoised: what the denoiser says of x_t.
            x_t: shape (B, …).
            t, s: integers (B,), 0 ≤ s < t ≤ T.
        """

    def diffusion_term(self, process: Process, denoised: Denoised, eps: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_{t−1}|x_t,x_0) ‖ p_θ(x_{t−1}|x_t)) at one t ≥ 2 per example, in nats, shape (B,).

        Args:
            process: the forward process.
            denoised: what the denoiser says of x_t.
            eps: ε, the noise that made x_t, shape (B, …).
            t: shape (B,).
        """


class FixedVariance:
    """σ² = β or σ² = β̃.

    Args:
        name: ``beta`` or ``beta_tilde``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def step(self, process: Process, denoised: Denoised, x_t: Tensor, t: Tensor, s: Tensor | None = None) -> Gaussian:
        """As :class:`ReverseVariance` says  [DDPM (1), with the mean of (7)]."""
        posterior = process.posterior(denoised.x_0, x_t, t, s)
        if self.name == "beta_tilde":
            return posterior
        s = t - 1 if s is None else s
        noisy = process.coarse(t, s)[1].to(x_t.device) * (s > 0)
        return Gaussian(posterior.mean, noisy.to(x_t.dtype).reshape(posterior.var.shape))

    def diffusion_term(self, process: Process, denoised: Denoised, eps: Tensor, t: Tensor) -> Tensor:
        return diffusion_term(process, REVERSE_VARIANCES[self.name](process.schedule), eps, denoised.eps, t)


class LearnedVariance:
    """ln σ² = v ln β + (1 − v) ln β̃ for each pixel, v being the denoiser's ``fraction``."""

    def var(self, process: Process, fraction: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """σ², of the shape of ``fraction``; zero at s = 0."""
        beta = process.coarse(t, s)[1]
        noise_s, noise_t = (process.schedule.noise_var[at.cpu()] for at in (s, t))
        tiny = torch.finfo(torch.float64).tiny
        low, high = ((beta * part).clamp(min=tiny).log() for part in (noise_s / noise_t, torch.ones_like(beta)))
        shape = (-1, *[1] * (fraction.ndim - 1))
        low, high, inside = (part.to(fraction).reshape(shape) for part in (low, high, s > 0))
        return torch.exp(fraction * high + (1 - fraction) * low) * inside

    def step(self, process: Process, denoised: Denoised, x_t: Tensor, t: Tensor, s: Tensor | None = None) -> Gaussian:
        assert denoised.fraction is not None
        posterior = process.posterior(denoised.x_0, x_t, t, s)
        return Gaussian(posterior.mean, self.var(process, denoised.fraction, t, t - 1 if s is None else s))

    def diffusion_term(self, process: Process, denoised: Denoised, eps: Tensor, t: Tensor) -> Tensor:
        """Σ over pixels of w_t (β̃_t/σ²) (ε − ε̂)² + ½ (β̃_t/σ² − 1 + ln(σ²/β̃_t)), w_t the weight where σ² = β̃_t."""
        assert denoised.fraction is not None
        table = process.schedule
        var = self.var(process, denoised.fraction, t, t - 1)
        posterior_var = along(table.beta_tilde, t, var)
        weight = along(denoising_weight(table, table.beta_tilde), t, var)
        error = weight * (posterior_var / var) * (eps - denoised.eps).square()
        return (error + 0.5 * kl_of_variances(posterior_var, var)).flatten(1).sum(1)


VARIANCES: dict[str, ReverseVariance] = {
    "beta": FixedVariance("beta"),
    "beta_tilde": FixedVariance("beta_tilde"),
    "learned": LearnedVariance(),
}
"""Every reverse variance by name."""
