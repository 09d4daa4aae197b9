"""What families with latents share: the law of the pixels, and the settings of their training."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from nelbo.errors import InputError
from nelbo.models.base import SampleSettings
from nelbo.options import FamilyOptions
from nelbo.theory.likelihoods import Bernoulli, DiscretizedLogistics, DiscretizedNormal, full

COMPONENTS = 5
"""Logistic laws in a pixel's mixture."""
LOG_SCALES = (-7.0, 3.0)
"""Between these ln σ of a pixel's law is held: from far below a level's spacing to far beyond all levels."""


ROWS = 4
"""Of a picture of lines between codes, or of walks along a dimension."""


class Law(Protocol):
    """p(x|z), pixel by pixel."""

    def log_prob(self, level: Tensor) -> Tensor:
        """ln P(level), in nats."""

    def expectation(self) -> Tensor:
        """The mean, on the scale where levels fill [−1, 1]."""


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
            raise InputError("--decoder", f"a Bernoulli law has two levels and these images {levels}; try logistic")
        self.channels, self.levels = shape[0], levels
        self.outputs = {"bernoulli": 1, "normal": 2, "logistic": 3 * COMPONENTS}[self.name] * shape[0]

    def __call__(self, output: Tensor) -> Law:
        """The law of every pixel, from shape (B, outputs, H, W)."""
        B, _, H, W = output.shape
        parts = full(output).reshape(B, self.channels, -1, H, W).movedim(2, -1)
        if self.name == "bernoulli":
            return Bernoulli(parts[..., 0])
        if self.name == "normal":
            return DiscretizedNormal(parts[..., 0], (parts[..., 1] - 1.0).clamp(*LOG_SCALES).exp(), self.levels)
        logits, mean, log_scale = parts.chunk(3, dim=-1)
        return DiscretizedLogistics(logits, mean, (log_scale - 1.0).clamp(*LOG_SCALES), self.levels)

    def nll(self, output: Tensor, x: Tensor) -> Tensor:
        """−ln p(x|z) of each image, in nats, shape (B,)."""
        return -self(output).log_prob(x).flatten(1).sum(1)


def between(z: Tensor, other: Tensor, count: int) -> Tensor:
    """Points on the straight lines from the rows of z to those of another, shape (B·count, …), line by line."""
    share = torch.linspace(0, 1, count, dtype=z.dtype, device=z.device).reshape(1, -1, *[1] * (z.ndim - 1))
    return ((1 - share) * z[:, None] + share * other[:, None]).flatten(0, 1)


def in_one_step(family: str, settings: SampleSettings) -> None:
    """Refuse what only a sampler with steps has a use for.

    Raises:
        InputError: such a setting.
    """
    for option, value in (("--sampler", settings.sampler), ("--steps", settings.steps), ("--eta", settings.eta)):
        if value is not None:
            raise InputError(option, f"a family of its kind draws in one step, and this is {family}; leave it out")


def tempered(noise: Tensor, settings: SampleSettings) -> Tensor:
    """Standard normal noise times the temperature τ: nearer to what is typical below 1, for less variety."""
    return noise if settings.temperature is None else noise * settings.temperature


def said(settings: SampleSettings) -> str:
    """The temperature τ in words, for the end of a sentence.

    Raises:
        InputError: τ is below 0, or not finite.
    """
    if settings.temperature is None:
        return ""
    if not 0 <= settings.temperature < math.inf:
        raise InputError("--temperature", f"{settings.temperature:g} is no spread; 1 is the prior's own, 0 none")
    return f", at temperature {settings.temperature:g}"
