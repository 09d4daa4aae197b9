"""Guidance by a label (Ho & Salimans 2022), in an interval of noise (Kynkäänniemi et al. 2024).

    ε̂ = ε̂(∅) + g (ε̂(y) − ε̂(∅)),   low ≤ γ ≤ high;   ε̂ = ε̂(y) elsewhere

With exact denoisers this is the score of p(z)^{1 − g} p(z|y)^g at each γ. These laws are not the marginals of one
diffusion if g ≠ 1, so samples follow no law whose bound is known.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised, NetworkDenoiser
from nelbo.diffusion.process import per_image

EVERYWHERE = (-math.inf, math.inf)


class Guided(NetworkDenoiser):
    """A denoiser of labelled images with guidance: (z, γ) → x̂_0 and ε̂ of the equation above.

    A learned or computed variance is that of p(x|y). Where every γ is outside the interval, the network is called once.

    Args:
        denoiser: the denoiser, told the label of each image.
        scale: g; 1 is p(x|y) without guidance, 0 is p(x).
        interval: (low, high), the γ = −ln SNR with guidance.
    """

    def __init__(self, denoiser: NetworkDenoiser, scale: float, interval: tuple[float, float] = EVERYWHERE) -> None:
        super().__init__(denoiser.network, denoiser.prediction, denoiser.extras, denoiser.condition)
        self.known, self.scale, self.interval = denoiser.known, scale, interval
        self.labelled, self.unlabelled = denoiser, denoiser.given(denoiser.known.without_labels())

    def __call__(self, z: Tensor, gamma: Tensor) -> Denoised:
        labelled, (low, high) = self.labelled(z, gamma), self.interval
        inside = (gamma >= low) & (gamma <= high)
        if not bool(inside.any()):
            return labelled
        unlabelled = self.unlabelled(z, gamma)
        weight = per_image(torch.where(inside, self.scale, 1.0), z)
        x_0 = unlabelled.x_0 + weight * (labelled.x_0 - unlabelled.x_0)
        eps = unlabelled.eps + weight * (labelled.eps - unlabelled.eps)
        return labelled._replace(x_0=x_0, eps=eps)
