"""The codec of a VAE: bits-back coding with z on a grid (Townsend et al. 2019).

    push: pop z ~ q(z|x), push x by p(x|z), push z by p(z)           log2 q(z|x) − log2 p(x|z) − log2 p(z) bits

z_d lies on the grid δ_d Z, where q and p have the probabilities of the bins around its points. δ_d is a power of two of
at most the standard deviation of q for most images: with a quarter of it, images are no smaller.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from nelbo.codec.batches import (
    MOST_IN_FLIGHT,
    THINNEST,
    BatchCoder,
    InFlight,
    batches,
    float64,
    in_float64,
    padded,
    pattern_images,
    patterned,
    power_below,
)
from nelbo.codec.golden import numbers_of
from nelbo.codec.grid import Rounding, pop_salt, push_salt, salted
from nelbo.codec.pixels import Pixels, pixels_of
from nelbo.codec.stack import Floats, Ints, Normals, Stack
from nelbo.errors import InputError
from nelbo.models.vae import VAE, StandardNormal
from nelbo.options import Options
from nelbo.theory.likelihoods import to_unit
from nelbo.theory.normal import Gaussian
from nelbo.units import normal_bits

IN_FLIGHT = MOST_IN_FLIGHT
"""Images per batch."""
LARGEST_Z = 2.0**20
SMALLEST_WIDTH = 2.0**-20


class VAESettings(Options):
    """The settings of a VAE's codec."""

    coder: Literal["vae", "vae-each"] = "vae"
    "Bits-back, or each image alone."
    in_flight: InFlight = IN_FLIGHT
    "Images per batch."
    widths: tuple[Annotated[float, Field(ge=THINNEST, le=64)], ...] = ()
    "δ of each component of z."


def require_vae(model: VAE) -> None:
    """Check that a VAE has a codec.

    Raises:
        InputError: its prior is not N(0, I).
    """
    if not isinstance(model.prior, StandardNormal):
        raise InputError("RUN", f"cannot be compressed with: its prior is {type(model.prior).__name__}, not N(0, I)")


class VAELaws:
    """The laws of a VAE on a grid of z.

    Args:
        model: the model.
        widths: δ, float64, shape (latent,).
        size: images per batch.
    """

    def __init__(self, model: VAE, widths: Floats, size: int) -> None:
        require_vae(model)
        self.model, self.widths, self.size = in_float64(model), widths, size

    def q(self, images: NDArray[np.uint8]) -> Gaussian:
        """q(z|x) of a batch of images, shape (n, latent)."""
        found = self.model._encode(to_unit(padded(images, self.size), self.model.levels))
        return Gaussian(found.mean[: len(images)], found.var[: len(images)])

    def in_bins(self, q: Gaussian, rounding: Rounding) -> Normals:
        """q(z|x) of the whole numbers z/δ."""
        std = rounding.floats((q.var.sqrt().numpy() / self.widths).reshape(-1))
        mean = rounding.floats((q.mean.clamp(-LARGEST_Z, LARGEST_Z).numpy() / self.widths).reshape(-1))
        return Normals(mean, std.clip(2.0**-6), escapes=False)

    def prior(self, count: int) -> Normals:
        """p(z) of the whole numbers z/δ."""
        std = np.rint(1 / self.widths * 1024) / 1024
        return Normals(np.zeros(count * len(std)), np.tile(std.clip(2.0**-6), count))

    def output(self, z: Ints) -> Tensor:
        """The network's output for the whole numbers z/δ, shape (n, outputs, H, W)."""
        rows = z.reshape(-1, len(self.widths)) * self.widths
        found: Tensor = self.model.decoder(padded(rows, self.size))[: len(rows)]
        return found

    def pixels(self, output: Tensor, rounding: Rounding) -> Pixels:
        """p(x|z)."""
        return pixels_of(self.model.law(rounding.output(output)), rounding)

    def golden(self) -> Floats:
        """μ, ln σ and the decoder's output for fixed inputs."""
        with float64():
            q = self.q(pattern_images(self.model.shape, self.model.levels))
            z = np.rint(patterned(2, len(self.widths)).numpy() / self.widths).astype(np.int64)
            return numbers_of([q.mean, 0.5 * q.var.log(), self.output(z)])


class VAECoder(BatchCoder):
    """Bits-back coding with a VAE.

    Args:
        model: the model.
        settings: the settings.
    """

    def __init__(self, model: VAE, settings: VAESettings) -> None:
        super().__init__(model.shape, model.levels, settings.model_dump(mode="json"), settings.in_flight)
        self.laws = VAELaws(model, np.array(settings.widths), settings.in_flight)

    def push(self, stack: Stack, images: NDArray[np.uint8]) -> None:
        q = self.laws.q(images)
        law, salt = salted(lambda rounding: self.laws.in_bins(q, rounding))
        z = stack.sample(law, turn=0)
        push_salt(stack, salt)
        output, x = self.laws.output(z), self.flat(images)
        push_x, salt = salted(lambda rounding: self.laws.pixels(output, rounding).pushing(x))
        push_x(stack)
        push_salt(stack, salt)
        self.laws.prior(len(images)).push(stack, z)

    def pop(self, stack: Stack, count: int) -> NDArray[np.uint8]:
        z = self.laws.prior(count).pop(stack)
        pixels = self.laws.pixels(self.laws.output(z), pop_salt(stack))
        images = self.unflat(pixels.pop(stack))
        q = self.laws.q(images)
        stack.give_back(self.laws.in_bins(q, pop_salt(stack)), 0, z)
        return images

    def golden(self) -> Floats:
        """As in :class:`~nelbo.codec.coder.Coder`."""
        return self.laws.golden()

    def initial_words(self) -> int:
        """Bits of z for one batch, if q were as wide as p."""
        bits = sum(normal_bits(-math.log(width)) for width in self.laws.widths)
        return math.ceil(1.1 * self.in_flight * max(bits, 1.0) / 32) + 16


def spreads(model: VAE, images: NDArray[np.uint8]) -> Tensor:
    """The standard deviations of q(z|x), shape (n, latent)."""
    laws = VAELaws(model, np.ones(model.options.latent), min(IN_FLIGHT, len(images)))
    with float64():
        return torch.cat([laws.q(images[some]).var.sqrt() for some in batches(len(images), laws.size)])


def vae_settings(model: VAE, images: NDArray[np.uint8]) -> VAESettings:
    """The settings for a model and some images.

    Args:
        model: the model.
        images: images like those to come, n ≥ 1.
    """
    narrow = spreads(model, images).quantile(0.1, dim=0)
    return VAESettings(widths=tuple(power_below(min(1.0, max(SMALLEST_WIDTH, float(std)))) for std in narrow))
