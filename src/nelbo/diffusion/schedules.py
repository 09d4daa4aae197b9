"""Noise schedules: γ(t) = −ln SNR(t), increasing for t in [0, 1], and the grids of γ that define chains of T steps.

| name         | γ(t), or ᾱ(t) = sigmoid(−γ)                          | source
| linear_beta  | ln ᾱ = −(β_0 t + ½ (β_1 − β_0) t²), β_0, β_1 = 0.1, 20 | Ho et al. 2020; Song et al. 2021 (32)
| cosine       | γ = 2 ln tan(π/2 · u), u from s/(1 + s) at t = 0 to 1 | Nichol & Dhariwal 2021 (17)
| sigmoid      | ᾱ ∝ sigmoid(3) − sigmoid(6t − 3)                      | Jabri et al. 2022, τ = 1
| linear_gamma | γ = γ_0 + (γ_1 − γ_0) t                               | Kingma et al. 2021, appendix H
| learned      | γ = γ_0 + (γ_1 − γ_0) n(t), n monotone and learned    | Kingma et al. 2021, appendix H
| karras       | γ = 2 ln σ, σ^{1/ρ} linear in t                       | Karras et al. 2022 (5)
| rectified_flow | γ = 2 ln(t/(1 − t)): x_t = (1 − t) x + t ε, rescaled | Liu et al. 2022; Lipman et al. 2022

If γ(0) = −∞, t = 0 is the image, and a chain of T steps is the grid −∞, γ(1/T), …, γ(1). If γ(0) is finite, z at t = 0
is a latent too, and the grid has T + 1 latents.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.diffusion.named import from_words
from nelbo.diffusion.process import CLEAN
from nelbo.errors import InputError

CROSSING = 3.03
"""Standard deviations of the least noise from a level to the next midpoint: VDM's γ_0 = −13.3 for 256 levels."""
BETA_CAP = 0.999
"""The largest β_t of a grid (Nichol & Dhariwal 2021, section 3.2)."""
LEARNING_RATE_SCALE = 10.0
"""Learning rate of ln h of a learned γ, relative to a weight's."""
LINEAR_PART = 0.2
"""Weight of the linear part of a learned γ, so that γ′ > 0 everywhere."""

Curve = tuple[Tensor, Tensor]
"""γ and γ′ at some t."""


@runtime_checkable
class Schedule(Protocol):
    """γ(t) and γ′(t) on [0, 1]."""

    def __call__(self, t: Tensor) -> Curve:
        """γ(t) and γ′(t), float64, for t in [0, 1], float64, shape (B,)."""

    def grid(self, T: int) -> Tensor:
        """γ of the latents of a chain of T steps, increasing, float64, shape (T,), or (T + 1,) if γ(0) is finite."""


class FixedSchedule(ABC):
    """A schedule without parameters, given by γ(t); autograd computes γ′."""

    @abstractmethod
    def gamma(self, t: Tensor) -> Tensor:
        """γ(t), differentiable; can be −∞ at 0 and ∞ at 1."""

    def __call__(self, t: Tensor) -> Curve:
        with torch.enable_grad():
            t = t.detach().double().requires_grad_()
            gamma = self.gamma(t)
            (slope,) = torch.autograd.grad(gamma.sum(), t)
        return gamma.detach(), slope

    def grid(self, T: int) -> Tensor:
        """γ at t = 1/T, …, 1, and at 0 if γ(0) is finite, with β_t capped at 0.999.

        Raises:
            InputError: T < 1, or γ is not increasing.
        """
        require_steps(T)
        gamma = self.gamma(torch.arange(T + 1, dtype=torch.float64) / T)
        return capped(gamma if bool(gamma[0].isfinite()) else gamma[1:])


class LinearBeta(FixedSchedule):
    """ln ᾱ = −(β_0 t + ½ (β_1 − β_0) t²); a chain of T steps has DDPM's table, β_t linear from β_0/T to β_1/T.

    At T = 1000 this is the table of Ho et al. 2020, section 4; the factor 1/T is Nichol & Dhariwal's.

    Args:
        first, last: β_0 and β_1.
    """

    def __init__(self, first: float = 0.1, last: float = 20.0) -> None:
        self.first, self.last = first, last

    def gamma(self, t: Tensor) -> Tensor:
        return gamma_of(-(self.first * t + 0.5 * (self.last - self.first) * t.square()))

    def grid(self, T: int) -> Tensor:
        """γ of the table, shape (T,).

        Raises:
            InputError: T is so small that β_T ≥ 1.
        """
        require_steps(T)
        if self.last / T >= 1.0:
            end = f"the linear schedule ends at β_T = {self.last / T:.3g} for T = {T}; use T > {self.last:g}"
            raise InputError("timesteps", end)
        return gamma_of_betas(torch.linspace(self.first / T, self.last / T, T, dtype=torch.float64))


class Cosine(FixedSchedule):
    """ᾱ(t) = cos²(π/2 · (t + s)/(1 + s))/cos²(π/2 · s/(1 + s))  [Nichol & Dhariwal 2021 (17)].

    Args:
        s: an offset that prevents very small first steps.
    """

    def __init__(self, s: float = 0.008) -> None:
        self.s = s

    def gamma(self, t: Tensor) -> Tensor:
        angle, start = (torch.pi / 2 * (u + self.s) / (1 + self.s) for u in (t, 0.0 * t))
        return gamma_of(2 * (angle.cos().log() - start.cos().log()))


class Sigmoid(FixedSchedule):
    """ᾱ(t) = (sigmoid(3) − sigmoid(6t − 3))/(sigmoid(3) − sigmoid(−3))  [Jabri et al. 2022, τ = 1 between −3 and 3]."""

    def gamma(self, t: Tensor) -> Tensor:
        top, bottom = (1 / (1 + math.exp(-end)) for end in (3.0, -3.0))
        return gamma_of(((top - torch.sigmoid(6 * t - 3)) / (top - bottom)).log())


class Karras(FixedSchedule):
    """γ = 2 ln σ with σ^{1/ρ} linear in t from σ_0 to σ_1  [Karras et al. 2022 (5)].

    Args:
        first, last: σ_0 and σ_1, standard deviations of the noise relative to the unscaled image.
        rho: ρ.
    """

    def __init__(self, first: float = 0.002, last: float = 80.0, rho: float = 7.0) -> None:
        self.first, self.last, self.rho = first, last, rho

    def gamma(self, t: Tensor) -> Tensor:
        low, high = self.first ** (1 / self.rho), self.last ** (1 / self.rho)
        return 2 * self.rho * (low + (high - low) * t).log()


class RectifiedFlow(FixedSchedule):
    """γ = 2 ln(t/(1 − t)): x_t = (1 − t) x + t ε, divided by √((1 − t)² + t²)  [Liu et al. 2022]."""

    def gamma(self, t: Tensor) -> Tensor:
        return 2 * torch.logit(t)


class FunctionSchedule(FixedSchedule):
    """Any increasing function γ(t) of torch operations.

    Args:
        function: t in [0, 1], float64, shape (B,) → γ.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def gamma(self, t: Tensor) -> Tensor:
        return self.function(t)


class Between(FixedSchedule):
    """The part of a schedule in which γ lies in a range, mapped to t in [0, 1], for continuous time.

    Args:
        schedule: the whole schedule.
        low, high: the limits of γ at t = 0 and t = 1.
    """

    def __init__(self, schedule: FixedSchedule, low: float, high: float) -> None:
        self.schedule = schedule
        self.start, self.end = (self.place(gamma, at) for gamma, at in ((low, 0.0), (high, 1.0)))

    def place(self, gamma: float, end: float) -> float:
        """The t with this γ, by bisection, or ``end`` if the schedule's γ there is within the range."""
        at_end = float(self.schedule.gamma(torch.tensor([end], dtype=torch.float64)))
        if (at_end >= gamma) if end == 0.0 else (at_end <= gamma):
            return end
        low, high = 0.0, 1.0
        for _ in range(80):
            middle = 0.5 * (low + high)
            below = float(self.schedule.gamma(torch.tensor([middle], dtype=torch.float64))) < gamma
            low, high = (middle, high) if below else (low, middle)
        return 0.5 * (low + high)

    def gamma(self, t: Tensor) -> Tensor:
        return self.schedule.gamma(self.start + (self.end - self.start) * t)


class BetaTable(FixedSchedule):
    """A given table β_1 … β_T; γ is linear in t between the steps.

    Args:
        beta: each in (0, 1), shape (T,).

    Raises:
        InputError: the table is empty, or a β_t is not strictly between 0 and 1.
    """

    def __init__(self, beta: Tensor | Sequence[float]) -> None:
        self.table = gamma_of_betas(torch.as_tensor(beta, dtype=torch.float64))

    def gamma(self, t: Tensor) -> Tensor:
        T = len(self.table)
        after = (t.detach() * T).ceil().long().clamp(2, max(2, T)).clamp(max=T)
        low, high = self.table[(after - 2).clamp(min=0)], self.table[after - 1]
        return low + (high - low) * (t * T - (after - 1))

    def grid(self, T: int) -> Tensor:
        """γ of the table.

        Raises:
            InputError: T is not the table's length.
        """
        if len(self.table) != T:
            raise InputError("betas", f"holds {len(self.table)} numbers, but timesteps is {T}")
        return self.table


class EndsSchedule(nn.Module):
    """A schedule from a finite γ_0 to a finite γ_1, which are saved with the weights."""

    ends: Tensor

    @torch.no_grad()
    def grid(self, T: int) -> Tensor:
        """γ at t = 0, 1/T, …, 1, on the CPU; z_0 is a latent too."""
        require_steps(T)
        gamma: Tensor = self(torch.linspace(0, 1, T + 1, dtype=torch.float64, device=self.ends.device))[0]
        return gamma.cpu()


class LinearGamma(EndsSchedule):
    """γ(t) = γ_0 + (γ_1 − γ_0) t, without parameters.

    Args:
        first, last: γ_0 < γ_1.
    """

    def __init__(self, first: float = -13.3, last: float = 8.0) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.register_buffer("ends", torch.tensor([first, last], dtype=torch.float64))

    def forward(self, t: Tensor) -> Curve:
        """t in [0, 1], shape (B,), float64 → γ(t) and γ′(t), float64."""
        span = self.ends[1] - self.ends[0]
        return self.ends[0] + span * t, span.expand_as(t)


class LearnedGamma(EndsSchedule):
    """γ(t) = γ_0 + (γ_1 − γ_0) n(t), with n monotone from 0 to 1, and n, γ_0 and γ_1 learned.

    n is 0.2 t + Σ_j h_j sigmoid(s_j (t − ½) + b_j) with positive h_j and s_j, normalised by its values at 0 and 1. The
    sigmoids are evenly spaced over [0, 1], each about 0.05 wide, so n starts near a straight line. The parameter is a
    scaled ln h: a step of Adam has the size of the learning rate, which the network needs to be small, while h must be
    able to change by orders of magnitude.

    Args:
        first, last: the initial γ_0 < γ_1.
        hidden: the number of sigmoids.
    """

    def __init__(self, first: float = -13.3, last: float = 8.0, hidden: int = 64) -> None:
        super().__init__()
        self.first, self.last, self.hidden = first, last, hidden
        self.ends = nn.Parameter(torch.tensor([first, last], dtype=torch.float64))
        self.steepness = nn.Parameter(torch.full((hidden,), 20.0, dtype=torch.float64))
        self.place = nn.Parameter(torch.linspace(-11, 11, hidden, dtype=torch.float64))
        self.height = nn.Parameter(torch.full((hidden,), -math.log(hidden) / LEARNING_RATE_SCALE, dtype=torch.float64))

    def raw(self, t: Tensor) -> Curve:
        """The monotone curve before its normalisation."""
        steepness, height = F.softplus(self.steepness), (LEARNING_RATE_SCALE * self.height).exp()
        s = torch.sigmoid(steepness * (t[..., None] - 0.5) + self.place)
        slope = LINEAR_PART + (height * steepness * s * (1 - s)).sum(-1)
        return LINEAR_PART * t + (height * s).sum(-1), slope

    def shape(self, t: Tensor) -> Curve:
        """n(t) and n′(t)."""
        low, high = self.raw(torch.arange(2, dtype=t.dtype, device=t.device))[0]
        value, slope = self.raw(t)
        return (value - low) / (high - low), slope / (high - low)

    def forward(self, t: Tensor) -> Curve:
        """t in [0, 1], shape (B,), float64 → γ(t) and γ′(t), float64."""
        n, slope = self.shape(t)
        span = self.ends[1] - self.ends[0]
        return self.ends[0] + span * n, span * slope


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "linear": LinearBeta,
    "cosine": Cosine,
    "sigmoid": Sigmoid,
    "linear_gamma": LinearGamma,
    "learned": LearnedGamma,
    "karras": Karras,
    "rectified_flow": RectifiedFlow,
}
"""Every schedule by name. Tests run over this table."""


def gamma_range(levels: int) -> tuple[float, float]:
    """γ_0 and γ_1 for images of L levels in continuous time: γ_0 from :data:`CROSSING`, γ_1 = 8.

    VDM's −13.3 is γ_0 for 256 levels. With less noise z determines the levels, and there is nothing left to learn.
    """
    return -2 * math.log(CROSSING * (levels - 1)), 8.0


def as_schedule(given: str | Schedule | Callable[[Tensor], Tensor], levels: int = 256) -> Schedule:
    """A schedule from a name, a schedule, or a function γ(t).

    Args:
        given: a name, schedule or function; ``linear_gamma`` and ``learned`` without parameters use
            :func:`gamma_range`.
        levels: L.

    Raises:
        InputError: no schedule has this name, or the function fails or is not increasing.
    """
    if isinstance(given, str):
        if given in ("linear_gamma", "learned"):
            return {"linear_gamma": LinearGamma, "learned": LearnedGamma}[given](*gamma_range(levels))
        schedule: Schedule = from_words(given, SCHEDULES, "schedule")
        return schedule
    if isinstance(given, Schedule):
        return given
    try:
        gamma = given(torch.linspace(0, 1, 101, dtype=torch.float64))
    except Exception as error:
        raise InputError("schedule", f"cannot be called with t in [0, 1], a float64 tensor: {error}") from error
    require_rising(gamma)
    return FunctionSchedule(given)


def gamma_of(log_alpha_bar: Tensor) -> Tensor:
    """γ = ln(1 − ᾱ) − ln ᾱ from ln ᾱ, without cancellation."""
    return (-torch.expm1(log_alpha_bar)).log() - log_alpha_bar


def gamma_of_betas(beta: Tensor) -> Tensor:
    """γ_t of ᾱ_t = ∏_{i≤t} (1 − β_i), float64, shape (T,).

    Args:
        beta: β_1 … β_T, shape (T,).

    Raises:
        InputError: T < 1, or a β_t that is not strictly between 0 and 1.
    """
    require_steps(len(beta))
    if not bool(((beta > 0) & (beta < 1)).all()):
        wrong = next(float(each) for each in beta if not 0 < each < 1)
        raise InputError("schedule", f"every β_t must be strictly between 0 and 1, but one is {wrong:.4g}")
    return gamma_of(torch.log1p(-beta.double()).cumsum(0))


def betas_of(gammas: Tensor) -> Tensor:
    """β_1 … β_n of the chain with these γ, float64, shape (n,)."""
    log_alpha_bar = F.logsigmoid(-gammas.double())
    before = torch.cat([log_alpha_bar.new_zeros(1), log_alpha_bar[:-1]])
    return -torch.expm1(log_alpha_bar - before)


def chain_of(gammas: Tensor) -> Tensor:
    """−∞, γ_1, …, γ_n: the grid of a chain, with the image at index 0."""
    return torch.cat([gammas.new_tensor([CLEAN]), gammas])


def capped(gamma: Tensor) -> Tensor:
    """The grid with every β_t at most 0.999, which keeps the last γ finite.

    Raises:
        InputError: γ is not increasing.
    """
    require_rising(gamma)
    if float(betas_of(gamma).max()) <= BETA_CAP:
        return gamma
    return gamma_of_betas(betas_of(gamma).clamp(max=BETA_CAP))


def require_rising(gamma: Tensor) -> None:
    """Check that γ is increasing.

    Raises:
        InputError: γ is not increasing.
    """
    if not bool((gamma[1:] > gamma[:-1]).all()):
        raise InputError("schedule", "γ(t) must increase from t = 0, the image, to t = 1, the noise")


def require_steps(T: int) -> None:
    """Check that T is at least 1.

    Raises:
        InputError: T < 1.
    """
    if T < 1:
        raise InputError("timesteps", f"{T} is not a number of steps; it must be at least 1")


def split_gradient(gamma: LearnedGamma, t: Tensor) -> tuple[Curve, Callable[[Tensor], None]]:
    """γ(t) and γ′(t), where the ends γ_0, γ_1 receive the gradient of the loss and n(t) the gradient of loss².

    The loss is an unbiased estimate, so n(t) changes only the variance in E[loss²]. Each image's loss depends only on
    its own t, hence ∇loss² = 2 · loss · ∇loss, and one backward pass computes both.

    Args:
        gamma: the learned schedule.
        t: one per image, shape (B,).

    Returns:
        The curve at t, and a function that must receive each image's loss, shape (B,), before the backward pass.
    """
    scale = torch.ones_like(t)

    def set_loss(loss: Tensor) -> None:
        scale.copy_(2 * loss)

    shape = gamma.shape(t)
    for part in shape:
        if part.requires_grad:
            part.register_hook(lambda gradient: gradient * scale)  # type: ignore[no-untyped-call]
    span = gamma.ends[1] - gamma.ends[0]
    n, slope = (part.detach() for part in shape)
    to_ends = (gamma.ends[0] + span * n, span * slope)
    to_shape = (span.detach() * (part - part.detach()) for part in shape)
    value, derivative = (a + b for a, b in zip(to_ends, to_shape, strict=True))
    return (value, derivative), set_loss
