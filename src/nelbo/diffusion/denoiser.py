"""The result of a denoiser at (z, γ), and what a network can predict: ε, x_0, the mean μ, v, or a law over levels.

Each of the first four is a row (a, b): the network predicts a x_0 + b ε. With z = √ᾱ x_0 + √(1 − ᾱ) ε there are two
equations for (x_0, ε), with determinant d = a √(1 − ᾱ) − b √ᾱ:

    x_0 = (√(1 − ᾱ) · output − b z)/d          ε = (a z − √ᾱ · output)/d

| predicts | a          | b                          | d                   | source
| ε        | 0          | 1                          | −√ᾱ                 | DDPM (11)
| x_0      | 1          | 0                          | √(1 − ᾱ)            | DDPM (8)
| μ        | √ᾱ_s       | √α (1 − ᾱ_s)/√(1 − ᾱ)      | √ᾱ_s β/√(1 − ᾱ)     | DDPM (7), s is the step before
| v        | −√(1 − ᾱ)  | √ᾱ                         | −1                  | Salimans & Ho 2022, appendix D

A law over levels is P(k|z) of every pixel, and x̂_0 is its mean: :mod:`nelbo.diffusion.levels`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nelbo.diffusion.known import NOTHING, Known
from nelbo.diffusion.levels import OUTPUTS, Posterior
from nelbo.diffusion.process import (
    noise_rate,
    noise_var,
    on_device,
    per_image,
    rates,
    signal_rate,
    step_signal,
    step_var,
)
from nelbo.errors import InputError
from nelbo.theory.likelihoods import to_default_dtype

LOG_STD_RANGE = 10.0
"""The largest difference between ln σ of a learned decoder and ln of the noise's standard deviation."""


class Denoised(NamedTuple):
    """A denoiser's result at z.

    Attributes:
        x_0, eps: x̂_0 and ε̂, with z = √ᾱ x̂_0 + √(1 − ᾱ) ε̂.
        fraction: v of a learned reverse variance, ln σ² = v ln β + (1 − v) ln β̃; else None.
        log_std: ln(σ/√(1 − ᾱ)) of a learned decoder; else None.
        law: P(k|z) of every pixel, if the network predicts a law over levels; else None.
        var: Var(x|z) about x̂_0 of every pixel, where it has been computed; else None.
    """

    x_0: Tensor
    eps: Tensor
    fraction: Tensor | None = None
    log_std: Tensor | None = None
    law: Posterior | None = None
    var: Tensor | None = None


Denoiser = Callable[[Tensor, Tensor], Denoised]
"""(z of shape (B, …), γ of shape (B,)) → :class:`Denoised`: what bounds, losses and samplers use of a model."""


def from_x_0(x_0: Tensor, z: Tensor, gamma: Tensor) -> Denoised:
    """x̂_0 and ε̂ of z at γ from x̂_0: ε̂ = (z − √ᾱ x̂_0)/√(1 − ᾱ)."""
    signal, noise = rates(gamma, z)
    return Denoised(x_0, (z - signal * x_0) / noise)


def denoiser_of(x_0: Callable[[Tensor, Tensor], Tensor]) -> Denoiser:
    """The denoiser of a function (z, γ) → x̂_0."""
    return lambda z, gamma: from_x_0(x_0(z, gamma), z, gamma)


def clipped(denoised: Denoised, z: Tensor, gamma: Tensor) -> Denoised:
    """The same result with x̂_0 clamped to [−1, 1], and the ε̂ that follows from it."""
    both = from_x_0(denoised.x_0.clamp(-1.0, 1.0), z, gamma)
    return denoised._replace(x_0=both.x_0, eps=both.eps)


def clipping(denoiser: Denoiser) -> Denoiser:
    """The same denoiser with x̂_0 clamped to [−1, 1]."""
    return lambda z, gamma: clipped(denoiser(z, gamma), z, gamma)


class Row(NamedTuple):
    """a, b and d at some γ, float64, shape (B,)."""

    a: Tensor
    b: Tensor
    d: Tensor


class Prediction(ABC):
    """The quantity that the network predicts."""

    outputs = 1
    """Numbers per pixel and channel."""

    @abstractmethod
    def denoised(self, output: Tensor, z: Tensor, gamma: Tensor) -> Denoised:
        """x̂_0 and ε̂ from the network's output.

        Args:
            output: shape (B, outputs · C, H, W).
            z: shape (B, C, H, W).
            gamma: shape (B,).
        """


class LinearPrediction(Prediction):
    """A row of the module's table, and the conversions that follow from it. All are exact up to round-off."""

    @abstractmethod
    def row(self, gamma: Tensor) -> Row:
        """a, b and d at γ."""

    def target(self, x_0: Tensor, eps: Tensor, gamma: Tensor) -> Tensor:
        """The training target a x_0 + b ε."""
        row = self.row(gamma)
        return per_image(row.a, x_0) * x_0 + per_image(row.b, x_0) * eps

    def denoised(self, output: Tensor, z: Tensor, gamma: Tensor) -> Denoised:
        """x_0 = (√(1 − ᾱ) · output − b z)/d,   ε = (a z − √ᾱ · output)/d."""
        row = self.row(gamma)
        x_0 = per_image(noise_rate(gamma) / row.d, z) * output - per_image(row.b / row.d, z) * z
        eps = per_image(row.a / row.d, z) * z - per_image(signal_rate(gamma) / row.d, z) * output
        return Denoised(x_0, eps)


class Epsilon(LinearPrediction):
    """The network predicts the noise ε."""

    def row(self, gamma: Tensor) -> Row:
        one = torch.ones_like(gamma, dtype=torch.float64)
        return Row(0 * one, one, -signal_rate(gamma))


class X0(LinearPrediction):
    """The network predicts the image x_0."""

    def row(self, gamma: Tensor) -> Row:
        one = torch.ones_like(gamma, dtype=torch.float64)
        return Row(one, 0 * one, noise_rate(gamma))


class Velocity(LinearPrediction):
    """The network predicts v = √ᾱ ε − √(1 − ᾱ) x_0."""

    def row(self, gamma: Tensor) -> Row:
        noise = noise_rate(gamma)
        return Row(-noise, signal_rate(gamma), -torch.ones_like(noise))


class Mean(LinearPrediction):
    """The network predicts the mean μ of the reverse step; at the first γ, μ is x_0.

    Args:
        gammas: −∞, γ_1, …, γ_T, the chain of the steps; γ must be one of them.
    """

    def __init__(self, gammas: Tensor) -> None:
        self.gammas = gammas

    def row(self, gamma: Tensor) -> Row:
        grid = on_device(self.gammas, gamma.device)
        before = grid[(torch.searchsorted(grid, gamma.double().contiguous()) - 1).clamp(min=0)]
        signal, noise = signal_rate(before), noise_rate(gamma)
        return Row(
            signal,
            step_signal(before, gamma) * noise_var(before) / noise,
            signal * step_var(before, gamma) / noise,
        )


class LevelLaw(Prediction):
    """The network predicts a law over the levels of every pixel, before the likelihood of z is applied.

    Args:
        levels: L.
    """

    outputs = OUTPUTS

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def denoised(self, output: Tensor, z: Tensor, gamma: Tensor) -> Denoised:
        law = Posterior.of(output, z, *rates(gamma, z), self.levels)
        return from_x_0(law.mean(), z, gamma)._replace(law=law)


PREDICTIONS: dict[str, Callable[[int, Tensor | None], Prediction]] = {
    "eps": lambda levels, gammas: Epsilon(),
    "x0": lambda levels, gammas: X0(),
    "mean": lambda levels, gammas: Mean(chained(gammas)),
    "v": lambda levels, gammas: Velocity(),
    "levels": lambda levels, gammas: LevelLaw(levels),
}
"""Every prediction by name: a function of L and the grid of γ, which is None in continuous time."""


def chained(gammas: Tensor | None) -> Tensor:
    """The grid, if there is one.

    Raises:
        InputError: the model is in continuous time.
    """
    if gammas is None:
        raise InputError("predict", "the mean of a step does not exist in continuous time; predict v")
    return gammas


Conditioning = Callable[..., Tensor]
"""(network, z, γ[, known]) → the network's output: how the network receives γ, and the :class:`Known`, if any."""


def by_gamma(network: nn.Module, z: Tensor, gamma: Tensor, known: Known = NOTHING) -> Tensor:
    """network(z, γ[, picture][, label=y]) with what is known, and with γ in the dtype of z, shape (B,)."""
    picture = () if known.picture is None else (known.picture,)
    output: Tensor = network(z, gamma.to(z), *picture, **known.keywords)
    return output


EXTRAS: dict[str, Callable[[Tensor], Tensor]] = {
    "log_std": lambda output: output.clamp(-LOG_STD_RANGE, LOG_STD_RANGE),
    "fraction": lambda output: 0.5 * (output + 1.0),
}
"""Further outputs of a network, by name: the function from the raw output to the value."""


class NetworkDenoiser:
    """A denoiser made of any network: (z, γ) → :class:`Denoised`.

    Args:
        network: outputs ``outputs`` · C channels for images of C channels.
        prediction: the meaning of the first channels.
        extras: the meaning of the following channels, C each: names of :data:`EXTRAS`.
        condition: how the network receives γ, and what is known.

    Attributes:
        known: what is known of each image of a batch.
    """

    known: Known = NOTHING

    def __init__(
        self,
        network: nn.Module,
        prediction: Prediction,
        extras: Iterable[str] = (),
        condition: Conditioning = by_gamma,
    ) -> None:
        self.network, self.prediction, self.condition = network, prediction, condition
        self.extras = tuple(extras)

    @property
    def outputs(self) -> int:
        """Outputs of the network per pixel and channel."""
        return self.prediction.outputs + len(self.extras)

    def __call__(self, z: Tensor, gamma: Tensor) -> Denoised:
        return self.to_denoised(self.predict(z, gamma), z, gamma)

    def given(self, known: Known) -> NetworkDenoiser:
        """The same denoiser of a batch of which this is known."""
        other = copy.copy(self)
        other.known = known
        return other

    def predict(self, z: Tensor, gamma: Tensor) -> Tensor:
        """The network's output, shape (B, outputs · C, H, W).

        Raises:
            InputError: the output has another shape.
        """
        known = (self.known.for_batch(len(z)),) if self.known else ()
        output = to_default_dtype(self.condition(self.network, z, gamma, *known))
        wanted = (len(z), self.outputs * z.shape[1], *z.shape[2:])
        if output.shape != wanted:
            kind = type(self.network).__name__
            raise InputError("network", f"{kind} outputs the shape {tuple(output.shape)}, but the model needs {wanted}")
        return output

    def to_denoised(self, output: Tensor, z: Tensor, gamma: Tensor) -> Denoised:
        """x̂_0, ε̂ and the extras from the network's output."""
        channels = z.shape[1]
        first, *rest = torch.split(output, [self.prediction.outputs * channels, *[channels] * len(self.extras)], dim=1)
        extras: dict[str, Any] = {name: EXTRAS[name](part) for name, part in zip(self.extras, rest, strict=True)}
        return self.prediction.denoised(first, z, gamma)._replace(**extras)
