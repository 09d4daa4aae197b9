"""Training objectives: each is a weight w(γ) on the integrand of the bound (Kingma & Gao 2023).

    L_w = ½ ∫ w(γ) E‖ε − ε̂(z_γ)‖² dγ = E_{t ~ U(0, 1)}[½ w(γ(t)) γ′(t) E‖ε − ε̂‖²]

w = 1 gives the diffusion term of the bound. An objective defined as a mean of weighted ‖ε − ε̂‖² over t has the density
of γ, p(γ) = 1/γ′(t), in its w. If w is non-decreasing in γ, L_w is, up to a constant, a bound of images with added
noise, whose level is drawn from dw/dγ (theorem 1 there). If w decreases anywhere, L_w is not such a bound.

| name           | w(γ)                                    | t, γ drawn from              | monotone
| bound          | 1                                       | any                          | yes
| hybrid         | 1 + 2λ p(γ), λ = 5                      | the schedule's p(γ), and any | if p is non-decreasing
| simple         | 2 p(γ)                                  | the schedule's p(γ)          | if p is non-decreasing
| min_snr        | 2 p(γ) min(1, k e^γ), k = 5             | the schedule's p(γ)          | if p is non-decreasing
| max_snr        | 2 p(γ) max(1, e^γ)                      | the schedule's p(γ)          | on most schedules
| sigmoid        | sigmoid(γ + k), k = 2                   | any                          | yes
| edm            | 2 N(γ; 2μ, (2s)²) (e^γ + σ_d²)/σ_d²     | N(2μ, (2s)²), μ, s = −1.2, 1.2 | no
| flow_matching  | e^{γ/2}                                 | t uniform in x_t = (1−t)x + tε | yes
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.diffusion.named import from_words
from nelbo.errors import InputError


class Objective(ABC):
    """A weight w(γ).

    Attributes:
        trains_bound: whether the loss contains the bound's own terms, including the decoder, plus the part w − 1.
        uniform_share: the fraction of t that a chain draws uniformly; the rest follows the size of the loss.
    """

    trains_bound = False
    uniform_share = 1.0

    @abstractmethod
    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        """w(γ), float64, shape (B,).

        Args:
            gamma: γ, shape (B,).
            slope: γ′(t) of the schedule, 1/p(γ), shape (B,); in a chain, T times the step of γ.
        """

    def is_monotone(self, gamma: Tensor, slope: Tensor) -> bool:
        """Whether w is non-decreasing on these increasing γ, so that L_w is a bound of noised images."""
        w = self.weight(gamma, slope)
        return bool((w[1:] >= w[:-1] * (1 - 1e-9)).all())


class Bound(Objective):
    """The bound: w(γ) = 1, with any density of t, since the integral does not depend on it. Monotone."""

    trains_bound, uniform_share = True, 0.1

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return torch.ones_like(gamma, dtype=torch.float64)


class Simple(Objective):
    """L_simple = E_t‖ε − ε̂‖² (DDPM (14)): w(γ) = 2 p(γ), with t drawn from the schedule's density p(γ) = 1/γ′(t).

    Monotone only if γ′(t) is non-increasing. The cosine schedule has w = sech(γ/2)/π, which is not monotone.
    """

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return 2.0 / slope.double()


class Hybrid(Objective):
    """The bound plus λ L_simple: w(γ) = 1 + 2λ p(γ). Monotone if p(γ) is.

    It follows L_hybrid of Nichol & Dhariwal 2021 (16), where x̂_0 is trained by L_simple alone.

    Args:
        share: λ, on nats per dimension.
    """

    trains_bound, uniform_share = True, 0.5

    def __init__(self, share: float = 5.0) -> None:
        self.share = share

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return 1.0 + 2.0 * self.share / slope.double()


class MinSNR(Objective):
    """min-SNR-k: ‖x_0 − x̂_0‖² has the weight min(SNR, k) (Hang et al. 2023): w(γ) = 2 p(γ) min(1, k e^γ), t from p(γ).

    Monotone only if p is non-decreasing: for SNR ≤ k it equals L_simple.

    Args:
        k: the largest weight of ‖x_0 − x̂_0‖².
    """

    def __init__(self, k: float = 5.0) -> None:
        self.k = k

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return 2.0 * (self.k * gamma.double().exp()).clamp(max=1.0) / slope.double()


class MaxSNR(Objective):
    """Truncated SNR: ‖x_0 − x̂_0‖² has the weight max(SNR, 1) (Salimans & Ho 2022 (9)), so w(γ) = 2 p(γ) max(1, e^γ).

    t comes from the schedule's p(γ). Monotone if p(γ) e^γ is non-decreasing for γ > 0, and p(γ) for γ < 0.
    """

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return 2.0 * gamma.double().exp().clamp(min=1.0) / slope.double()


class SigmoidWeight(Objective):
    """w(γ) = sigmoid(γ + k), with any density of t (Kingma & Gao 2023, sigmoid weighting). Monotone.

    Args:
        k: w is one half at SNR = e^k.
    """

    def __init__(self, k: float = 2.0) -> None:
        self.k = k

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return torch.sigmoid(gamma.double() + self.k)


class EDM(Objective):
    """EDM: ln σ ~ N(μ, s²) and ‖x_0 − x̂_0‖² with the weight (σ² + σ_d²)/(σ σ_d)² (Karras et al. 2022, table 1).

    γ = 2 ln σ has the density N(2μ, (2s)²), so w(γ) = 2 N(γ; 2μ, (2s)²) (e^γ + σ_d²)/σ_d². Not monotone.

    Args:
        mean, std: μ and s.
        sigma_data: σ_d, the standard deviation of the images.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2, sigma_data: float = 0.5) -> None:
        self.mean, self.std, self.sigma_data = mean, std, sigma_data

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        gamma, var = gamma.double(), self.sigma_data**2
        place = (gamma - 2 * self.mean) / (2 * self.std)
        density = torch.exp(-0.5 * place.square()) / (2 * self.std * math.sqrt(2 * math.pi))
        return 2.0 * density * (gamma.exp() + var) / var


class FlowMatching(Objective):
    """Flow matching: E_t‖u − û‖², u = ε − x, t uniform in x_t = (1 − t) x + t ε (Lipman et al. 2022; Liu et al. 2022).

    w(γ) = e^{γ/2}, because ‖u − û‖² = ‖ε − ε̂‖²/(1 − t)² and γ′ = 2/(t (1 − t)) there. Monotone.
    """

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return (0.5 * gamma.double()).exp()


class Weighted(Objective):
    """A weight given by a function of torch operations.

    Args:
        function: γ, float64, shape (B,) → w(γ) ≥ 0.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return self.function(gamma.double())


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "bound": Bound,
    "hybrid": Hybrid,
    "simple": Simple,
    "min_snr": MinSNR,
    "max_snr": MaxSNR,
    "sigmoid": SigmoidWeight,
    "edm": EDM,
    "flow_matching": FlowMatching,
}
"""Every objective by name."""


def as_objective(given: str | Objective | Callable[[Tensor], Tensor]) -> Objective:
    """An objective from a name, an objective, or a function w(γ).

    Raises:
        InputError: no objective has this name, or the function fails or is negative somewhere.
    """
    if isinstance(given, Objective):
        return given
    if isinstance(given, str):
        objective: Objective = from_words(given, OBJECTIVES, "objective")
        return objective
    try:
        weight = given(torch.linspace(-20, 20, 81, dtype=torch.float64))
    except Exception as error:
        raise InputError("objective", f"cannot be called with γ, a float64 tensor: {error}") from error
    if not bool((weight >= 0).all()):
        raise InputError("objective", "w(γ) must be at least 0")
    return Weighted(given)
