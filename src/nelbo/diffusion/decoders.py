"""p(x|z) at the first γ, over the levels of every pixel: the step from the least noisy latent to an image.

Gaussian      N(x̂_0(z), σ²) integrated over each level's bin, σ² = 1 − ᾱ, or learned for each pixel      DDPM (13)
categorical   P(k|z) ∝ P(k) N(z; √ᾱ x_k, 1 − ᾱ), P(k) the network's law over levels, or uniform           VDM (8)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised
from nelbo.diffusion.process import noise_rate, per_image, rates
from nelbo.theory.likelihoods import DiscretizedNormal, to_unit


class Decoder(Protocol):
    """p(x|z), pixel by pixel.

    Attributes:
        extras: names of :data:`nelbo.diffusion.denoiser.EXTRAS` that the network must output.
        rare_crossings: whether rare samples of z can hold most of its cost: :mod:`nelbo.diffusion.rare`.
        learned: whether a part of the network's output is for the decoder.
    """

    extras: tuple[str, ...]
    rare_crossings: bool
    learned: bool

    def nll(self, x: Tensor, denoised: Denoised, z: Tensor, gamma: Tensor) -> Tensor:
        """−ln p(x|z) of each pixel, in nats, shape (B, C, H, W).

        Args:
            x: integer levels 0 … L−1, shape (B, C, H, W).
            denoised: the denoiser's result at z.
            z: shape (B, C, H, W).
            gamma: shape (B,).
        """


class GaussianDecoder:
    """N(x̂_0, σ²) over the levels  [DDPM (13)].

    Args:
        levels: L.
        learned: whether ln σ is learned for each pixel; else σ² = 1 − ᾱ, DDPM's β_1.
    """

    rare_crossings = True

    def __init__(self, levels: int, learned: bool = False) -> None:
        self.levels, self.learned = levels, learned
        self.extras: tuple[str, ...] = ("log_std",) if learned else ()

    def law(self, denoised: Denoised, gamma: Tensor) -> DiscretizedNormal:
        """p(x|z) from the denoiser's result at z."""
        log_std = per_image(noise_rate(gamma).log(), denoised.x_0)
        if denoised.log_std is not None:
            log_std = log_std + denoised.log_std
        return DiscretizedNormal(denoised.x_0, log_std.exp(), self.levels)

    def nll(self, x: Tensor, denoised: Denoised, z: Tensor, gamma: Tensor) -> Tensor:
        """As in :class:`Decoder`."""
        return -self.law(denoised, gamma).log_prob(x)


class CategoricalDecoder:
    """A distribution over all levels of each pixel: the posterior of the network's law given z, or of a uniform law.

    Args:
        levels: L.
        learned: whether the network predicts a law over levels.
    """

    rare_crossings = False
    extras: tuple[str, ...] = ()

    def __init__(self, levels: int, learned: bool = False) -> None:
        self.levels, self.learned = levels, learned

    def log_probs(self, denoised: Denoised, z: Tensor, gamma: Tensor) -> Tensor:
        """ln P(k|z) of every level, shape (B, C, H, W, L)."""
        if denoised.law is not None:
            return denoised.law.log_probs()
        signal, noise = rates(gamma, z)
        distance = (z / signal)[..., None] - to_unit(torch.arange(self.levels, device=z.device), self.levels)
        return (-0.5 * (signal / noise).square()[..., None] * distance.square()).log_softmax(-1)

    def nll(self, x: Tensor, denoised: Denoised, z: Tensor, gamma: Tensor) -> Tensor:
        """As in :class:`Decoder`."""
        return -self.log_probs(denoised, z, gamma).gather(-1, x.long()[..., None])[..., 0]


DECODERS: dict[str, Callable[[int, bool], Decoder]] = {
    "gaussian": lambda levels, law: GaussianDecoder(levels),
    "learned_gaussian": lambda levels, law: GaussianDecoder(levels, learned=True),
    "categorical": lambda levels, law: CategoricalDecoder(levels, learned=law),
}
"""Every decoder by name: a function of L and of whether the network predicts a law over levels."""
