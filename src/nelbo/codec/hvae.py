"""The codec of a hierarchical VAE: bits-back coding with a latent map at each level.

Top-down, q(z_t|z_{t+1}, x) needs all latents above, so that all are popped before anything is pushed:

    push: for t = T … 1: pop z_t ~ q(z_t|z_{t+1}, x); push x by p(x|z_1); for t = 1 … T: push z_t by p(z_t|z_{t+1})

Bottom-up, q(z_t|z_{t−1}) only needs the latent below, and each latent gives back the bits of the one before (Kingma et
al. 2019, "Bit-Swap"):

    push: pop z_1 ~ q(z_1|x), push x by p(x|z_1); for t = 2 … T: pop z_t, push z_{t−1} by p(z_{t−1}|z_t); push z_T

z_t lies on the grid δ_t Z, where laws have the probabilities of the bins around its points. δ_t is a power of two of at
most the standard deviation of q for most of a level's components: with a quarter of it, images are no smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from nelbo.check import checked
from nelbo.codec.batches import (
    MOST_IN_FLIGHT,
    THINNEST,
    BatchCoder,
    InFlight,
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
from nelbo.models._latent import relative_gaussian
from nelbo.models.hvae import HVAE
from nelbo.options import Options
from nelbo.theory.likelihoods import to_unit
from nelbo.theory.normal import Gaussian
from nelbo.units import normal_bits

IN_FLIGHT = 2
"""Images per batch: each needs bits for all its latents to begin with."""
NARROWEST = 2.0**-6
"""The least standard deviation, in bins."""
LARGEST_Z = 2.0**20


class HVAESettings(Options):
    """The settings of a hierarchical VAE's codec."""

    coder: Literal["hvae"] = "hvae"
    "Bits-back with a map of latents at each level."
    in_flight: InFlight = IN_FLIGHT
    "Images per batch."
    widths: tuple[Annotated[float, Field(ge=THINNEST, le=1)], ...] = ()
    "δ of each level, that of z_1 first."
    bits: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    "Bits of all latents that q takes for one image, on average."


class HVAECoder(BatchCoder):
    """Bits-back coding with a hierarchical VAE.

    Args:
        model: the model.
        settings: the settings.
    """

    def __init__(self, model: HVAE, settings: HVAESettings) -> None:
        super().__init__(model.shape, model.levels, settings.model_dump(mode="json"), settings.in_flight)
        self.model, self.widths, self.bits = in_float64(model), settings.widths, settings.bits
        self.depth = len(settings.widths)

    # The laws, as networks give them

    def value(self, z: Ints, t: int) -> Tensor:
        """z_t as maps for a whole batch."""
        return padded((z * self.widths[t - 1]).reshape(-1, *self.model.ladder.maps[t - 1]), self.in_flight)

    def features(self, z: Ints, t: int, above: Any) -> Any:
        """The features of z_t for a whole batch."""
        return self.model._features(self.value(z, t), t, above)

    def seen(self, images: NDArray[np.uint8]) -> Tensor:
        """The images of a whole batch on [−1, 1]."""
        return to_unit(padded(images, self.in_flight), self.levels)

    def p(self, features: Any, t: int) -> Gaussian:
        """p(z_t|z_{t+1}) of a whole batch, from the features of z_{t+1}; None at t = T."""
        if features is None:
            return self.model._start(torch.zeros(()), self.in_flight)
        return self.model._below(features, t)

    def q(self, pyramid: Any, features: Any, p: Gaussian, t: int) -> Gaussian:
        """q(z_t|z_{t+1}, x) of a whole batch, top-down."""
        return relative_gaussian(p, self.model._checked("encoder", self.model.encoder(pyramid, features, t), t))

    def in_bins(self, law: Gaussian, t: int, count: int, rounding: Rounding, escapes: bool) -> Normals:
        """A law of z_t as one of the whole numbers z_t/δ_t, for ``count`` images."""
        width = self.widths[t - 1]
        mean = rounding.floats((law.mean[:count].clamp(-LARGEST_Z, LARGEST_Z) / width).reshape(-1).numpy())
        std = rounding.floats((law.var[:count].sqrt() / width).reshape(-1).numpy())
        return Normals(mean, std.clip(NARROWEST), escapes)

    def pixels(self, output: Tensor, rounding: Rounding) -> Pixels:
        """p(x|z_1), from the network's output."""
        return pixels_of(self.model.pixels(rounding.output(output)), rounding)

    def sample(self, stack: Stack, law: Gaussian, t: int, count: int) -> tuple[Ints, int]:
        """z_t ~ q in whole numbers, and the salt of q."""
        found, salt = salted(lambda rounding: self.in_bins(law, t, count, rounding, escapes=False))
        return stack.sample(found, turn=t), salt

    def push_by(self, stack: Stack, law: Gaussian, t: int, count: int, z: Ints) -> None:
        """Push z_t by p, and the salt of p."""
        found, salt = salted(lambda rounding: self.in_bins(law, t, count, rounding, escapes=True))
        found.push(stack, z)
        push_salt(stack, salt)

    def push_pixels(self, stack: Stack, features: Any, images: NDArray[np.uint8]) -> None:
        """Push the images by p(x|z_1), and its salt."""
        output, x = self.model.ladder.image(features)[: len(images)], self.flat(images)
        push_x, salt = salted(lambda rounding: self.pixels(output, rounding).pushing(x))
        push_x(stack)
        push_salt(stack, salt)

    def pop_by(self, stack: Stack, law: Gaussian, t: int, count: int) -> Ints:
        """z_t by p, after its salt."""
        return self.in_bins(law, t, count, pop_salt(stack), escapes=True).pop(stack)

    def pop_pixels(self, stack: Stack, features: Any, count: int) -> NDArray[np.uint8]:
        """The images by p(x|z_1), after its salt."""
        output = self.model.ladder.image(features)[:count]
        return self.unflat(self.pixels(output, pop_salt(stack)).pop(stack))

    # What else a coder has

    def initial_words(self) -> int:
        """The bits of all latents of one batch, which is too many for bottom-up inference."""
        return math.ceil(1.25 * self.in_flight * self.bits / 32) + 64

    def golden(self) -> Floats:
        """The laws of all levels for fixed images and latents, and the decoder's output."""
        count = min(2, self.in_flight)
        with float64():
            z = [
                np.rint(patterned(count * math.prod(size)).numpy() / width).astype(np.int64)
                for size, width in zip(self.model.ladder.maps, self.widths, strict=True)
            ]
            laws = self.all_laws(pattern_images(self.shape, self.levels, count), z)
            return numbers_of([part[:count] for law in laws for part in law])

    def all_laws(self, images: NDArray[np.uint8], z: list[Ints]) -> list[tuple[Tensor, ...]]:
        """μ and ln σ of each q and p at z_1 … z_T, and the decoder's output."""
        raise NotImplementedError

    def spreads(self, images: NDArray[np.uint8]) -> list[Tensor]:
        """The standard deviations of q at each level, that of z_1 first, where each latent is its mean."""
        raise NotImplementedError

    def mean(self, law: Gaussian, t: int) -> Ints:
        """The mean of z_t in whole numbers."""
        found: Ints = np.rint((law.mean / self.widths[t - 1]).reshape(-1).numpy()).astype(np.int64)
        return found


class TopDownCoder(HVAECoder):
    """With top-down inference."""

    def push(self, stack: Stack, images: NDArray[np.uint8]) -> None:
        count, pyramid, features = len(images), self.model.encoder.pyramid(self.seen(images)), None
        laws, z, salts = [], list[Ints](), []
        for t in range(self.depth, 0, -1):
            laws.append(self.p(features, t))
            found, salt = self.sample(stack, self.q(pyramid, features, laws[-1], t), t, count)
            features = self.features(found, t, features)
            z.append(found)
            salts.append(salt)
        for salt in salts:
            push_salt(stack, salt)
        self.push_pixels(stack, features, images)
        for t in range(1, self.depth + 1):
            self.push_by(stack, laws[-t], t, count, z[-t])

    def pop(self, stack: Stack, count: int) -> NDArray[np.uint8]:
        features, above, laws, z = None, list[Any](), list[Gaussian](), list[Ints]()
        for t in range(self.depth, 0, -1):
            above.append(features)
            laws.append(self.p(features, t))
            z.append(self.pop_by(stack, laws[-1], t, count))
            features = self.features(z[-1], t, features)
        images = self.pop_pixels(stack, features, count)
        pyramid = self.model.encoder.pyramid(self.seen(images))
        roundings = [pop_salt(stack) for _ in laws]
        for t, rounding in enumerate(roundings, 1):
            q = self.q(pyramid, above[-t], laws[-t], t)
            stack.give_back(self.in_bins(q, t, count, rounding, escapes=False), t, z[-t])
        return images

    def all_laws(self, images: NDArray[np.uint8], z: list[Ints]) -> list[tuple[Tensor, ...]]:
        pyramid, features, found = self.model.encoder.pyramid(self.seen(images)), None, list[tuple[Tensor, ...]]()
        for t in range(self.depth, 0, -1):
            p = self.p(features, t)
            q = self.q(pyramid, features, p, t)
            found += [(law.mean, 0.5 * law.var.log()) for law in (p, q)]
            features = self.features(z[t - 1], t, features)
        return [*found, (self.model.ladder.image(features),)]

    def spreads(self, images: NDArray[np.uint8]) -> list[Tensor]:
        pyramid, features, found = self.model.encoder.pyramid(self.seen(images)), None, []
        for t in range(self.depth, 0, -1):
            q = self.q(pyramid, features, self.p(features, t), t)
            features = self.features(self.mean(q, t), t, features)
            found.append(q.var.sqrt())
        return found[::-1]


class BottomUpCoder(HVAECoder):
    """With bottom-up inference."""

    def push(self, stack: Stack, images: NDArray[np.uint8]) -> None:
        count, below, z = len(images), self.seen(images), np.zeros(0, np.int64)
        for t in range(1, self.depth + 1):
            found, salt = self.sample(stack, self.model._above(below, t), t, count)
            push_salt(stack, salt)
            features = self.features(found, t, None)
            if t == 1:
                self.push_pixels(stack, features, images)
            else:
                self.push_by(stack, self.p(features, t - 1), t - 1, count, z)
            z, below = found, self.value(found, t)
        self.push_by(stack, self.p(None, self.depth), self.depth, count, z)

    def pop(self, stack: Stack, count: int) -> NDArray[np.uint8]:
        z = self.pop_by(stack, self.p(None, self.depth), self.depth, count)
        for t in range(self.depth, 1, -1):
            below = self.pop_by(stack, self.p(self.features(z, t, None), t - 1), t - 1, count)
            self.give_back(stack, self.value(below, t - 1), t, count, z)
            z = below
        images = self.pop_pixels(stack, self.features(z, 1, None), count)
        self.give_back(stack, self.seen(images), 1, count, z)
        return images

    def give_back(self, stack: Stack, below: Tensor, t: int, count: int, z: Ints) -> None:
        """Push z_t by q(z_t|z_{t−1}), after its salt."""
        q = self.model._above(below, t)
        stack.give_back(self.in_bins(q, t, count, pop_salt(stack), escapes=False), t, z)

    def all_laws(self, images: NDArray[np.uint8], z: list[Ints]) -> list[tuple[Tensor, ...]]:
        values = [self.seen(images), *(self.value(some, t) for t, some in enumerate(z, 1))]
        q = [self.model._above(values[t - 1], t) for t in range(1, self.depth + 1)]
        features = [self.features(some, t, None) for t, some in enumerate(z, 1)]
        p = [self.p(some, t) for t, some in enumerate(features[1:], 1)]
        return [*((law.mean, 0.5 * law.var.log()) for law in (*p, *q)), (self.model.ladder.image(features[0]),)]

    def spreads(self, images: NDArray[np.uint8]) -> list[Tensor]:
        below, found = self.seen(images), []
        for t in range(1, self.depth + 1):
            q = self.model._above(below, t)
            below = self.value(self.mean(q, t), t)
            found.append(q.var.sqrt())
        return found


def hvae_settings(model: HVAE, images: NDArray[np.uint8]) -> HVAESettings:
    """The settings for a model and some images.

    Args:
        model: the model.
        images: images like those to come, n ≥ 1; the first ``MOST_IN_FLIGHT`` of them are used.
    """
    images = images[:MOST_IN_FLIGHT]
    narrow, bits, count = list[float](), 0.0, len(images)
    rough = hvae_coder(model, HVAESettings(in_flight=count, widths=(2.0**-8,) * len(model.ladder.maps)).model_dump())
    with float64():
        for t, std in enumerate(rough.spreads(images), 1):
            narrow.append(power_below(min(1.0, max(THINNEST, float(std.quantile(0.1))))))
            log_std = float((std / narrow[-1]).clamp(min=0.25).log().mean())
            bits += normal_bits(log_std) * math.prod(model.ladder.maps[t - 1])
    return HVAESettings(widths=tuple(narrow), bits=bits)


def hvae_coder(model: HVAE, settings: Mapping[str, Any]) -> HVAECoder:
    """The codec of these settings.

    Raises:
        InputError: a setting is wrong.
    """
    found = checked(HVAESettings, settings)
    if len(found.widths) != len(model.ladder.maps):
        raise InputError("widths", f"are {len(found.widths)}, but there are {len(model.ladder.maps)} levels")
    return (TopDownCoder if model.downwards else BottomUpCoder)(model, found)
