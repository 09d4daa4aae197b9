"""Bits of hidden pixels given the rest, coded one by one with a law that draws of them make.

A pixel whose n draws are k_1 … k_n has the law over the L levels

    P(j) = (1 − a − u)/n Σ_i K_b(j|k_i) + a/n Σ_i 1{j = k_i} + u/L,   K_b(j|k) ∝ e^{−|j − k|/b}

(a kernel estimate, Aitchison & Aitken 1976, with a kernel of Laplace's). The sum of −log₂ P over the hidden pixels is
the length of a code of these pixels: its mean over images is at least the entropy of hidden pixels given the seen ones,
whatever draws them. It scores what a model says of each pixel, with its uncertainty, and not what it says of pixels
together. a and b are chosen on other images.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

UNIFORM = 1e-3
"""u, so that no level is impossible."""
EXACT = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
"""The values of a to choose from."""
WIDTHS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""The values of b to choose from, as a fraction of L − 1."""


def log_law(truth: Tensor, draws: Tensor, levels: int, exact: float, width: float) -> Tensor:
    """ln P(j) of each pixel, float64, shape (n, P).

    Args:
        truth: j, integer levels, shape (n, P).
        draws: k_i, integer levels, shape (n, I, P).
        levels: L.
        exact: a.
        width: b as a fraction of L − 1.
    """
    grid = torch.arange(levels, dtype=torch.float64)
    b = width * (levels - 1)
    mass = (-(grid[:, None] - grid[None, :]).abs() / b).exp().sum(0)
    away = (truth[:, None].double() - draws.double()).abs()
    kernel = ((-away / b).exp() / mass[draws.long()]).mean(1)
    same = (away == 0).double().mean(1)
    return ((1 - exact - UNIFORM) * kernel + exact * same + UNIFORM / levels).log()


def hidden_bits(truth: Tensor, draws: Tensor, levels: int) -> Tensor:
    """Bits per hidden pixel of each image, float64, shape (n,), with a and b from the other half of the images.

    Args:
        truth: the hidden pixels, integer levels, shape (n, P); n ≥ 2.
        draws: draws of them, integer levels, shape (n, I, P).
        levels: L.
    """
    choices = list(product(EXACT, WIDTHS))
    costs = torch.stack([-log_law(truth, draws, levels, *choice).mean(1) for choice in choices])
    first = torch.arange(len(truth)) % 2 == 0
    found = torch.empty(len(truth), dtype=torch.float64)
    for half in (first, ~first):
        found[half] = costs[costs[:, ~half].mean(1).argmin()][half]
    return found / torch.log(torch.tensor(2.0, dtype=torch.float64))
