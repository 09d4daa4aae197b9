"""The codec of a VAE: bits-back coding with z on a grid (Townsend et al. 2019), or each image alone.

    push: pop z ~ q(z|x), push x by p(x|z), push z by p(z)           log2 q(z|x) − log2 p(x|z) − log2 p(z) bits

z_d lies on the grid δ_d Z, where q and p have the probabilities of the bins around its points. δ_d is a power of two of
at most half of the standard deviation of q for most images, so that rounding hardly changes z.

Alone, an image has no bits to sample z from: z is the mean of q, rounded to a grid of δ_d = √12 σ_d, where rounding has
the variance of q. That costs ½ log2(2πe/12) = 0.254 bits for each z_d more than the bound, and each stack begins with
an integer of up to 24 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from nelbo.check import checked
from nelbo.codec.batches import BatchCoder, batches, float64, in_float64, padded, pattern_images, patterned
from nelbo.codec.grid import Rounding, pop_salt, push_salt, salted
from nelbo.codec.pixels import Pixels, Pushing, pixels_of
from nelbo.codec.stack import Floats, Ints, Normals, Stack
from nelbo.errors import InputError
from nelbo.models.vae import VAE, StandardNormal
from nelbo.options import Options
from nelbo.theory.likelihoods import to_unit
from nelbo.theory.normal import Gaussian

IN_FLIGHT = 64
"""Images per batch."""
MOST_BITS = math.log2(math.sqrt(2 * math.pi * math.e))
"""log2 of the bins that a normal law of standard deviation 1 fills on average."""
LARGEST_Z = 2.0**20


class VAESettings(Options):
    """The settings of a VAE's codec."""

    coder: Literal["vae", "vae-each"] = "vae"
    "Bits-back, or each image alone."
    in_flight: Annotated[int, Field(ge=1, le=4096)] = IN_FLIGHT
    "Images per batch."
    widths: tuple[Annotated[float, Field(gt=0, le=64)], ...] = ()
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
            parts = [q.mean, 0.5 * q.var.log(), self.output(z)]
            return np.concatenate([part.reshape(-1)[: 2**7].numpy() for part in parts])


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
        z = law.pop(stack)
        stack.require_words()
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
        self.laws.in_bins(q, pop_salt(stack)).push(stack, z)
        return images

    def golden(self) -> Floats:
        """As in :class:`~nelbo.codec.coder.Coder`."""
        return self.laws.golden()

    def initial_words(self) -> int:
        """Bits of z for one batch, if q were as wide as p."""
        bits = np.log2(1 / self.laws.widths).sum() + MOST_BITS * len(self.laws.widths)
        return math.ceil(1.1 * self.in_flight * max(bits, 1.0) / 32) + 16


class VAEEachCoder:
    """A VAE's code of each image alone, in the order x, z, as a string of bytes.

    Args:
        model: the model.
        settings: the settings.
    """

    def __init__(self, model: VAE, settings: VAESettings) -> None:
        self.settings, self.in_flight = settings.model_dump(mode="json"), settings.in_flight
        self.laws = VAELaws(model, np.array(settings.widths), settings.in_flight)
        self.batch = VAECoder(model, settings)

    def encode_each(self, images: NDArray[np.uint8]) -> list[bytes]:
        """As in :class:`~nelbo.codec.coder.EachCoder`."""
        self.batch.require(images)
        with float64():
            rows = batches(len(images), self.in_flight)
            return [code for some in rows for code in self.encode_batch(images[some])]

    def encode_batch(self, images: NDArray[np.uint8]) -> list[bytes]:
        """The bytes of at most ``in_flight`` images."""
        z = np.rint(self.laws.q(images).mean.numpy() / self.laws.widths).astype(np.int64)
        output, x = self.laws.output(z), images.reshape(len(images), -1).astype(np.int64)
        prior = self.laws.prior(1)

        def pushing(rounding: Rounding) -> list[Pushing]:
            rows = zip(torch.split(output, 1), x, strict=True)
            return [self.laws.pixels(some, rounding).pushing(levels) for some, levels in rows]

        pushes, salt = salted(pushing)
        codes = []
        for push_x, own in zip(pushes, z, strict=True):
            stack = Stack(np.zeros(0, np.uint32), sealed=False)
            push_x(stack)
            push_salt(stack, salt)
            prior.push(stack, own)
            codes.append(stack.words().astype("<u4").tobytes().rstrip(b"\0"))
        return codes

    def decode_each(self, codes: Sequence[bytes]) -> NDArray[np.uint8]:
        """As in :class:`~nelbo.codec.coder.EachCoder`."""
        with float64():
            found = [self.decode_batch(codes[some]) for some in batches(len(codes), self.in_flight)]
        return np.concatenate([np.zeros((0, *self.batch.shape), np.uint8), *found])

    def decode_batch(self, codes: Sequence[bytes]) -> NDArray[np.uint8]:
        """The images of at most ``in_flight`` strings."""
        prior, stacks = self.laws.prior(1), [stack_of(code) for code in codes]
        z = np.stack([prior.pop(stack) for stack in stacks])
        output = torch.split(self.laws.output(z), 1)
        roundings = [pop_salt(stack) for stack in stacks]
        rows = [
            self.laws.pixels(some, rounding).pop(stack)
            for some, rounding, stack in zip(output, roundings, stacks, strict=True)
        ]
        return self.batch.unflat(np.concatenate(rows))

    def golden(self) -> Floats:
        """As in :class:`~nelbo.codec.coder.EachCoder`."""
        return self.laws.golden()


def stack_of(code: bytes) -> Stack:
    """The stack of an image's bytes."""
    words = np.frombuffer(code + bytes(-len(code) % 4), "<u4").astype(np.uint32)
    return Stack(words, sealed=False)


def vae_settings(model: VAE, images: NDArray[np.uint8], each: bool) -> VAESettings:
    """The settings for a model and some images.

    Args:
        model: the model.
        images: images like those to come, n ≥ 1.
        each: whether each image is coded alone.
    """
    laws = VAELaws(model, np.ones(model.options.latent), min(IN_FLIGHT, len(images)))
    with float64():
        found = [laws.q(images[some]).var.sqrt() for some in batches(len(images), laws.size)]
    std = torch.cat(found)
    if each:
        widths = (math.sqrt(12) * std.log().mean(0).exp()).clamp(max=64)
        return VAESettings(coder="vae-each", widths=tuple(np.rint(widths.numpy() * 1024) / 1024))
    narrow = std.quantile(0.1, dim=0)
    return VAESettings(widths=tuple((2 ** (0.5 * narrow).log2().floor().clamp(-20, 0)).tolist()))


def vae_coder(model: VAE, settings: Mapping[str, Any]) -> VAECoder | VAEEachCoder:
    """The codec of these settings.

    Raises:
        InputError: a setting is wrong, or the prior is not N(0, I).
    """
    found = checked(VAESettings, settings)
    if len(found.widths) != model.options.latent:
        raise InputError("widths", f"are {len(found.widths)}, but z has {model.options.latent} components")
    return VAEEachCoder(model, found) if found.coder == "vae-each" else VAECoder(model, found)
