"""From noise to images: one ``step`` from x_t to x_s per sampler, and one loop for all of them.

A sampler sees a denoiser, never a network: whatever the network predicts has been turned into x̂_0 and ε̂ before.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nelbo.bounds import VARIANCES
from nelbo.diffusion import Denoised, Denoiser, Gaussian, Process, along
from nelbo.errors import InputError

POINTS = 24
"""Of Gauss's rule, for integrals over one step."""


class Before(NamedTuple):
    """The step before this one: its t, shape (B,), what the denoiser said there, and of what; and the one before it."""

    t: Tensor
    denoised: Denoised
    x: Tensor | None = None
    earlier: Before | None = None


class Sampler(ABC):
    """One rule to go from x_t to x_s, s < t."""

    def corrected(self, x_t: Tensor, denoised: Denoised, t: Tensor, before: Before | None) -> Tensor:
        """x_t in the light of what the denoiser says of it; as it is, unless a rule says otherwise."""
        return x_t

    @abstractmethod
    def step(self, x_t: Tensor, denoised: Denoised, t: Tensor, s: Tensor, before: Before | None = None) -> Gaussian:
        """p(x_s | x_t), given what the denoiser says of x_t.

        Args:
            x_t: shape (B, …).
            denoised: x̂_0 and ε̂.
            t, s: integers (B,), 0 ≤ s < t ≤ T.
            before: the step before, for a rule that looks back; None at the first.
        """


class Ancestral(Sampler):
    """Algorithm 2 of Ho et al. 2020: x_s ~ N(μ̃(x̂_0, x_t), σ²), with no noise at the last step.

    Over all T steps it is the model whose bound is scored; over fewer, the same rule on the coarser chain.

    Args:
        process: the forward process.
        reverse_variance: σ², by its name in :data:`nelbo.bounds.VARIANCES`.
    """

    def __init__(self, process: Process, reverse_variance: str) -> None:
        self.process, self.variance = process, VARIANCES[reverse_variance]

    def step(self, x_t: Tensor, denoised: Denoised, t: Tensor, s: Tensor, before: Before | None = None) -> Gaussian:
        """N(μ̃(x̂_0, x_t), σ²), a point at s = 0; it does not look back."""
        return self.variance.step(self.process, denoised, x_t, t, s)


class DPMSolver(Sampler):
    """DPM-Solver++(2M), a two-step method of second order for the probability flow (Lu et al. 2022, algorithm 2).

    With λ = ½ ln SNR, h = λ_s − λ_t, r = (λ_t − λ_before)/h:

        x_s = √(1−ᾱ_s)/√(1−ᾱ_t) x_t − √ᾱ_s (e^{−h} − 1) D,   D = x̂_0 + (x̂_0 − x̂_0^before)/(2r)

    The first step, and the last to s = 0, where λ is infinite and x_0 is x̂_0 itself, are of first order: DDIM with
    η = 0.

    Args:
        process: the forward process.
    """

    def __init__(self, process: Process) -> None:
        self.process = process

    def step(self, x_t: Tensor, denoised: Denoised, t: Tensor, s: Tensor, before: Before | None = None) -> Gaussian:
        """A point: the rule adds no noise."""
        table = self.process.schedule
        gamma = table.gamma  # λ = −γ/2
        h = 0.5 * (gamma[t.cpu()] - gamma[s.cpu()])
        target = denoised.x_0
        if before is not None:
            back = 0.5 * (gamma[before.t.cpu()] - gamma[t.cpu()])
            weight = torch.where(s.cpu() > 0, 0.5 * h / back, torch.zeros_like(h))
            shape = (-1, *[1] * (x_t.ndim - 1))
            target = target + weight.to(x_t).reshape(shape) * (denoised.x_0 - before.denoised.x_0)
        shrink = along(table.noise_rate, s, x_t) / along(table.noise_rate, t, x_t)
        gain = -torch.expm1(-h).to(x_t).reshape(-1, *[1] * (x_t.ndim - 1))
        mean = shrink * x_t + along(table.signal_rate, s, x_t) * gain * target
        return Gaussian(mean, torch.zeros_like(shrink))


class DDIM(Sampler):
    """Denoising diffusion implicit models (Song et al. 2021 (12)); their α_t is ᾱ_t here.

    x_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ noise,   σ² = η² (1 − ᾱ_s)/(1 − ᾱ_t) · (1 − ᾱ_t/ᾱ_s).
    η = 0 is deterministic; η = 1 is :class:`Ancestral` with σ² = β̃.

    Args:
        process: the forward process.
        eta: η in [0, 1].
    """

    def __init__(self, process: Process, eta: float = 0.0) -> None:
        if not 0.0 <= eta <= 1.0:
            raise InputError("--eta", f"{eta} is not between 0 and 1")
        self.process = process
        self.eta = eta

    def step(self, x_t: Tensor, denoised: Denoised, t: Tensor, s: Tensor, before: Before | None = None) -> Gaussian:
        """N(√ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂, σ²)."""
        table = self.process.schedule
        _, beta = self.process.coarse(t, s)
        noise_s, noise_t = table.noise_var[s.cpu()], table.noise_var[t.cpu()]
        var = self.eta**2 * noise_s / noise_t * beta
        shape = (-1, *[1] * (x_t.ndim - 1))
        direction = (noise_s - var).clamp(min=0).sqrt().to(x_t).reshape(shape)
        mean = along(table.signal_rate, s, x_t) * denoised.x_0 + direction * denoised.eps
        return Gaussian(mean, var.to(x_t).reshape(shape))


class UniPC(Sampler):
    """UniPC-2, a predictor of second order and a corrector of third (Zhao et al. 2023), with every integral exact.

    With λ = ½ ln SNR and D the polynomial in λ through x̂_0 at some times:

        x_s = √(1−ᾱ_s)/√(1−ᾱ_t) x_t + √ᾱ_s ∫_{λ_t}^{λ_s} e^{λ − λ_s} D(λ) dλ

    The predictor's times are t and the one before. Once x̂_0 is known at s, which the next step needs anyway, the
    corrector walks from t to s again with that among its times. The last step, to s = 0 where λ is infinite, gives x̂_0.

    Args:
        process: the forward process.
    """

    def __init__(self, process: Process) -> None:
        self.process = process

    def corrected(self, x_t: Tensor, denoised: Denoised, t: Tensor, before: Before | None) -> Tensor:
        """The step that led to t, walked again."""
        if before is None or before.x is None:
            return x_t
        return self.walk(before.x, before.t, t, [Before(t, denoised), before, before.earlier])

    def step(self, x_t: Tensor, denoised: Denoised, t: Tensor, s: Tensor, before: Before | None = None) -> Gaussian:
        """A point: the rule adds no noise."""
        here = Before(t, denoised)
        mean = torch.where(
            (s > 0).reshape(-1, *[1] * (x_t.ndim - 1)),
            self.walk(x_t, t, s.clamp(min=1), [here, before]),
            denoised.x_0,
        )
        return Gaussian(mean, torch.zeros_like(mean[:, :1]))

    def walk(self, x_t: Tensor, t: Tensor, s: Tensor, known: list[Before | None]) -> Tensor:
        """x_s from x_t, with x̂_0 the polynomial through what is known of it."""
        table = self.process.schedule
        nodes = [node for node in known if node is not None]
        times = torch.stack([-0.5 * table.gamma[node.t.cpu()] for node in nodes], 1)
        start, end = (-0.5 * table.gamma[each.cpu()] for each in (t, s))
        weights = exponential_weights(times, start, end).to(x_t)
        target = sum(
            weights[:, k].reshape(-1, *[1] * (x_t.ndim - 1)) * node.denoised.x_0 for k, node in enumerate(nodes)
        )
        shrink = along(table.noise_rate, s, x_t) / along(table.noise_rate, t, x_t)
        return shrink * x_t + along(table.signal_rate, s, x_t) * target


def exponential_weights(times: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """w_k = ∫ e^{λ − end} ℓ_k(λ) dλ from start to end, ℓ_k being Lagrange's polynomials at these times.

    By Gauss's rule with so many points that nothing is left but round-off.

    Args:
        times: λ_k, different from each other, float64, shape (B, K).
        start, end: float64, shape (B,).

    Returns:
        float64, shape (B, K).
    """
    places, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(POINTS))
    half = 0.5 * (end - start)[:, None]
    at = start[:, None] + half * (1 + places)
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
    """Heun's method of second order for the probability flow (Karras et al. 2022, algorithm 1, no noise added).

    In x̄ = x/√ᾱ and σ = √((1 − ᾱ)/ᾱ) the flow is dx̄/dσ = ε̂. A step takes the mean slope of both its ends, and so two
    evaluations; the last one, to σ = 0, takes one.

    Args:
        process: the forward process.
        denoiser: (x_s, s) → x̂_0 and ε̂ at the other end.
    """

    def __init__(self, process: Process, denoiser: Denoiser) -> None:
        self.process, self.denoiser = process, denoiser

    def step(self, x_t: Tensor, denoised: Denoised, t: Tensor, s: Tensor, before: Before | None = None) -> Gaussian:
        """A point: the rule adds no noise."""
        table = self.process.schedule
        signal_t, signal_s = along(table.signal_rate, t, x_t), along(table.signal_rate, s, x_t)
        change = along(table.noise_rate / table.signal_rate, s, x_t) - along(
            table.noise_rate / table.signal_rate, t, x_t
        )
        there = signal_s * (x_t / signal_t + change * denoised.eps)
        if bool((s > 0).any()):
            at_end = self.denoiser(there, s.clamp(min=1))
            slope = torch.where((s > 0).reshape(change.shape), 0.5 * (denoised.eps + at_end.eps), denoised.eps)
            there = signal_s * (x_t / signal_t + change * slope)
        return Gaussian(there, torch.zeros_like(change))


class State(NamedTuple):
    """Where a sampling run stands: x at step s, and the denoised image that led there."""

    s: int
    x: Tensor
    denoised: Denoised


def times(T: int, steps: int) -> list[int]:
    """T = t_1 > t_2 > … > 0: ``steps`` steps, evenly spaced up to rounding.

    >>> times(1000, 4)
    [1000, 750, 500, 250, 0]

    Raises:
        InputError: steps < 1 or steps > T.
    """
    if not 1 <= steps <= T:
        raise InputError("--steps", f"{steps} is not between 1 and the model's T = {T}")
    return [round(T * (steps - k) / steps) for k in range(steps + 1)]


def karras_times(gamma: Tensor, steps: int, rho: float = 7.0) -> list[int]:
    """T = t_1 > t_2 > … > 0: those nearest to equal steps in σ^{1/ρ}, σ = e^{γ/2}  [Karras et al. 2022 (5)].

    Args:
        gamma: γ_t for t = 1 … T, increasing.
        steps: how many; fewer where two would meet in one t.
        rho: ρ; the larger, the more of the steps are at low noise.

    Raises:
        InputError: steps < 1 or steps > T.
    """
    times(len(gamma), steps)  # refuses what cannot be
    low, high = (math.exp(float(end) / (2 * rho)) for end in (gamma[0], gamma[-1]))
    roots = torch.linspace(high, low, steps, dtype=torch.float64)
    return nearest_times(gamma, 2 * rho * roots.log())


def cosine_times(gamma: Tensor, steps: int) -> list[int]:
    """T = t_1 > t_2 > … > 0: those nearest to equal steps of u in γ = 2 ln tan(π u/2), where ᾱ is cos²(π u/2).

    Args:
        gamma: γ_t for t = 1 … T, increasing.
        steps: how many.

    Raises:
        InputError: steps > T, or two of them would meet in one t.
    """
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    found = nearest_times(gamma, 2 * (torch.pi / 2 * u).tan().log())
    if len(found) != steps + 1:
        raise InputError("--teacher-steps", f"{steps} steps are too many for the {len(gamma)} of the model")
    return found


def nearest_times(gamma: Tensor, wanted: Tensor) -> list[int]:
    """T, then the t nearest to all but the first of the wanted γ, falling, each once, and 0."""
    T = len(gamma)
    nearest = (gamma.double()[None, :] - wanted[1:, None]).abs().argmin(1) + 1
    return [T, *sorted({int(t) for t in nearest} - {T}, reverse=True), 0]


def clipped(process: Process, denoised: Denoised, x_t: Tensor, t: Tensor) -> Denoised:
    """The same view of x_t with x̂_0 held to [−1, 1], and the ε̂ that belongs to it."""
    table = process.schedule
    x_0 = denoised.x_0.clamp(-1.0, 1.0)
    eps = (x_t - along(table.signal_rate, t, x_t) * x_0) / along(table.noise_rate, t, x_t)
    return denoised._replace(x_0=x_0, eps=eps)


def trajectory(
    sampler: Sampler,
    denoiser: Denoiser,
    x_T: Tensor,
    grid: list[int],
    noise: Callable[[int], Tensor],
    clip: Process | None = None,
) -> Iterator[State]:
    """Walk from x_T down the grid, yielding the state after every step.

    Args:
        sampler: the rule of one step.
        denoiser: (x_t, t) → x̂_0 and ε̂.
        x_T: the start, standard normal, shape (B, …).
        grid: T = t_1 > … > 0, as :func:`times` makes it.
        noise: step number (0, 1, …) → standard normal noise of x_T's shape; asked only where a step adds noise.
        clip: the process, if x̂_0 is to be held to [−1, 1]; None leaves it as it is.
    """
    x, before = x_T, None
    for number, (now, then) in enumerate(pairwise(grid)):
        t = torch.full((x.shape[0],), now, device=x.device)
        s = torch.full_like(t, then)
        denoised = denoiser(x, t)
        if clip is not None:
            denoised = clipped(clip, denoised, x, t)
        x = sampler.corrected(x, denoised, t, before)
        law = sampler.step(x, denoised, t, s, before)
        before = Before(t, denoised, x, before and before._replace(earlier=None))
        x = law.sample(noise(number)) if bool((law.var > 0).any()) else law.mean
        yield State(then, x, denoised)
