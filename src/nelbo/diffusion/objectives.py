"""What training lowers: each objective is a weight w(γ) on the bound's own integrand (Kingma & Gao 2023).

    L_w = ½ ∫ w(γ) E‖ε − ε̂(z_γ)‖² dγ = E_{t ~ U(0, 1)}[½ w(γ(t)) γ′(t) E‖ε − ε̂‖²]

w = 1 is the diffusion term of the bound. An objective that is written as a mean of weighted ‖ε − ε̂‖² over t has the
density of γ there, p(γ) = 1/γ′(t), in its w. Where w never falls as γ grows, L_w is a bound too, up to a constant: of
images with noise added, whose level is drawn from dw/dγ (theorem 1 there). Where w falls, it is a bound of nothing.

| name           | w(γ)                                    | t, γ drawn from              | monotone
| bound          | 1                                       | any: it does not matter      | yes
| hybrid         | 1 + 2λ p(γ), λ = 5                      | the schedule's p(γ), and any | where p never falls
| simple         | 2 p(γ)                                  | the schedule's p(γ)          | where p never falls
| min_snr        | 2 p(γ) min(1, k e^γ), k = 5             | the schedule's p(γ)          | where p never falls
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
        trains_bound: whether the bound's own terms, decoder and all, are what is lowered, plus what w adds to 1.
        uniform_share: the share of t in steps that is drawn uniformly, and not where the loss is.
    """

    trains_bound = False
    uniform_share = 1.0

    @abstractmethod
    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        """w(γ), float64, shape (B,).

        Args:
            gamma: γ, shape (B,).
            slope: γ′(t) of the schedule there, 1/p(γ), shape (B,); in steps, T times the step of γ.
        """

    def is_monotone(self, gamma: Tensor, slope: Tensor) -> bool:
        """Whether w never falls on these rising γ, so that L_w is a bound of noised images."""
        w = self.weight(gamma, slope)
        return bool((w[1:] >= w[:-1] * (1 - 1e-9)).all())


class Bound(Objective):
    """The bound itself: w(γ) = 1, from any density, as the integral does not depend on it. Monotone: it is a bound."""

    trains_bound, uniform_share = True, 0.1

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return torch.ones_like(gamma, dtype=torch.float64)


class Simple(Objective):
    """L_simple = E_t‖ε − ε̂‖² (DDPM (14)): w(γ) = 2 p(γ), p(γ) = 1/γ′(t) being the schedule's own density, from which
    it draws. Monotone only where γ′(t) never grows; with the cosine schedule w = sech(γ/2)/π, which is not."""

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return 2.0 / slope.double()


class Hybrid(Objective):
    """The bound plus λ L_simple: w(γ) = 1 + 2λ p(γ), after L_hybrid of Nichol & Dhariwal 2021 (16), which has x̂_0
    trained by L_simple alone. Monotone where p(γ) is.

    Args:
        share: λ, on nats per dimension.
    """

    trains_bound, uniform_share = True, 0.5

    def __init__(self, share: float = 5.0) -> None:
        self.share = share

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return 1.0 + 2.0 * self.share / slope.double()


class MinSNR(Objective):
    """min-SNR-k: ‖x_0 − x̂_0‖² counts min(SNR, k) (Hang et al. 2023), w(γ) = 2 p(γ) min(1, k e^γ), t from the schedule's
    p(γ). Monotone only where p never falls: at less noise than SNR = k it is L_simple.

    Args:
        k: the largest weight of ‖x_0 − x̂_0‖².
    """

    def __init__(self, k: float = 5.0) -> None:
        self.k = k

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return 2.0 * (self.k * gamma.double().exp()).clamp(max=1.0) / slope.double()


class MaxSNR(Objective):
    """Truncated SNR: ‖x_0 − x̂_0‖² counts max(SNR, 1) (Salimans & Ho 2022 (9)), w(γ) = 2 p(γ) max(1, e^γ), t from the
    schedule's p(γ). Monotone where p(γ) falls more slowly than e^γ grows, and does not fall below γ = 0."""

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return 2.0 * gamma.double().exp().clamp(min=1.0) / slope.double()


class SigmoidWeight(Objective):
    """w(γ) = sigmoid(γ + k), from any density (Kingma & Gao 2023, sigmoid weighting). Monotone.

    Args:
        k: where it is one half, at SNR = e^k.
    """

    def __init__(self, k: float = 2.0) -> None:
        self.k = k

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return torch.sigmoid(gamma.double() + self.k)


class EDM(Objective):
    """EDM: ln σ ~ N(μ, s²) and ‖x_0 − x̂_0‖² times (σ² + σ_d²)/(σ σ_d)² (Karras et al. 2022, table 1).

    γ = 2 ln σ, so its density is N(2μ, (2s)²), and w(γ) = 2 N(γ; 2μ, (2s)²) (e^γ + σ_d²)/σ_d². Not monotone.

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
    """Flow matching, E_t‖u − û‖² with u = ε − x and t uniform in x_t = (1 − t) x + t ε (Lipman et al. 2022; Liu et al.
    2022): w(γ) = e^{γ/2}, as ‖u − û‖² = ‖ε − ε̂‖²/(1 − t)² and γ′ = 2/(t (1 − t)) there. Monotone."""

    def weight(self, gamma: Tensor, slope: Tensor) -> Tensor:
        return (0.5 * gamma.double()).exp()


class Weighted(Objective):
    """Any weight, written with torch.

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
    """An objective from its name, from an objective, or from a function w(γ).

    Raises:
        InputError: no objective has that name.
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
