"""What families with latents share: the distribution of the pixels, and settings of the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, Protocol, TypedDict

import torch
from pydantic import Field
from torch import Tensor

from nelbo.errors import InputError
from nelbo.models._checks import Labelled, checked_output
from nelbo.models._labels import drawn_classes
from nelbo.models.inspector import require_one_step
from nelbo.models.sampling import SampleSettings
from nelbo.options import FamilyOptions
from nelbo.theory.likelihoods import Bernoulli, DiscretizedLogistics, DiscretizedNormal, to_default_dtype
from nelbo.theory.normal import Gaussian

COMPONENTS = 5
"""Logistic components in a pixel's mixture."""
LOG_SCALES = (-7.0, 3.0)
"""Limits of ln σ of a pixel's distribution: from far below a level's spacing to far beyond all levels."""


LOG_STD_LIMIT = 5.0
"""A tanh limits ln σ of a latent to ±5."""
ROWS = 4
"""Rows of a picture of lines between codes, or of changes along a dimension."""


class Law(Protocol):
    """p(x|z), pixel by pixel."""

    def log_prob(self, level: Tensor) -> Tensor:
        """ln P(level), in nats."""

    def expectation(self) -> Tensor:
        """The mean, on the scale where levels fill [−1, 1]."""


Likelihood = Callable[[Tensor], Law]
"""A decoder's output → p(x|z)."""


class LatentOptions(FamilyOptions):
    """The settings that families with latents share."""

    decoder: Literal["auto", "bernoulli", "normal", "logistic"] = "auto"
    "p(x|z): Bernoulli for two levels, else a normal or five logistic distributions over the levels; auto: the richest."
    beta: Annotated[float, Field(gt=0)] = 1.0
    "β, the weight of the KL in training; 1 is the bound."
    free_bits: Annotated[float, Field(ge=0)] = 0.0
    "Nats of KL, averaged over the batch, that training does not reduce: for each dimension of z, or each level."
    kl_warmup: Annotated[int, Field(ge=0)] = 0
    "Steps over which the weight of the KL rises from 0 to β."

    def kl_weight(self, step: int) -> float:
        """The weight of the KL at this step."""
        return self.beta * (min(1.0, (step + 1) / self.kl_warmup) if self.kl_warmup else 1.0)


class KLSettings(TypedDict, total=False):
    """Settings of the KL in training, as keywords: fields of :class:`LatentOptions`."""

    beta: float
    free_bits: float
    kl_warmup: int


class PixelLaw:
    """p(x|z) from a network's output.

    Args:
        name: a ``decoder`` of :class:`LatentOptions`.
        shape: (C, H, W) of the images.
        levels: L.

    Raises:
        InputError: Bernoulli with more than two levels.
    """

    def __init__(self, name: str, shape: tuple[int, int, int], levels: int) -> None:
        self.name = ("bernoulli" if levels == 2 else "logistic") if name == "auto" else name
        if self.name == "bernoulli" and levels > 2:
            raise InputError("decoder", f"bernoulli needs two levels, but the images have {levels}; use logistic")
        self.shape, self.levels = shape, levels
        self.outputs = {"bernoulli": 1, "normal": 2, "logistic": 3 * COMPONENTS}[self.name] * shape[0]

    def __call__(self, output: Tensor) -> Law:
        """The distribution of every pixel, from an output of shape (B, outputs, H, W).

        Raises:
            InputError: the output has another shape.
        """
        C, H, W = self.shape
        parts = checked_output("decoder", output, (len(output), self.outputs, H, W))
        parts = parts.reshape(-1, C, self.outputs // C, H, W).movedim(2, -1)
        if self.name == "bernoulli":
            return Bernoulli(parts[..., 0])
        if self.name == "normal":
            return DiscretizedNormal(parts[..., 0], (parts[..., 1] - 1.0).clamp(*LOG_SCALES).exp(), self.levels)
        logits, mean, log_scale = parts.chunk(3, dim=-1)
        return DiscretizedLogistics(logits, mean, (log_scale - 1.0).clamp(*LOG_SCALES), self.levels)


def likelihood_name(likelihood: Likelihood) -> str:
    """The name of p(x|z), or of the class of a likelihood from Python."""
    return getattr(likelihood, "name", type(likelihood).__name__)


def gaussian(output: Tensor) -> Gaussian:
    """N(μ, σ²) from a network's output: μ and, before a tanh, ln σ along dimension 1."""
    mean, log_std = mean_and_log_std(output)
    return Gaussian(mean, (2 * log_std).exp())


def relative_gaussian(p: Gaussian, output: Tensor) -> Gaussian:
    """q relative to p: μ_q = μ_p + Δ, σ_q = σ_p e^δ  [Vahdat & Kautz 2020, section 3.2]."""
    shift, log_times = mean_and_log_std(output)
    return Gaussian(p.mean + shift, p.var * (2 * log_times).exp())


def mean_and_log_std(output: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and ln σ within ± ``LOG_STD_LIMIT``, in torch's default dtype."""
    mean, log_std = to_default_dtype(output).chunk(2, dim=1)
    return mean, LOG_STD_LIMIT * torch.tanh(log_std / LOG_STD_LIMIT)


def between(z: Tensor, other: Tensor, count: int) -> Tensor:
    """Points on the straight lines from the rows of z to those of ``other``, shape (B·count, …), line by line."""
    share = torch.linspace(0, 1, count, dtype=z.dtype, device=z.device).reshape(1, -1, *[1] * (z.ndim - 1))
    return ((1 - share) * z[:, None] + share * other[:, None]).flatten(0, 1)


def require_drawing(model: Labelled, settings: SampleSettings) -> None:
    """Refuse settings that a sample in one step from a prior does not use.

    Raises:
        InputError: a setting of a multistep sampler, a temperature that is negative or not finite, or a class that the
            model does not have.
    """
    require_one_step(model.family, settings)
    drawn_classes(model, settings)
    if settings.temperature is not None and not 0 <= settings.temperature < math.inf:
        raise InputError("temperature", f"{settings.temperature:g} must be at least 0 and finite; 1 is the prior's own")


def tempered(noise: Tensor, settings: SampleSettings) -> Tensor:
    """Standard normal noise times the temperature τ; τ < 1 gives more typical samples of less variety."""
    return noise if settings.temperature is None else noise * settings.temperature


def at_temperature(settings: SampleSettings) -> str:
    """The temperature τ as the end of a sentence, or "" if it is not set."""
    return "" if settings.temperature is None else f", at temperature {settings.temperature:g}"
