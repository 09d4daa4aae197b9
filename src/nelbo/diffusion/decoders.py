"""p(x|z) at the first γ, over the levels of every pixel: what turns the least noisy latent into an image.

Gaussian      N(x̂_0(z), σ²) integrated over each level's bin, σ² = 1 − ᾱ, or learned for each pixel      DDPM (13)
categorical   P(k|z) ∝ P(k) N(z; √ᾱ x_k, 1 − ᾱ), P(k) the network's law over levels, or even              VDM (8)
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
        extras: what of :data:`nelbo.diffusion.denoiser.EXTRAS` the network gives for it.
        rare_crossings: whether few draws of z may hold its cost: :mod:`nelbo.diffusion.rare`.
        learned: whether it has something to learn of its own.
    """

    extras: tuple[str, ...]
    rare_crossings: bool
    learned: bool

    def nll(self, x: Tensor, denoised: Denoised, z: Tensor, gamma: Tensor) -> Tensor:
        """−ln p(x|z) of each pixel, in nats, shape (B, C, H, W).

        Args:
            x: integer levels 0 … L−1, shape (B, C, H, W).
            denoised: what the denoiser says of z.
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

    def nll(self, x: Tensor, denoised: Denoised, z: Tensor, gamma: Tensor) -> Tensor:
        """As :class:`Decoder` says."""
        log_std = per_image(noise_rate(gamma).log(), denoised.x_0)
        if denoised.log_std is not None:
            log_std = log_std + denoised.log_std
        return -DiscretizedNormal(denoised.x_0, log_std.exp(), self.levels).log_prob(x)


class CategoricalDecoder:
    """A law over all levels of each pixel: what the network's law becomes once z is seen; without one, from z alone.

    Args:
        levels: L.
        learned: whether there is a network's law.
    """

    rare_crossings = False
    extras: tuple[str, ...] = ()

    def __init__(self, levels: int, learned: bool = False) -> None:
        self.levels, self.learned = levels, learned

    def nll(self, x: Tensor, denoised: Denoised, z: Tensor, gamma: Tensor) -> Tensor:
        """As :class:`Decoder` says."""
        if denoised.law is not None:
            log_p = denoised.law.log_probs()
        else:
            signal, noise = rates(gamma, z)
            distance = (z / signal)[..., None] - to_unit(torch.arange(self.levels, device=z.device), self.levels)
            log_p = (-0.5 * (signal / noise).square()[..., None] * distance.square()).log_softmax(-1)
        return -log_p.gather(-1, x.long()[..., None])[..., 0]


DECODERS: dict[str, Callable[[int, bool], Decoder]] = {
    "gaussian": lambda levels, law: GaussianDecoder(levels),
    "learned_gaussian": lambda levels, law: GaussianDecoder(levels, learned=True),
    "categorical": lambda levels, law: CategoricalDecoder(levels, learned=law),
}
"""Every decoder by name: made of L, and whether the network predicts a law over levels."""
