"""What families with latents share: the law of the pixels, and the settings of their training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, Protocol, TypedDict

import torch
from pydantic import Field
from torch import Tensor

from nelbo.errors import InputError
from nelbo.models._checks import checked_output
from nelbo.models.inspector import require_one_step
from nelbo.models.sampling import SampleSettings
from nelbo.options import FamilyOptions
from nelbo.theory.likelihoods import Bernoulli, DiscretizedLogistics, DiscretizedNormal, to_default_dtype
from nelbo.theory.normal import Gaussian

COMPONENTS = 5
"""Logistic laws in a pixel's mixture."""
LOG_SCALES = (-7.0, 3.0)
"""Between these ln σ of a pixel's law is held: from far below a level's spacing to far beyond all levels."""


LOG_STD_LIMIT = 5.0
"""ln σ of a latent stays between −5 and 5, by a tanh."""
ROWS = 4
"""Of a picture of lines between codes, or of walks along a dimension."""


class Law(Protocol):
    """p(x|z), pixel by pixel."""

    def log_prob(self, level: Tensor) -> Tensor:
        """ln P(level), in nats."""

    def expectation(self) -> Tensor:
        """The mean, on the scale where levels fill [−1, 1]."""


Likelihood = Callable[[Tensor], Law]
"""What makes p(x|z) of a decoder's output."""


class LatentOptions(FamilyOptions):
    """The settings that families with latents share."""

    decoder: Literal["auto", "bernoulli", "normal", "logistic"] = "auto"
    "p(x|z): Bernoulli for two levels, else a normal law or five logistic ones over the levels; auto: the richest."
    beta: Annotated[float, Field(gt=0)] = 1.0
    "What the KL counts in training; at 1 it is the bound."
    free_bits: Annotated[float, Field(ge=0)] = 0.0
    "Nats of KL, averaged over the batch, that training does not lower: of each dimension of z, or of each level."
    kl_warmup: Annotated[int, Field(ge=0)] = 0
    "Steps over which the KL comes to count in full."

    def kl_weight(self, step: int) -> float:
        """What the KL counts at this step."""
        return self.beta * (min(1.0, (step + 1) / self.kl_warmup) if self.kl_warmup else 1.0)


class KLSettings(TypedDict, total=False):
    """How the KL counts in training, as keywords: fields of :class:`LatentOptions`."""

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
        InputError: a Bernoulli law for more than two levels.
    """

    def __init__(self, name: str, shape: tuple[int, int, int], levels: int) -> None:
        self.name = ("bernoulli" if levels == 2 else "logistic") if name == "auto" else name
        if self.name == "bernoulli" and levels > 2:
            raise InputError("decoder", f"a Bernoulli law has two levels and these images {levels}; try logistic")
        self.shape, self.levels = shape, levels
        self.outputs = {"bernoulli": 1, "normal": 2, "logistic": 3 * COMPONENTS}[self.name] * shape[0]

    def __call__(self, output: Tensor) -> Law:
        """The law of every pixel, from shape (B, outputs, H, W).

        Raises:
            InputError: another shape.
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
    """The name of p(x|z), or of its class where it is of the user's own."""
    return getattr(likelihood, "name", type(likelihood).__name__)


def nll(law: Law, x: Tensor) -> Tensor:
    """−ln p(x|z) of each image, in nats, shape (B,)."""
    return -law.log_prob(x).flatten(1).sum(1)


def gaussian(output: Tensor) -> Gaussian:
    """N(μ, σ²) from a network's output, which holds μ and, before a tanh, ln σ along dimension 1."""
    mean, log_std = mean_and_log_std(output)
    return Gaussian(mean, (2 * log_std).exp())


def relative_gaussian(p: Gaussian, output: Tensor) -> Gaussian:
    """q from how it differs from p: μ_q = μ_p + Δ, σ_q = σ_p e^δ  [Vahdat & Kautz 2020, section 3.2]."""
    shift, log_times = mean_and_log_std(output)
    return Gaussian(p.mean + shift, p.var * (2 * log_times).exp())


def mean_and_log_std(output: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and ln σ within ± ``LOG_STD_LIMIT``, in torch's default type."""
    mean, log_std = to_default_dtype(output).chunk(2, dim=1)
    return mean, LOG_STD_LIMIT * torch.tanh(log_std / LOG_STD_LIMIT)


def between(z: Tensor, other: Tensor, count: int) -> Tensor:
    """Points on the straight lines from the rows of z to those of another, shape (B·count, …), line by line."""
    share = torch.linspace(0, 1, count, dtype=z.dtype, device=z.device).reshape(1, -1, *[1] * (z.ndim - 1))
    return ((1 - share) * z[:, None] + share * other[:, None]).flatten(0, 1)


def require_drawing(family: str, settings: SampleSettings) -> None:
    """Refuse what drawing latents from a prior and decoding them in one step has no use for.

    Raises:
        InputError: a setting of a sampler with steps, or a temperature that is below 0 or not finite.
    """
    require_one_step(family, settings)
    if settings.temperature is not None and not 0 <= settings.temperature < math.inf:
        raise InputError("temperature", f"{settings.temperature:g} is no spread; 1 is the prior's own, 0 none")


def tempered(noise: Tensor, settings: SampleSettings) -> Tensor:
    """Standard normal noise times the temperature τ: nearer to what is typical below 1, for less variety."""
    return noise if settings.temperature is None else noise * settings.temperature


def at_temperature(settings: SampleSettings) -> str:
    """The temperature τ in words, for the end of a sentence; "" where there is none."""
    return "" if settings.temperature is None else f", at temperature {settings.temperature:g}"
