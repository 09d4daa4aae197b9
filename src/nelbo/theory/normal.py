"""Normal distributions: KL divergence and entropy in closed form.

KL(N(μ_q, σ_q²) ‖ N(μ_p, σ_p²)) = ½ [ (μ_q − μ_p)²/σ_p² + δ − ln(1 + δ) ],   δ = σ_q²/σ_p² − 1
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """A Gaussian with independent components: mean μ and variance σ², broadcastable shapes."""

    mean: Tensor
    var: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """μ + σ · noise, by reparameterisation; ``noise`` is standard normal, of the mean's shape."""
        return self.mean + self.var.sqrt() * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """ln N(x; μ, σ²), element by element, in nats."""
        return -0.5 * ((x - self.mean).square() / self.var + (2 * math.pi * self.var).log())


def kl_normal(mean_q: Tensor, var_q: Tensor, mean_p: Tensor, var_p: Tensor) -> Tensor:
    """KL(q‖p) between normal distributions, element by element, in nats.

    Args:
        mean_q, var_q: μ_q and σ_q² > 0; any shapes that broadcast with the others.
        mean_p, var_p: μ_p and σ_p² > 0.

    Returns:
        The divergence of each element, ≥ 0; sum over dimensions for a diagonal Gaussian.
    """
    return 0.5 * ((mean_q - mean_p).square() / var_p + kl_of_variances(var_q, var_p))


def kl_of_variances(var_q: Tensor, var_p: Tensor) -> Tensor:
    """δ − ln(1 + δ) with δ = σ_q²/σ_p² − 1: twice the KL(q‖p) of two normals with equal means.

    For D dimensions and σ_q² = β̃_t, σ_p² = σ_t², half of it times D is (D/2)(β̃_t/σ_t² − 1 + ln(σ_t²/β̃_t)).
    """
    delta = (var_q - var_p) / var_p
    return delta - torch.log1p(delta)


def entropy_normal(var: Tensor) -> Tensor:
    """The differential entropy of N(·, σ²), element by element, in nats: ½ ln(2πe σ²)."""
    return 0.5 * (2 * math.pi * math.e * var).log()
