"""The deterministic latent of an image by the probability flow, its inverse, and points between latents.

The flow dz̄/dσ = ε̂ in z̄ = z/√ᾱ, σ = e^{γ/2} (Karras et al. 2022) is a bijection between images and latents, and
maps the law of the data to that of z at the largest γ, which is about N(0, I). Heun's method of second order follows it
in both directions, with the same γ. The last step, to the image, is x = x̂_0(z_1); its inverse is the fixed point

    z_1 = √ᾱ_1 x + √(1 − ᾱ_1) ε̂(z_1)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoiser
from nelbo.diffusion.process import rates
from nelbo.diffusion.samplers import Heun, trajectory

ROUNDS = 3
"""Iterations of the fixed point of the last step."""
PARALLEL = 1e-6
"""Below this sine of their angle, two latents are connected by a straight line."""
USUAL = 4 * 0.5**0.5
"""Four standard deviations of the length of a standard normal vector."""


def no_noise(_: int) -> Tensor:
    """The flow adds no noise."""
    raise AssertionError("a deterministic step asked for noise")


def to_latent(denoiser: Denoiser, x: Tensor, gammas: Tensor) -> Tensor:
    """z at the largest γ of each image, by Heun's method.

    Args:
        denoiser: (z, γ) → x̂_0 and ε̂, without clipping.
        x: images in [−1, 1], shape (B, …).
        gammas: γ_1 > … > γ_K > −∞, float64, shape (K + 1,).

    Returns:
        Shape (B, …), from ROUNDS + 2 (K − 1) evaluations.
    """
    upwards = gammas[:-1].flip(0)
    first = torch.full((len(x),), float(upwards[0]), dtype=torch.float64, device=x.device)
    signal, noise = rates(first, x)
    z = signal * x
    for _ in range(ROUNDS):
        z = signal * x + noise * denoiser(z, first).eps
    for state in trajectory(Heun(denoiser), denoiser, z, upwards, no_noise):
        z = state.z
    return z


def from_latent(denoiser: Denoiser, z: Tensor, gammas: Tensor) -> Tensor:
    """The image of each latent: the inverse of :func:`to_latent`, up to the errors of both.

    Args:
        denoiser: (z, γ) → x̂_0 and ε̂, without clipping.
        z: at the largest γ, shape (B, …).
        gammas: γ_1 > … > γ_K > −∞, float64, shape (K + 1,).

    Returns:
        Shape (B, …), from 2 K − 1 evaluations.
    """
    for state in trajectory(Heun(denoiser), denoiser, z, gammas, no_noise):
        z = state.z
    return z


def slerp(z: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """The point at u on a path between two latents that is standard normal at every u.

    Directions a, b go along the great circle (Shoemake 1985), with θ their angle. The radius r of a standard normal
    vector is about N(√(D − ½), ½) (Fisher 1922), so that deviations from it are mixed as independent normal numbers:

        (sin((1 − u) θ) a + sin(u θ) b)/sin θ,   r = ρ + cos(π u/2) δ_a + sin(π u/2) δ_b,   ρ = √(D − ½),   δ = r − ρ

    If the radii were interpolated, too, their variance in the middle would be half as large as it should be. But a
    deviation δ of more than USUAL is not by chance: latents of smooth images are short. Two such radii would leave
    almost none in the middle, so that what exceeds USUAL is interpolated.

    Args:
        z, other: shape (B, …).
        share: u in [0, 1], shape (B,).
    """
    a, b = z.double().flatten(1), other.double().flatten(1)
    r_a, r_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    a, b, u = a / r_a, b / r_b, share.double()[:, None]
    angle = (a * b).sum(1, keepdim=True).clamp(-1.0, 1.0).arccos()
    sine = angle.sin()
    first = torch.where(sine > PARALLEL, ((1 - u) * angle).sin() / sine, 1 - u)
    second = torch.where(sine > PARALLEL, (u * angle).sin() / sine, u)
    middle, turn = (a.shape[1] - 0.5) ** 0.5, 0.5 * math.pi * u
    (d_a, more_a), (d_b, more_b) = (by_chance(r - middle) for r in (r_a, r_b))
    radius = middle + turn.cos() * d_a + turn.sin() * d_b + (1 - u) * more_a + u * more_b
    return (radius * (first * a + second * b)).reshape(z.shape).to(z.dtype)


def by_chance(deviation: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a deviation up to USUAL, and what exceeds it."""
    usual = deviation.clamp(-USUAL, USUAL)
    return usual, deviation - usual
