"""Guidance by what is known of an image, its cluster c and its label y (Ho & Salimans 2022), or by a weaker model
(autoguidance, Karras et al. 2024), in an interval of noise (Kynkäänniemi et al. 2024).

    ε̂ = ε̂′ + g (ε̂(c, y) − ε̂′),   low ≤ γ ≤ high;   ε̂ = ε̂(c, y) elsewhere

ε̂′ is ε̂(∅), or the weaker model's ε̂(c, y). With exact denoisers of densities p′ and p this is the score of
p′(z)^{1 − g} p(z|c, y)^g at each γ. These laws are not the marginals of one diffusion if g ≠ 1, so samples follow no
law whose bound is known.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised, NetworkDenoiser
from nelbo.diffusion.known import NOTHING
from nelbo.diffusion.process import per_image

EVERYWHERE = (-math.inf, math.inf)


class Guided(NetworkDenoiser):
    """A denoiser with guidance: (z, γ) → x̂_0 and ε̂ of the equation above.

    A learned or computed variance is that of p(x|c, y). Where every γ is outside the interval, the network is called
    once.

    Args:
        denoiser: the denoiser, told what is known of each image.
        scale: g; 1 is p(x|c, y) without guidance, 0 is p(x).
        interval: (low, high), the γ = −ln SNR with guidance.
        away_from: the denoiser of ε̂′; None for ε̂(∅) of the same network.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        scale: float,
        interval: tuple[float, float] = EVERYWHERE,
        away_from: NetworkDenoiser | None = None,
    ) -> None:
        super().__init__(denoiser.network, denoiser.prediction, denoiser.extras, denoiser.condition)
        self.known, self.scale, self.interval = denoiser.known, scale, interval
        self.told, self.away_from = denoiser, away_from or denoiser.given(NOTHING)

    def __call__(self, z: Tensor, gamma: Tensor) -> Denoised:
        told, (low, high) = self.told(z, gamma), self.interval
        inside = (gamma >= low) & (gamma <= high)
        if not bool(inside.any()):
            return told
        other = self.away_from(z, gamma)
        weight = per_image(torch.where(inside, self.scale, 1.0), z)
        x_0 = other.x_0 + weight * (told.x_0 - other.x_0)
        eps = other.eps + weight * (told.eps - other.eps)
        return told._replace(x_0=x_0, eps=eps)
