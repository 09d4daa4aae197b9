"""Importance sampling of x_1 for a reconstruction term whose cost lies in rare samples.

If x_1 nearly determines the level, a decoder's cost is near 0 unless some pixel's noise moves x_1 past the midpoint
between two levels, a = (half a spacing)/√((1 − ᾱ_1)/ᾱ_1) standard deviations away. A few samples in a thousand then
hold the whole term, and a batch without them shows no error. So ε is drawn from a distribution in which each of the D
pixels is shifted by ±a with probability p = 1/D, and weighted (Hesterberg 1995):

    E f(ε) = E_shifted[w(ε) f(ε)],   1/w(ε) = ∏_i (1 − p + p e^{−a²/2} cosh(a ε_i)),   w ≤ (1 − p)^{−D} ≈ e

The weights are bounded and E w = 1. The baseline subtracted inside the expectation and added outside causes no bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RARE = (2.0, 6.0)
"""The range of a for importance sampling: below it the cost is not rare; above it P(crossing) < 1e-9 per pixel."""
RARE_DRAWS = 4
"""The number of weighted samples for one estimate."""


def crossing(gamma: float, levels: int) -> float:
    """a, the distance to the midpoint of the next level, in standard deviations of the noise at γ."""
    return math.exp(-0.5 * gamma) / (levels - 1)


def shifted(noise: Tensor, u: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """ε, where about one pixel in D is shifted by a or −a, and ln w(ε) of each example.

    Args:
        noise: standard normal, shape (B, …).
        u: uniform in [0, 1), same shape.
        a: the shift, in standard deviations.

    Returns:
        ε, shape (B, …), and ln w, shape (B,), both float64.
    """
    noise, share = noise.double(), 1.0 / noise[0].numel()
    eps = torch.where(u < share, noise + a * torch.where(u < 0.5 * share, -1.0, 1.0), noise)
    ratio = torch.cosh(a * eps) * math.exp(-0.5 * a**2)
    return eps, -torch.log1p(share * (ratio - 1)).flatten(1).sum(1)
