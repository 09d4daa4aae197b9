"""The codec of a diffusion model: bits-back coding with K latents, bottom-up (Kingma et al. 2019, "Bit-Swap").

    push: pop z_1 ~ q(z_1|x), push x by p(x|z_1),
          for k = 1 … K−1: pop z_{k+1} ~ q(z_{k+1}|z_k), push z_k by p(z_k|z_{k+1}),
          push z_K by N(0, I)

Each z_k gives back the bits that it took, so only two latents' bits are needed to begin with, whatever K. The bits of
an image are those of the trajectory form of the bound, −ln p(x, z_1 … z_K)/q(z_1 … z_K|x), whose mean is the bound.

z_k lies on the grid δ_k Z, where laws have the probabilities of the bins around its points. δ_k is half the standard
deviation of the narrower of q(z_k|z_{k−1}) and q(z_k|z_{k+1}, x).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nelbo.check import checked
from nelbo.codec.batches import BatchCoder, float64, in_float64, padded, pattern_images, patterned
from nelbo.codec.chain_settings import ChainSettings
from nelbo.codec.golden import numbers_of
from nelbo.codec.grid import Rounding, pop_salt, push_salt, salted
from nelbo.codec.moments import FastMoments
from nelbo.codec.pixels import NormalPixels, Pixels, TablePixels
from nelbo.codec.stack import Floats, Ints, Normals, Stack
from nelbo.diffusion.decoders import CategoricalDecoder, GaussianDecoder
from nelbo.diffusion.known import NOTHING, Known
from nelbo.diffusion.process import noise_rate, posterior_var
from nelbo.diffusion.schedules import chain_of
from nelbo.errors import InputError
from nelbo.models._diffusion_clusters import given
from nelbo.models.diffusion import Diffusion, with_variance
from nelbo.theory.likelihoods import to_unit
from nelbo.units import normal_bits

NARROWEST = 2.0**-6
"""The least standard deviation, in bins."""
MANY_LEVELS = 64
"""Levels above which Var(x|z) is not summed over all of them."""
SHARES = 2**20
"""The grid of the frequencies of clusters."""


class Here(NamedTuple):
    """A latent of a batch, and the network's output there.

    Attributes:
        z: whole numbers z_k/δ_k, shape (n · dims,).
        value: z_k, shape (n, C, H, W).
        output: the network's output, shape (n, outputs, H, W).
        gamma: γ_k, shape (n,).
    """

    z: Ints
    value: Tensor
    output: Tensor
    gamma: Tensor


class ChainCoder(BatchCoder):
    """Bits-back coding with a diffusion model.

    Args:
        model: the model.
        settings: the settings.

    Raises:
        InputError: the model does not have this σ².
    """

    def __init__(self, model: Diffusion, settings: ChainSettings) -> None:
        super().__init__(model.shape, model.levels, settings.model_dump(mode="json"), settings.in_flight)
        self.steps, self.dims = settings.steps, model.dims
        other = settings.reverse_variance != model.reverse_variance
        chosen = copy.copy(with_variance(model, settings.reverse_variance) if other else model)
        self.gammas = own_gammas(model, [step.gamma for step in self.steps])
        chosen.timeline = replace(model.timeline, steps=chain_of(self.gammas))
        self.model = in_float64(chosen)
        if settings.reverse_variance == "moments" and model.predicts == "levels" and model.levels > MANY_LEVELS:
            self.model.variance = FastMoments()

    # The laws

    def q(self, k: int, before: Floats) -> Normals:
        """q(z_k|z_{k−1}) of the whole numbers z_k/δ_k, from the values of z_{k−1}, or of the image for k = 0."""
        step = self.steps[k]
        rounding = Rounding(0)  # all machines have the same coefficients and values
        mean = rounding.floats(before * step.signal / step.width)
        std = max(float(rounding.floats(np.array([step.std / step.width]))[0]), NARROWEST)
        return Normals(mean, np.full(len(mean), std), escapes=False)

    def prior(self, count: int) -> Normals:
        """p(z_K) = N(0, I) of the whole numbers z_K/δ_K."""
        std = max(float(np.rint(1024 / self.steps[-1].width)) / 1024, NARROWEST)
        return Normals(np.zeros(count * self.dims), np.full(count * self.dims, std))

    def here(self, told: Diffusion, k: int, z: Ints) -> Here:
        """The network's output at z_k."""
        value = self.on_grid(k, z).reshape(-1, *self.shape)
        gamma, whole = self.gammas[k].expand(self.in_flight), padded(value, self.in_flight)
        output, count = told.denoiser.predict(whole, gamma), len(value)
        return Here(z, whole[:count], output[:count], gamma[:count])

    def below(self, k: int, here: Here, rounding: Rounding) -> Normals:
        """p(z_k|z_{k+1}) of the whole numbers z_k/δ_k."""
        denoised = self.model.denoiser.to_denoised(rounding.output(here.output), here.value, here.gamma)
        step = self.steps[k]
        law = self.model.variance.step(denoised, here.value, self.gammas[k].expand_as(here.gamma), here.gamma)
        std = (law.var.sqrt() / step.width).expand_as(law.mean)
        mean = rounding.floats((law.mean / step.width).reshape(-1).numpy())
        return Normals(mean, rounding.floats(std.reshape(-1).numpy()).clip(NARROWEST))

    def pixels(self, here: Here, rounding: Rounding) -> Pixels:
        """p(x|z_1)."""
        denoised = self.model.denoiser.to_denoised(rounding.output(here.output), here.value, here.gamma)
        decoder = self.model.decoder
        if isinstance(decoder, GaussianDecoder):
            return NormalPixels(decoder.law(denoised, here.gamma), rounding)
        assert isinstance(decoder, CategoricalDecoder)
        return TablePixels(decoder.log_probs(denoised, here.value, here.gamma).exp(), rounding)

    # The cluster of each image

    def told(self, cluster: Ints) -> Diffusion:
        """The model of images of these clusters."""
        clusters = self.model.clusters
        known = NOTHING if clusters is None else Known(clusters.picture(padded(cluster, self.in_flight)))
        return given(self.model, known)

    def cluster_weights(self, count: int) -> Floats | None:
        """The frequency of each cluster, the same for all images; None if there is no choice."""
        clusters = self.model.clusters
        if clusters is None or int(torch.count_nonzero(clusters.shares)) < 2:
            return None
        return np.tile(np.rint(clusters.shares.numpy() * SHARES), (count, 1))

    def clusters_of(self, images: NDArray[np.uint8]) -> Ints:
        """The cluster of each image, 0 without clusters."""
        if self.model.clusters is None:
            return np.zeros(len(images), np.int64)
        found: Ints = self.model.clusters(to_unit(torch.tensor(images), self.levels)).numpy()
        return found

    # The stack

    def push(self, stack: Stack, images: NDArray[np.uint8]) -> None:
        cluster = self.clusters_of(images)
        told, x = self.told(cluster), self.flat(images)
        here = self.here(told, 0, self.sampled(stack, 0, self.values(images)))
        push_x, salt = salted(lambda rounding: self.pixels(here, rounding).pushing(x))
        push_x(stack)
        push_salt(stack, salt)
        for k in range(len(self.steps) - 1):
            above = self.here(told, k + 1, self.sampled(stack, k + 1, self.on_grid(k, here.z)))
            law, salt = self.salted_below(k, above)
            law.push(stack, here.z)
            push_salt(stack, salt)
            here = above
        self.prior(len(images)).push(stack, here.z)
        weights = self.cluster_weights(len(images))
        if weights is not None:
            stack.push_by_table(cluster, weights)

    def salted_below(self, k: int, above: Here) -> tuple[Normals, int]:
        """p(z_k|z_{k+1}), and its salt."""
        return salted(lambda rounding: self.below(k, above, rounding))

    def sampled(self, stack: Stack, k: int, before: Floats) -> Ints:
        """z_k ~ q(z_k|z_{k−1}), in whole numbers.

        Raises:
            OutOfWordsError: the stack has too few words.
        """
        return stack.sample(self.q(k, before), turn=k)

    def pop(self, stack: Stack, count: int) -> NDArray[np.uint8]:
        weights = self.cluster_weights(count)
        cluster = np.zeros(count, np.int64) if weights is None else stack.pop_by_table(weights)
        told = self.told(cluster)
        here = self.here(told, len(self.steps) - 1, self.prior(count).pop(stack))
        for k in reversed(range(len(self.steps) - 1)):
            z = self.below(k, here, pop_salt(stack)).pop(stack)
            stack.give_back(self.q(k + 1, self.on_grid(k, z)), k + 1, here.z)
            here = self.here(told, k, z)
        images = self.unflat(self.pixels(here, pop_salt(stack)).pop(stack))
        stack.give_back(self.q(0, self.values(images)), 0, here.z)
        return images

    def on_grid(self, k: int, z: Ints) -> Floats:
        """z_k, from whole numbers."""
        return np.asarray(z * self.steps[k].width, dtype=np.float64)

    def values(self, images: NDArray[np.uint8]) -> Floats:
        """The pixels on [−1, 1], in a row."""
        return np.asarray(images.reshape(-1) * (2 / (self.levels - 1)) - 1, dtype=np.float64)

    # What else a coder has

    def initial_words(self) -> int:
        """The bits of the two latents that need most, z_{k+1} given the image and z_k given both, for one batch."""
        gammas, widths = self.gammas, np.array([step.width for step in self.steps])
        alone = normal_bits_of(noise_rate(gammas).numpy() / widths)
        most = alone.max()
        if len(widths) > 1:
            between = normal_bits_of(posterior_var(gammas[:-1], gammas[1:]).sqrt().numpy() / widths[:-1])
            most = max(most, (alone[1:] + between).max())
        return math.ceil(1.02 * self.in_flight * self.dims * most / 32) + 64

    def golden(self) -> Floats:
        """The network's outputs for fixed latents, at the first, a middle and the last γ."""
        with float64():
            told = self.told(self.clusters_of(pattern_images(self.shape, self.levels, 1)))
            places = sorted({0, len(self.steps) // 2, len(self.steps) - 1})
            z = [np.rint(patterned(self.dims).numpy() / self.steps[k].width).astype(np.int64) for k in places]
            return numbers_of([self.here(told, k, some).output for k, some in zip(places, z, strict=True)])


def normal_bits_of(std: Floats) -> Floats:
    """Bits of normal laws, for σ in bins."""
    return np.array([normal_bits(math.log(each)) for each in std])


def own_gammas(model: Diffusion, gammas: list[float]) -> Tensor:
    """The γ of settings; of a chain those of its own that they are, which may differ in their last bits.

    Raises:
        InputError: a γ is none of the chain's.
    """
    found = torch.tensor(gammas, dtype=torch.float64)
    if model.timeline.gammas is None:
        return found
    own = model.timeline.gammas[1:].cpu()
    nearest = own[(own - found[:, None]).abs().argmin(1)]
    if not torch.allclose(nearest, found, rtol=1e-6, atol=1e-6):  # a file may keep seven digits
        raise InputError("steps", "have a γ that is none of the model's chain")
    return nearest


def chain_coder(model: Diffusion, settings: Mapping[str, Any]) -> ChainCoder:
    """The codec of these settings.

    Raises:
        InputError: a setting is wrong, or the model does not have this σ².
    """
    found = checked(ChainSettings, settings)
    if any(after.gamma <= before.gamma for before, after in pairwise(found.steps)):
        raise InputError("steps", "γ must increase")
    return ChainCoder(model, found)
