"""The forward process and its posterior (Ho et al. 2020, section 2).

    q(x_t | x_{t−1}) = N(√α_t x_{t−1}, β_t I)                                      DDPM (2)
    q(x_t | x_0)     = N(√ᾱ_t x_0, (1 − ᾱ_t) I)                                    DDPM (4)
    q(x_s | x_t, x_0) = N(μ̃, β̃ I),  s < t                                          DDPM (6), (7)

Every conditional is written for any pair s < t: with α = ᾱ_t/ᾱ_s and β = 1 − α in the place of α_t and β_t, a jump over
several steps is a step of the coarser chain. At s = t − 1 it is the paper's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.schedules import Schedule


def along(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Read a float64 table at each example's t, in the dtype of ``like``, shaped (B, 1, …, 1) to multiply it."""
    values = table.to(like.device)[t].to(like.dtype)
    return values.reshape(-1, *[1] * (like.ndim - 1))


class Gaussian(NamedTuple):
    """A Gaussian with independent components: mean μ and variance σ², shapes that broadcast."""

    mean: Tensor
    var: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """μ + σ · noise, by reparameterisation; ``noise`` is standard normal, of the mean's shape."""
        return self.mean + self.var.sqrt() * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """ln N(x; μ, σ²), element by element, in nats."""
        return -0.5 * ((x - self.mean).square() / self.var + (2 * math.pi * self.var).log())


class Process:
    """The forward process of one schedule. In every method x is (B, …), t and s are integers (B,), 0 ≤ s < t ≤ T."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def step(self, x_prev: Tensor, t: Tensor) -> Gaussian:
        """q(x_t | x_{t−1}) = N(√α_t x_{t−1}, β_t I)  [DDPM (2)]."""
        table = self.schedule
        return Gaussian(along(table.alpha.sqrt(), t, x_prev) * x_prev, along(table.beta, t, x_prev))

    def jump(self, x_0: Tensor, t: Tensor) -> Gaussian:
        """q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I)  [DDPM (4)]."""
        table = self.schedule
        return Gaussian(along(table.signal_rate, t, x_0) * x_0, along(table.noise_var, t, x_0))

    def diffuse(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, a sample of q(x_t | x_0) for standard normal ε."""
        table = self.schedule
        return along(table.signal_rate, t, x_0) * x_0 + along(table.noise_rate, t, x_0) * eps

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor | None = None) -> Gaussian:
        """q(x_s | x_t, x_0) = N(μ̃, β̃ I), with s = t − 1 unless given  [DDPM (6), (7)].

        μ̃ = (√ᾱ_s β x_0 + √α (1 − ᾱ_s) x_t)/(1 − ᾱ_t) and β̃ = β (1 − ᾱ_s)/(1 − ᾱ_t), α = ᾱ_t/ᾱ_s, β = 1 − α.
        At s = 0 it is the point x_0 itself (β̃ = 0).
        """
        s = t - 1 if s is None else s
        table = self.schedule
        noise_s, noise_t = table.noise_var[s.cpu()], table.noise_var[t.cpu()]
        alpha, beta = self.coarse(t, s)
        c_0 = table.signal_rate[s.cpu()] * beta / noise_t
        c_t = alpha.sqrt() * noise_s / noise_t
        shape = (-1, *[1] * (x_t.ndim - 1))
        c_0, c_t, var = (c.to(x_t).reshape(shape) for c in (c_0, c_t, beta * noise_s / noise_t))
        return Gaussian(c_0 * x_0 + c_t * x_t, var)

    def bridge(self, x_prev: Tensor, x_next: Tensor, t: Tensor) -> Gaussian:
        """q(x_t | x_{t−1}, x_{t+1}) for t < T: what is known of x_t from both its neighbours.

        N(μ, v I): b = β_{t+1} + α_{t+1} β_t, μ = (√α_t β_{t+1} x_{t−1} + √α_{t+1} β_t x_{t+1})/b, v = β_t β_{t+1}/b.
        """
        alpha, beta = self.schedule.alpha, self.schedule.beta
        alpha_next, beta_next = alpha.roll(-1), beta.roll(-1)  # read below T only
        whole = beta_next + alpha_next * beta
        c_prev, c_next = alpha.sqrt() * beta_next / whole, alpha_next.sqrt() * beta / whole
        mean = along(c_prev, t, x_prev) * x_prev + along(c_next, t, x_next) * x_next
        return Gaussian(mean, along(beta * beta_next / whole, t, x_prev))

    def coarse(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """α = ᾱ_t/ᾱ_s and β = 1 − α of the jump from s to t, float64, shape (B,)."""
        log_alpha = self.schedule.log_alpha_bar[t.cpu()] - self.schedule.log_alpha_bar[s.cpu()]
        return log_alpha.exp(), -torch.expm1(log_alpha)
