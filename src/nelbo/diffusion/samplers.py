"""From noise to images: each sampler has one ``step`` from z_t to z_s, and one loop runs all samplers.

A sampler receives x̂_0 and ε̂ instead of a network, and γ as its time; γ_s = −∞ is the image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised, Denoiser, clipped
from nelbo.diffusion.process import noise_rate, per_image, posterior_var, rates, signal_rate
from nelbo.diffusion.variances import ReverseVariance
from nelbo.errors import InputError
from nelbo.theory.normal import Gaussian

__all__ = [
    "DDIM",
    "Ancestral",
    "Before",
    "DPMSolver",
    "Denoised",
    "Gaussian",
    "Heun",
    "Sampler",
    "UniPC",
    "rates",
    "trajectory",
]

POINTS = 24
"""Points of the Gauss–Legendre rule for integrals over one step."""


class Before(NamedTuple):
    """An earlier step: its γ, shape (B,), the denoiser's result there, its z, and the step before it."""

    gamma: Tensor
    denoised: Denoised
    z: Tensor | None = None
    earlier: Before | None = None


class Sampler(ABC):
    """A rule for the step from z_t to z_s, γ_s < γ_t."""

    def corrected(self, z_t: Tensor, denoised: Denoised, gamma_t: Tensor, before: Before | None) -> Tensor:
        """z_t after a correction by the denoiser's result at z_t; by default unchanged."""
        return z_t

    @abstractmethod
    def step(
        self, z_t: Tensor, denoised: Denoised, gamma_t: Tensor, gamma_s: Tensor, before: Before | None = None
    ) -> Gaussian:
        """p(z_s | z_t), given the denoiser's result at z_t.

        Args:
            z_t: shape (B, …), in the dtype of the network.
            denoised: x̂_0, clipped if sampling clips, and ε̂, each of z_t's shape and dtype.
            gamma_t, gamma_s: float64, shape (B,), γ_s < γ_t; −∞ is the image. :func:`~nelbo.diffusion.process.rates` of
                γ and z_t gives √ᾱ and √(1 − ᾱ), of a shape to multiply z_t.
            before: the previous step, for multistep rules; None at the first step.

        Returns:
            Mean and variance of z_s, of shapes that broadcast with z_t; variance 0 is a point.
        """


class Ancestral(Sampler):
    """Algorithm 2 of Ho et al. 2020: z_s ~ N(μ̃(x̂_0, z_t), σ²), with no noise at the last step.

    With all T steps this samples the model whose bound is scored; with fewer, it is the same rule on the coarser chain.

    Args:
        variance: σ².
    """

    def __init__(self, variance: ReverseVariance) -> None:
        self.variance = variance

    def step(
        self, z_t: Tensor, denoised: Denoised, gamma_t: Tensor, gamma_s: Tensor, before: Before | None = None
    ) -> Gaussian:
        """N(μ̃(x̂_0, z_t), σ²), a point at γ_s = −∞; ``before`` is not used."""
        return self.variance.step(denoised, z_t, gamma_s, gamma_t)


class DPMSolver(Sampler):
    """DPM-Solver++(2M), a two-step method of second order for the probability flow (Lu et al. 2022, algorithm 2).

    With λ = ½ ln SNR = −γ/2, h = λ_s − λ_t, r = (λ_t − λ_before)/h:

        z_s = √(1−ᾱ_s)/√(1−ᾱ_t) z_t − √ᾱ_s (e^{−h} − 1) D,   D = x̂_0 + (x̂_0 − x̂_0^before)/(2r)

    Two steps are of first order, DDIM with η = 0: the first step, and the last step to the image, where λ_s = ∞ and
    z_s = x̂_0.
    """

    def step(
        self, z_t: Tensor, denoised: Denoised, gamma_t: Tensor, gamma_s: Tensor, before: Before | None = None
    ) -> Gaussian:
        """A point: the rule adds no noise."""
        h, target = 0.5 * (gamma_t - gamma_s), denoised.x_0
        if before is not None:
            back = 0.5 * (before.gamma - gamma_t)
            weight = torch.where(gamma_s.isfinite(), 0.5 * h / back, torch.zeros_like(h))
            target = target + per_image(weight, z_t) * (denoised.x_0 - before.denoised.x_0)
        shrink = per_image(noise_rate(gamma_s) / noise_rate(gamma_t), z_t)
        gain = per_image(-signal_rate(gamma_s) * torch.expm1(-h), z_t)
        return Gaussian(shrink * z_t + gain * target, torch.zeros_like(shrink))


class DDIM(Sampler):
    """Denoising diffusion implicit models (Song et al. 2021 (12)); their α_t is ᾱ_t here.

    z_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ noise,   σ² = η² β̃.
    η = 0 is deterministic; η = 1 is :class:`Ancestral` with σ² = β̃.

    Args:
        eta: η in [0, 1].

    Raises:
        InputError: η is outside [0, 1].
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0.0 <= eta <= 1.0:
            raise InputError("eta", f"{eta} is not between 0 and 1")
        self.eta = eta

    def step(
        self, z_t: Tensor, denoised: Denoised, gamma_t: Tensor, gamma_s: Tensor, before: Before | None = None
    ) -> Gaussian:
        """N(√ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂, σ²)."""
        var = self.eta**2 * posterior_var(gamma_s, gamma_t)
        direction = (torch.sigmoid(gamma_s) - var).clamp(min=0).sqrt()
        mean = per_image(signal_rate(gamma_s), z_t) * denoised.x_0 + per_image(direction, z_t) * denoised.eps
        return Gaussian(mean, per_image(var, z_t))


class UniPC(Sampler):
    """UniPC-2, a predictor of second order and a corrector of third order (Zhao et al. 2023), with exact integrals.

    With λ = ½ ln SNR = −γ/2 and D the polynomial in λ that interpolates x̂_0 at some nodes:

        z_s = √(1−ᾱ_s)/√(1−ᾱ_t) z_t + √ᾱ_s ∫_{λ_t}^{λ_s} e^{λ − λ_s} D(λ) dλ

    The predictor's nodes are t and the previous step. The next step needs x̂_0 at s; with it as an additional node, the
    corrector repeats the step from t to s. The last step, to the image, gives x̂_0.
    """

    def corrected(self, z_t: Tensor, denoised: Denoised, gamma_t: Tensor, before: Before | None) -> Tensor:
        """The step that led to t, repeated with x̂_0 at t as a node."""
        if before is None or before.z is None:
            return z_t
        return self.walk(before.z, before.gamma, gamma_t, [Before(gamma_t, denoised), before, before.earlier])

    def step(
        self, z_t: Tensor, denoised: Denoised, gamma_t: Tensor, gamma_s: Tensor, before: Before | None = None
    ) -> Gaussian:
        """A point: the rule adds no noise."""
        latent = gamma_s.isfinite()
        end = torch.where(latent, gamma_s, gamma_t - 1.0)  # any finite value: not used at the image
        walked = self.walk(z_t, gamma_t, end, [Before(gamma_t, denoised), before])
        mean = torch.where(per_image(latent, z_t).bool(), walked, denoised.x_0)
        return Gaussian(mean, torch.zeros_like(mean[:, :1]))

    def walk(self, z_t: Tensor, gamma_t: Tensor, gamma_s: Tensor, known: list[Before | None]) -> Tensor:
        """z_s from z_t, with x̂_0 interpolated through the known nodes."""
        nodes = [node for node in known if node is not None]
        places = torch.stack([-0.5 * node.gamma for node in nodes], 1)
        weights = exponential_weights(places, -0.5 * gamma_t, -0.5 * gamma_s)
        target = sum(per_image(weights[:, k], z_t) * node.denoised.x_0 for k, node in enumerate(nodes))
        shrink = per_image(noise_rate(gamma_s) / noise_rate(gamma_t), z_t)
        return shrink * z_t + per_image(signal_rate(gamma_s), z_t) * target


def exponential_weights(times: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """w_k = ∫ e^{λ − end} ℓ_k(λ) dλ from start to end, with ℓ_k the Lagrange polynomials of these nodes.

    A Gauss–Legendre rule computes it to round-off.

    Args:
        times: λ_k, all different, float64, shape (B, K).
        start, end: float64, shape (B,).

    Returns:
        The weights, float64, shape (B, K).
    """
    nodes, weights = (torch.from_numpy(part).to(times) for part in np.polynomial.legendre.leggauss(POINTS))
    half = 0.5 * (end - start)[:, None]
    at = start[:, None] + half * (1 + nodes)
    growth = half * weights * torch.exp(at - end[:, None])
    columns = []
    for k in range(times.shape[1]):
        others = [j for j in range(times.shape[1]) if j != k]
        basis = torch.ones_like(at)
        for j in others:
            basis = basis * (at - times[:, j, None]) / (times[:, k, None] - times[:, j, None])
        columns.append((growth * basis).sum(1))
    return torch.stack(columns, 1)


class Heun(Sampler):
    """Heun's method of second order for the probability flow (Karras et al. 2022, algorithm 1, without added noise).

    In z̄ = z/√ᾱ and σ = √((1 − ᾱ)/ᾱ) = e^{γ/2} the flow is dz̄/dσ = ε̂. A step uses the mean slope of its two ends, hence
    two evaluations; the last step, to σ = 0, uses one.

    Args:
        denoiser: (z_s, γ_s) → x̂_0 and ε̂ at the other end.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def step(
        self, z_t: Tensor, denoised: Denoised, gamma_t: Tensor, gamma_s: Tensor, before: Before | None = None
    ) -> Gaussian:
        """A point: the rule adds no noise."""
        (signal_t, _), (signal_s, _) = rates(gamma_t, z_t), rates(gamma_s, z_t)
        change = per_image((0.5 * gamma_s).exp() - (0.5 * gamma_t).exp(), z_t)
        there = signal_s * (z_t / signal_t + change * denoised.eps)
        if bool(gamma_s.isfinite().all()):
            slope = 0.5 * (denoised.eps + self.denoiser(there, gamma_s).eps)
            there = signal_s * (z_t / signal_t + change * slope)
        return Gaussian(there, torch.zeros_like(change))


class State(NamedTuple):
    """The state of sampling: z at γ, and the denoiser's result that led to it."""

    gamma: float
    z: Tensor
    denoised: Denoised


def trajectory(
    sampler: Sampler,
    denoiser: Denoiser,
    z: Tensor,
    gammas: Tensor,
    noise: Callable[[int], Tensor],
    clip: bool = False,
) -> Iterator[State]:
    """Step from the first γ of ``gammas`` to the image, and yield the state after every step.

    Args:
        sampler: the rule of one step.
        denoiser: (z, γ) → x̂_0 and ε̂.
        z: the start, standard normal, shape (B, …).
        gammas: γ_1 > γ_2 > … > −∞, float64, shape (K + 1,).
        noise: step number (0, 1, …) → standard normal noise of z's shape; called only if a step adds noise.
        clip: whether to clamp x̂_0 to [−1, 1].

    Yields:
        The state after each step.

    Raises:
        InputError: ``sampler.step`` does not return a Gaussian.
    """
    before = None
    for number, (now, then) in enumerate(pairwise(gammas.tolist())):
        gamma_t, gamma_s = (torch.full((len(z),), at, dtype=torch.float64, device=z.device) for at in (now, then))
        denoised = denoiser(z, gamma_t)
        if clip:
            denoised = clipped(denoised, z, gamma_t)
        z = sampler.corrected(z, denoised, gamma_t, before)
        law = sampler.step(z, denoised, gamma_t, gamma_s, before)
        if not isinstance(law, Gaussian):
            kind = type(sampler).__name__
            raise InputError("sampler", f"{kind}.step returns a {type(law).__name__}; return Gaussian(mean, variance)")
        before = Before(gamma_t, denoised, z, before and before._replace(earlier=None))
        z = (law.sample(noise(number)) if bool((law.var > 0).any()) else law.mean).to(z.dtype)
        yield State(then, z, denoised)
