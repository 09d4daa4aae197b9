"""Draws of x_1 for a reconstruction that is paid in few of them.

Where x_1 all but tells the level, a decoder's cost is near zero unless some pixel's noise takes x_1 across the middle
between two levels, a = (half a spacing)/√((1 − ᾱ_1)/ᾱ_1) standard deviations away: a few draws in a thousand hold the
whole term, and a sample that has none of them claims no error. So ε is drawn from a law in which each of the D pixels
is shifted by ±a with probability p = 1/D, and weighed (Hesterberg 1995):

    E f(ε) = E_shifted[w(ε) f(ε)],   1/w(ε) = ∏_i (1 − p + p e^{−a²/2} cosh(a ε_i)),   w ≤ (1 − p)^{−D} ≈ e

The weights are bounded, E w = 1, and what is subtracted inside the expectation and added outside leaves no bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RARE = (2.0, 6.0)
"""The a for which ε is drawn so: less is not rare, and more than 6 has a chance of 1e-9 for each pixel."""
RARE_DRAWS = 4
"""How many draws are weighed for one estimate."""


def crossing(gamma: float, levels: int) -> float:
    """a, how many standard deviations of the noise at γ reach half way to the next level."""
    return math.exp(-0.5 * gamma) / (levels - 1)


def shifted(noise: Tensor, u: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """ε, one pixel in D of it shifted by a or −a, and ln w(ε) of each example.

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
