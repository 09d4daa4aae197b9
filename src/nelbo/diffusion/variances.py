"""The variance of the reverse step p_θ(z_s|z_t): β or β̃ (DDPM, section 3.2), learned between them, or by moments.

    KL(q(z_s|z_t,x_0) ‖ p_θ(z_s|z_t)) = ½ (e^{γ_t − γ_s} − 1) β̃/σ² ‖ε − ε̂‖² + (D/2)(β̃/σ² − 1 + ln(σ²/β̃))

[DDPM (8), (12); with σ² = β̃, VDM (14)]   learned: ln σ² = v ln β + (1 − v) ln β̃   [Nichol & Dhariwal 2021 (15)]

By moments, σ² = β̃ + c² Var(x|z_t) with μ̃ = c x + …: the variance of ∫ q(z_s|z_t, x) p(x|z_t) dx for each pixel, the
best one for this mean  [Bao et al. 2022, "Analytic-DPM", theorem 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised
from nelbo.diffusion.process import image_gain, noise_var, on_device, per_image, posterior, posterior_var, step_var
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

    def prepared(self, denoised: Denoised, gamma_t: Tensor) -> Denoised:
        """The denoiser's result with all that the steps from z_t to any z_s share; by default unchanged."""
        return denoised

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
        return self.pixel_terms(denoised, eps, gamma_s, gamma_t).flatten(1).sum(1)

    def pixel_terms(self, denoised: Denoised, eps: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        """The same of each pixel, shape (B, …): the laws are independent over pixels, so the term is a sum."""
        error = (eps - denoised.eps).square()
        var, exact = self.var(denoised, gamma_s, gamma_t), per_image(posterior_var(gamma_s, gamma_t), eps)
        weight = per_image(step_weight(gamma_s, gamma_t), eps) * (exact / var)
        return weight * error + 0.5 * kl_of_variances(exact, var)


class PosteriorVariance(ReverseVariance):
    """σ² = β̃, the posterior's variance."""

    def var(self, denoised: Denoised, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        return per_image(posterior_var(gamma_s, gamma_t), denoised.x_0)

    def pixel_terms(self, denoised: Denoised, eps: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        """½ (e^{γ_t − γ_s} − 1) (ε − ε̂)², in nats, shape (B, …)."""
        return per_image(step_weight(gamma_s, gamma_t), eps) * (eps - denoised.eps).square()


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


class MomentsVariance(ReverseVariance):
    """σ² = β̃ + c² Var(x|z_t) for each pixel, with Var(x|z_t) of the denoiser's law over levels."""

    def image_var(self, denoised: Denoised, gamma_t: Tensor) -> Tensor:
        """Var(x|z_t) about x̂_0 of each pixel, shape (B, …).

        Args:
            denoised: the denoiser's result at z_t.
            gamma_t: shape (B,).
        """
        assert denoised.law is not None
        return denoised.law.var().to(denoised.x_0)

    def var(self, denoised: Denoised, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        of_image = self.image_var(denoised, gamma_t) if denoised.var is None else denoised.var
        gain = image_gain(gamma_s, gamma_t) * gamma_s.isfinite()
        spread = per_image(gain.square(), denoised.x_0) * of_image
        return PosteriorVariance().var(denoised, gamma_s, gamma_t) + spread

    def prepared(self, denoised: Denoised, gamma_t: Tensor) -> Denoised:
        return denoised._replace(var=self.image_var(denoised, gamma_t))


class LearnedMoments(MomentsVariance):
    """By moments, with Var(x|z_t) from the σ² that a chain has learned for its own step to z_{t−1}.

    Var(x|z_t) = (σ² − β̃)/c², 0 if that is negative, with σ², β̃ and c of the chain's own step.

    Args:
        gammas: −∞, γ_1, …, γ_T of the chain; γ_t must be one of them.
    """

    def __init__(self, gammas: Tensor) -> None:
        self.gammas = gammas

    def image_var(self, denoised: Denoised, gamma_t: Tensor) -> Tensor:
        grid = on_device(self.gammas, gamma_t.device)
        before = grid[(torch.searchsorted(grid, gamma_t.double().contiguous()) - 1).clamp(min=0)]
        excess = LearnedVariance().var(denoised, before, gamma_t) - per_image(
            posterior_var(before, gamma_t), denoised.x_0
        )
        return excess.clamp(min=0) / per_image(image_gain(before, gamma_t).square(), denoised.x_0)


def squared_error(eps: Tensor, eps_hat: Tensor) -> Tensor:
    """‖ε − ε̂‖² of each image, shape (B,)."""
    return (eps - eps_hat).square().flatten(1).sum(1)


VARIANCES: dict[str, ReverseVariance] = {
    "beta": ForwardVariance(),
    "beta_tilde": PosteriorVariance(),
    "learned": LearnedVariance(),
    "moments": MomentsVariance(),
}
"""Every reverse variance by name."""
