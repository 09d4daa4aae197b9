"""Variance-preserving diffusion in continuous time, through γ(t) = −ln SNR(t) (Kingma et al. 2021, section 3).

    q(z_t | x) = N(√ᾱ_t x, (1 − ᾱ_t) I),   ᾱ_t = sigmoid(−γ_t),   1 − ᾱ_t = sigmoid(γ_t)

The paper writes α_t for √ᾱ_t and σ_t² for 1 − ᾱ_t. z_0, slightly noisy, is DDPM's x_1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.diffusion.parameterizations import Denoised
from nelbo.schedules import Schedule


def rates(gamma: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ = √sigmoid(−γ) and √(1 − ᾱ) = √sigmoid(γ), shaped (B, 1, …, 1) to multiply ``like``; γ has shape (B,)."""
    shape = (-1, *[1] * (like.ndim - 1))
    signal, noise = (0.5 * F.logsigmoid(sign * gamma.double()) for sign in (-1.0, 1.0))
    return signal.exp().to(like.dtype).reshape(shape), noise.exp().to(like.dtype).reshape(shape)


def diffuse(x: Tensor, gamma: Tensor, eps: Tensor) -> Tensor:
    """z = √ᾱ x + √(1 − ᾱ) ε, a sample of q(z | x) at γ, shape (B,), for standard normal ε."""
    signal, noise = rates(gamma, x)
    return signal * x + noise * eps


def from_x_0(x_0: Tensor, z: Tensor, gamma: Tensor) -> Denoised:
    """Both views of z at γ from x̂_0: ε̂ = (z − √ᾱ x̂_0)/√(1 − ᾱ)."""
    signal, noise = rates(gamma, z)
    return Denoised(x_0, (z - signal * x_0) / noise)


def from_eps(eps: Tensor, z: Tensor, gamma: Tensor) -> Denoised:
    """Both views of z at γ from ε̂: x̂_0 = (z − √(1 − ᾱ) ε̂)/√ᾱ."""
    signal, noise = rates(gamma, z)
    return Denoised((z - noise * eps) / signal, eps)


def from_velocity(v: Tensor, z: Tensor, gamma: Tensor) -> Denoised:
    """Both views of z at γ from v̂: x̂_0 = √ᾱ z − √(1 − ᾱ) v̂, ε̂ = √(1 − ᾱ) z + √ᾱ v̂ (Salimans & Ho 2022)."""
    signal, noise = rates(gamma, z)
    return Denoised(signal * z - noise * v, noise * z + signal * v)


def on_grid(gamma: Tensor) -> Schedule:
    """The DDPM schedule with the same ᾱ at these γ: its x_1, …, x_n are the latents at γ_1 < … < γ_n.

    So T steps from z_1 to z_0 here, with T + 1 values of γ, are T + 1 DDPM steps there.

    Args:
        gamma: strictly increasing, shape (n,).
    """
    log_alpha_bar = F.logsigmoid(-gamma.double())
    before = torch.cat([log_alpha_bar.new_zeros(1), log_alpha_bar[:-1]])
    return Schedule(-torch.expm1(log_alpha_bar - before))
