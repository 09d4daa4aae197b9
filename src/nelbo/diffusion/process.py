"""The forward process and its posterior, in γ = −ln SNR (Ho et al. 2020, section 2; Kingma et al. 2021, section 3).

    ᾱ = sigmoid(−γ),   1 − ᾱ = sigmoid(γ)
    q(z_t | x)      = N(√ᾱ_t x, (1 − ᾱ_t) I)                                       DDPM (4)
    q(z_t | z_s)    = N(√α z_s, β I),  γ_s < γ_t                                   DDPM (2)
    q(z_s | z_t, x) = N(μ̃, β̃ I)                                                    DDPM (6), (7)

with α = ᾱ_t/ᾱ_s and β = 1 − α = (1 − ᾱ_t)(1 − e^{γ_s − γ_t}). At γ = −∞ there is no noise, and z is the image x.
DDPM's x_t is z at γ_t, and its α_t and β_t are those of a single step. VDM writes α_t for √ᾱ_t, DDIM α_t for ᾱ_t.

Every γ has shape (B,) and is float64. Coefficients are computed in float64 and used in the dtype of the images.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.theory.normal import Gaussian, kl_normal

CLEAN = -math.inf
"""γ of an image without noise."""


@functools.lru_cache(maxsize=16)
def on_device(gammas: Tensor, device: torch.device) -> Tensor:
    """A grid of γ on a device; only the first call waits for the copy."""
    return gammas.to(device)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """One number per image, shape (B,), in the dtype and on the device of ``like``, shaped (B, 1, …, 1)."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


def signal_rate(gamma: Tensor) -> Tensor:
    """√ᾱ, float64."""
    return (0.5 * F.logsigmoid(-gamma.double())).exp()


def noise_rate(gamma: Tensor) -> Tensor:
    """√(1 − ᾱ), float64."""
    return (0.5 * F.logsigmoid(gamma.double())).exp()


def noise_var(gamma: Tensor) -> Tensor:
    """1 − ᾱ, float64."""
    return torch.sigmoid(gamma.double())


def step_share(gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
    """1 − e^{γ_s − γ_t} = β/(1 − ᾱ_t), the fraction of the noise at t that the step from s to t adds."""
    return -torch.expm1(gamma_s.double() - gamma_t.double())


def step_var(gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
    """β = 1 − ᾱ_t/ᾱ_s, float64."""
    return noise_var(gamma_t) * step_share(gamma_s, gamma_t)


def step_signal(gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
    """√α = √(ᾱ_t/ᾱ_s), float64."""
    return (0.5 * (F.logsigmoid(-gamma_t.double()) - F.logsigmoid(-gamma_s.double()))).exp()


def posterior_var(gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
    """β̃ = β (1 − ᾱ_s)/(1 − ᾱ_t), float64; 0 at γ_s = −∞  [DDPM (7)]."""
    return noise_var(gamma_s) * step_share(gamma_s, gamma_t)


def image_gain(gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
    """c = √ᾱ_s (1 − e^{γ_s − γ_t}), the coefficient of the image in μ̃, float64; 1 at γ_s = −∞  [DDPM (7)]."""
    return signal_rate(gamma_s) * step_share(gamma_s, gamma_t)


def rates(gamma: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ and √(1 − ᾱ), of shape (B, 1, …, 1) to multiply ``like``, in its dtype."""
    return per_image(signal_rate(gamma), like), per_image(noise_rate(gamma), like)


def diffuse(x: Tensor, gamma: Tensor, eps: Tensor) -> Tensor:
    """z = √ᾱ x + √(1 − ᾱ) ε, a sample of q(z | x) for standard normal ε.

    Args:
        x, eps: shape (B, …).
        gamma: shape (B,).
    """
    signal, noise = rates(gamma, x)
    return signal * x + noise * eps


def marginal(x: Tensor, gamma: Tensor) -> Gaussian:
    """q(z | x) = N(√ᾱ x, (1 − ᾱ) I)  [DDPM (4)]."""
    return Gaussian(per_image(signal_rate(gamma), x) * x, per_image(noise_var(gamma), x))


def transition(z_s: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Gaussian:
    """q(z_t | z_s) = N(√α z_s, β I)  [DDPM (2)].

    Args:
        z_s: shape (B, …).
        gamma_s, gamma_t: shape (B,), γ_s < γ_t.
    """
    return Gaussian(per_image(step_signal(gamma_s, gamma_t), z_s) * z_s, per_image(step_var(gamma_s, gamma_t), z_s))


def posterior(x: Tensor, z_t: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Gaussian:
    """q(z_s | z_t, x) = N(μ̃, β̃ I), the point x at γ_s = −∞  [DDPM (6), (7)].

    μ̃ = √ᾱ_s (1 − e^{γ_s−γ_t}) x + √α (1 − ᾱ_s)/(1 − ᾱ_t) z_t,   β̃ = (1 − ᾱ_s)(1 − e^{γ_s−γ_t})

    Args:
        x: the image, or a denoiser's x̂_0, shape (B, …).
        z_t: shape (B, …).
        gamma_s, gamma_t: shape (B,), γ_s < γ_t.
    """
    c_x = image_gain(gamma_s, gamma_t)
    c_z = step_signal(gamma_s, gamma_t) * noise_var(gamma_s) / noise_var(gamma_t)
    mean = per_image(c_x, z_t) * x + per_image(c_z, z_t) * z_t
    return Gaussian(mean, per_image(posterior_var(gamma_s, gamma_t), z_t))


def bridge(z_prev: Tensor, z_next: Tensor, gamma_prev: Tensor, gamma: Tensor, gamma_next: Tensor) -> Gaussian:
    """q(z | z_prev, z_next), the distribution of a latent given both its neighbours.

    It is N(μ, v I) with α, β of the step to z, α′, β′ of the step from z, and b = β′ + α′β of both steps together:
    μ = (√α β′ z_prev + √α′ β z_next)/b,   v = ββ′/b

    Args:
        z_prev, z_next: shape (B, …).
        gamma_prev, gamma, gamma_next: γ of the three, increasing, shape (B,).
    """
    var, var_next = step_var(gamma_prev, gamma), step_var(gamma, gamma_next)
    both = step_var(gamma_prev, gamma_next)
    c_prev, c_next = step_signal(gamma_prev, gamma) * var_next / both, step_signal(gamma, gamma_next) * var / both
    mean = per_image(c_prev, z_prev) * z_prev + per_image(c_next, z_next) * z_next
    return Gaussian(mean, per_image(var * var_next / both, z_prev))


def prior_term(x: Tensor, gamma_last: Tensor) -> Tensor:
    """KL(q(z | x) ‖ N(0, I)) at the last γ, in nats, shape (B,), without a network evaluation  [DDPM (5), VDM (11)].

    Args:
        x: images, shape (B, …).
        gamma_last: a scalar.
    """
    return prior_pixel_terms(x, gamma_last).flatten(1).sum(1).to(x.dtype)


def prior_pixel_terms(x: Tensor, gamma_last: Tensor) -> Tensor:
    """The same of each pixel, float64, shape (B, …)."""
    q = marginal(x.double(), gamma_last.reshape(1))
    one = torch.ones_like(q.var)
    return kl_normal(q.mean, q.var, torch.zeros_like(one), one)
