"""Noise schedules: how much of the image is left at step t.

    α_t = 1 − β_t,   ᾱ_t = ∏_{i≤t} α_i,   SNR(t) = ᾱ_t/(1 − ᾱ_t),   γ_t = −ln SNR(t),   signal rate √ᾱ_t

Tables are float64 and indexed by t itself: index 0 is the clean image (β_0 = 0, ᾱ_0 = 1), index T pure noise.
α_t and ᾱ_t are those of DDPM; VDM's α_t is √ᾱ_t, and DDIM's α_t is ᾱ_t.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from nelbo.errors import InputError

BETA_CAP = 0.999


class Schedule:
    """β_t for t = 1 … T, and everything that follows from it.

    Args:
        beta: β_1 … β_T, shape (T,), each in (0, 1).

    Raises:
        InputError: T < 1, or a β_t that is not strictly between 0 and 1.
    """

    def __init__(self, beta: Tensor) -> None:
        if beta.numel() < 1:
            raise InputError("--timesteps", "a schedule needs at least 1 step")
        beta = beta.to(torch.float64)
        if not bool(((beta > 0) & (beta < 1)).all()):
            raise InputError(
                "--schedule", f"every β_t must lie strictly between 0 and 1, and the last is {beta[-1]:.4g}"
            )
        self.beta = torch.cat([beta.new_zeros(1), beta])

    @property
    def T(self) -> int:  # noqa: N802
        """The number of steps."""
        return self.beta.numel() - 1

    @cached_property
    def alpha(self) -> Tensor:
        """α_t = 1 − β_t."""
        return 1.0 - self.beta

    @cached_property
    def log_alpha_bar(self) -> Tensor:
        """ln ᾱ_t = Σ_{i≤t} ln(1 − β_i)."""
        return torch.log1p(-self.beta).cumsum(0)

    @cached_property
    def alpha_bar(self) -> Tensor:
        """ᾱ_t = ∏_{i≤t} α_i, the share of variance that is signal."""
        return self.log_alpha_bar.exp()

    @cached_property
    def noise_var(self) -> Tensor:
        """1 − ᾱ_t, without cancellation."""
        return torch.expm1(self.log_alpha_bar).abs()

    @cached_property
    def signal_rate(self) -> Tensor:
        """√ᾱ_t."""
        return (0.5 * self.log_alpha_bar).exp()

    @cached_property
    def noise_rate(self) -> Tensor:
        """√(1 − ᾱ_t)."""
        return self.noise_var.sqrt()

    @cached_property
    def snr(self) -> Tensor:
        """SNR(t) = ᾱ_t/(1 − ᾱ_t); infinite at t = 0."""
        return self.alpha_bar / self.noise_var

    @cached_property
    def gamma(self) -> Tensor:
        """γ_t = −ln SNR(t), so that ᾱ_t = sigmoid(−γ_t)."""
        return self.noise_var.log() - self.log_alpha_bar

    @cached_property
    def beta_tilde(self) -> Tensor:
        """β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t), the posterior's variance (DDPM (7)); β̃_1 = 0."""
        beta_tilde = torch.zeros_like(self.beta)
        beta_tilde[1:] = self.beta[1:] * self.noise_var[:-1] / self.noise_var[1:]
        return beta_tilde


def linear(T: int) -> Schedule:
    """β_t from 1e-4 to 0.02, evenly spaced, times 1000/T (DDPM, section 4; the factor: Nichol & Dhariwal 2021).

    Raises:
        InputError: T ≤ 20, where β_T ≥ 1.
    """
    _require_steps(T)
    if 20.0 / T >= 1.0:
        raise InputError("--timesteps", f"the linear schedule ends at β_T = {20.0 / T:.3g} for T = {T}; use T > 20")
    return Schedule(torch.linspace(0.1 / T, 20.0 / T, T, dtype=torch.float64))


def cosine(T: int) -> Schedule:
    """ᾱ(t) ∝ cos²(((t/T + s)/(1 + s)) · π/2) with s = 0.008, β_t capped at 0.999 (Nichol & Dhariwal 2021 (17))."""
    s = 0.008
    return _from_alpha_bar(T, lambda u: torch.cos((u + s) / (1 + s) * torch.pi / 2).square())


def sigmoid(T: int) -> Schedule:
    """ᾱ(t) ∝ sigmoid(3) − sigmoid(6t/T − 3), β_t capped at 0.999 (Jabri et al. 2022, τ = 1 between −3 and 3)."""
    end = torch.tensor(3.0, dtype=torch.float64)
    return _from_alpha_bar(T, lambda u: torch.sigmoid(end) - torch.sigmoid(6 * u - 3))


SCHEDULES: dict[str, Callable[[int], Schedule]] = {"linear": linear, "cosine": cosine, "sigmoid": sigmoid}


def _from_alpha_bar(T: int, alpha_bar: Callable[[Tensor], Tensor]) -> Schedule:
    """β_t = min(1 − ᾱ(t)/ᾱ(t−1), 0.999) on the grid t/T."""
    _require_steps(T)
    curve = alpha_bar(torch.arange(T + 1, dtype=torch.float64) / T)
    return Schedule((1.0 - curve[1:] / curve[:-1]).clamp(max=BETA_CAP))


def _require_steps(T: int) -> None:
    if T < 1:
        raise InputError("--timesteps", f"{T} is not a number of steps; it must be at least 1")
