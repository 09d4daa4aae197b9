"""The codec of a VAE for each image alone, which gives random access.

An image alone has no bits to sample z from: z is the mean of q(z|x), rounded to a grid of δ_d = √12 σ_d, where rounding
has the variance of q. That costs ½ ln(2πe/12) nats = 0.254 bits for each z_d more than the bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nelbo.check import checked
from nelbo.codec.batches import batches, float64
from nelbo.codec.grid import Rounding, pop_salt, push_salt, salted
from nelbo.codec.pixels import Pushing
from nelbo.codec.stack import Floats, Stack
from nelbo.codec.vae import VAECoder, VAELaws, VAESettings, spreads
from nelbo.errors import InputError
from nelbo.models.vae import VAE


class VAEEachCoder:
    """Each image alone by a VAE, as a string of bytes.

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

        def pushing(rounding: Rounding) -> list[tuple[int, Pushing]]:
            rows = zip(torch.split(output, 1), x, strict=True)
            return [self.laws.pixels(some, rounding).pushing_alone(levels) for some, levels in rows]

        pushes, salt = salted(pushing)
        codes = []
        for (number, push_x), own in zip(pushes, z, strict=True):
            stack = Stack.of_number(number)
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
            self.laws.pixels(some, rounding).pop_alone(stack)
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


def each_settings(model: VAE, images: NDArray[np.uint8]) -> VAESettings:
    """The settings for a model and some images.

    Args:
        model: the model.
        images: images like those to come, n ≥ 1.
    """
    widths = (math.sqrt(12) * spreads(model, images).log().mean(0).exp()).clamp(1 / 1024, 64)
    return VAESettings(coder="vae-each", widths=tuple(np.rint(widths.numpy() * 1024) / 1024))


def vae_coder(model: VAE, settings: Mapping[str, Any]) -> VAECoder | VAEEachCoder:
    """The codec of these settings, of all images on one stack or of each image alone.

    Raises:
        InputError: a setting is wrong, or the prior is not N(0, I).
    """
    found = checked(VAESettings, settings)
    if len(found.widths) != model.options.latent:
        raise InputError("widths", f"are {len(found.widths)}, but z has {model.options.latent} components")
    return VAEEachCoder(model, found) if found.coder == "vae-each" else VAECoder(model, found)
