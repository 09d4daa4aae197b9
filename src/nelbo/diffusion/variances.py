"""The variance of the reverse step p_θ(z_s|z_t): fixed to β or β̃ (DDPM, section 3.2), or learned between them.

    KL(q(z_s|z_t,x_0) ‖ p_θ(z_s|z_t)) = ½ (e^{γ_t − γ_s} − 1) β̃/σ² ‖ε − ε̂‖² + (D/2)(β̃/σ² − 1 + ln(σ²/β̃))

[DDPM (8), (12); with σ² = β̃, VDM (14)]   learned: ln σ² = v ln β + (1 − v) ln β̃   [Nichol & Dhariwal 2021 (15)]
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised
from nelbo.diffusion.process import noise_var, per_image, posterior, posterior_var, step_var
from nelbo.theory.normal import Gaussian, kl_of_variances


def step_weight(gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
    """½ (e^{γ_t − γ_s} − 1), the weight of ‖ε − ε̂‖² in a step's term where σ² = β̃, float64  [VDM (14)]."""
    return 0.5 * torch.expm1(gamma_t.double() - gamma_s.double())


class ReverseVariance(ABC):
    """σ² of a reverse step, and its term of the bound."""

    @abstractmethod
    def var(self, denoised: Denoised, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        """σ² of the step, 0 at γ_s = −∞, in the dtype of x̂_0 and of a shape to multiply it.

        Args:
            denoised: the denoiser's result at z_t.
            gamma_s, gamma_t: shape (B,), γ_s < γ_t.
        """

    def step(self, denoised: Denoised, z_t: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Gaussian:
        """p_θ(z_s|z_t) = N(μ̃(x̂_0, z_t), σ²), a point at γ_s = −∞  [DDPM (1), with the mean of (7)]."""
        mean = posterior(denoised.x_0, z_t, gamma_s, gamma_t).mean
        return Gaussian(mean, self.var(denoised, gamma_s, gamma_t))

    def diffusion_term(self, denoised: Denoised, eps: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        """KL(q(z_s|z_t,x_0) ‖ p_θ(z_s|z_t)) of each image, in nats, shape (B,).

        Args:
            denoised: the denoiser's result at z_t.
            eps: ε, the noise in z_t, shape (B, …).
            gamma_s, gamma_t: shape (B,), both finite.
        """
        error = (eps - denoised.eps).square()
        var, exact = self.var(denoised, gamma_s, gamma_t), per_image(posterior_var(gamma_s, gamma_t), eps)
        weight = per_image(step_weight(gamma_s, gamma_t), eps) * (exact / var)
        return (weight * error + 0.5 * kl_of_variances(exact, var)).flatten(1).sum(1)


class PosteriorVariance(ReverseVariance):
    """σ² = β̃, the posterior's variance."""

    def var(self, denoised: Denoised, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        return per_image(posterior_var(gamma_s, gamma_t), denoised.x_0)

    def diffusion_term(self, denoised: Denoised, eps: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        """½ (e^{γ_t − γ_s} − 1) ‖ε − ε̂‖², in nats, shape (B,)."""
        error = squared_error(eps, denoised.eps)
        return step_weight(gamma_s, gamma_t).to(error) * error


class ForwardVariance(ReverseVariance):
    """σ² = β, the forward step's variance."""

    def var(self, denoised: Denoised, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        return per_image(step_var(gamma_s, gamma_t) * gamma_s.isfinite(), denoised.x_0)


class LearnedVariance(ReverseVariance):
    """ln σ² = v ln β + (1 − v) ln β̃ for each pixel, where v is the denoiser's ``fraction``."""

    def var(self, denoised: Denoised, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        """ln σ² = v ln β + (1 − v) ln β̃, exponentiated."""
        v = denoised.fraction
        assert v is not None
        tiny = torch.finfo(torch.float64).tiny
        high = step_var(gamma_s, gamma_t)
        low = high * (noise_var(gamma_s) / noise_var(gamma_t)).clamp(min=tiny)
        log_low, log_high = per_image(low.clamp(min=tiny).log(), v), per_image(high.log(), v)
        return torch.exp(v * log_high + (1 - v) * log_low) * per_image(gamma_s.isfinite(), v)


def squared_error(eps: Tensor, eps_hat: Tensor) -> Tensor:
    """‖ε − ε̂‖² of each image, shape (B,)."""
    return (eps - eps_hat).square().flatten(1).sum(1)


VARIANCES: dict[str, ReverseVariance] = {
    "beta": ForwardVariance(),
    "beta_tilde": PosteriorVariance(),
    "learned": LearnedVariance(),
}
"""Every reverse variance by name."""
