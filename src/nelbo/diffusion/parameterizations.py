"""What a network predicts: the noise ε, the image x_0, the posterior mean μ, or v. All are the same model.

Each prediction is a row (a_t, b_t): it stands for the number a_t x_0 + b_t ε. With x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε that
makes two equations for (x_0, ε), whose determinant is d_t = a_t √(1 − ᾱ_t) − b_t √ᾱ_t:

    x_0 = (√(1 − ᾱ_t) · output − b_t x_t)/d_t          ε = (a_t x_t − √ᾱ_t · output)/d_t

| predicts | a_t         | b_t                           | d_t                     | source
| ε        | 0           | 1                             | −√ᾱ_t                   | DDPM (11)
| x_0      | 1           | 0                             | √(1 − ᾱ_t)              | DDPM (8)
| μ        | √ᾱ_{t−1}    | √α_t (1 − ᾱ_{t−1})/√(1 − ᾱ_t) | √ᾱ_{t−1} β_t/√(1 − ᾱ_t) | DDPM (7)
| v        | −√(1 − ᾱ_t) | √ᾱ_t                          | −1                      | Salimans & Ho 2022, appendix D
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.diffusion.process import along
from nelbo.schedules import Schedule


class Denoised(NamedTuple):
    """What a denoiser says of x_t.

    Attributes:
        x_0, eps: both views of it, x̂_0 and ε̂, with x_t = √ᾱ_t x̂_0 + √(1 − ᾱ_t) ε̂.
        fraction: where the reverse variance is learned, how far ln σ_t² lies from ln β̃_t towards ln β_t.
    """

    x_0: Tensor
    eps: Tensor
    fraction: Tensor | None = None


Denoiser = Callable[[Tensor, Tensor], Denoised]
"""(x_t of shape (B, …), t of shape (B,)) → :class:`Denoised`: what bounds, losses and samplers need of a model."""


class Row(NamedTuple):
    """a_t, b_t and d_t for t = 0 … T, float64; index 0 is never read."""

    a: Tensor
    b: Tensor
    d: Tensor


class Parameterization(ABC):
    """One row of the table above, and the conversions that follow from it. All are exact up to round-off.

    Args:
        schedule: the schedule whose ᾱ_t the row is written in.
    """

    name: str

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.row = self.make_row(schedule)

    @abstractmethod
    def make_row(self, schedule: Schedule) -> Row:
        """a_t, b_t and d_t as functions of the schedule."""

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should have said: a_t x_0 + b_t ε."""
        return along(self.row.a, t, x_0) * x_0 + along(self.row.b, t, x_0) * eps

    def denoised(self, output: Tensor, x_t: Tensor, t: Tensor) -> Denoised:
        """x̂_0 and ε̂ from the network's output at x_t."""
        row, table = self.row, self.schedule
        x_0 = along(table.noise_rate / row.d, t, x_t) * output - along(row.b / row.d, t, x_t) * x_t
        eps = along(row.a / row.d, t, x_t) * x_t - along(table.signal_rate / row.d, t, x_t) * output
        return Denoised(x_0, eps)


class Epsilon(Parameterization):
    """The network predicts the noise ε."""

    name = "eps"

    def make_row(self, schedule: Schedule) -> Row:
        zero = torch.zeros_like(schedule.beta)
        return Row(a=zero, b=zero + 1, d=-schedule.signal_rate)


class X0(Parameterization):
    """The network predicts the image x_0."""

    name = "x0"

    def make_row(self, schedule: Schedule) -> Row:
        zero = torch.zeros_like(schedule.beta)
        return Row(a=zero + 1, b=zero, d=schedule.noise_rate)


class Mean(Parameterization):
    """The network predicts the mean μ of the reverse step; at t = 1 that is x_0."""

    name = "mean"

    def make_row(self, schedule: Schedule) -> Row:
        signal_before, noise_before = schedule.signal_rate.roll(1), schedule.noise_var.roll(1)
        return Row(
            a=signal_before,
            b=schedule.alpha.sqrt() * noise_before / schedule.noise_rate,
            d=signal_before * schedule.beta / schedule.noise_rate,
        )


class Velocity(Parameterization):
    """The network predicts v = √ᾱ_t ε − √(1 − ᾱ_t) x_0."""

    name = "v"

    def make_row(self, schedule: Schedule) -> Row:
        return Row(a=-schedule.noise_rate, b=schedule.signal_rate, d=-torch.ones_like(schedule.beta))


PARAMETERIZATIONS: dict[str, type[Parameterization]] = {kind.name: kind for kind in (Epsilon, X0, Mean, Velocity)}
