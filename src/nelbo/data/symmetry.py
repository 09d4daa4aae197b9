"""Whether images look the same in a mirror, which ``--augment flip`` assumes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST = 10_000
"""Images that are looked at."""
SIGNIFICANT = 6.0
"""Standard errors beyond which a difference is no chance; over 10^5 pixels, chance gives one with probability 10^-4."""


def asymmetry(images: Tensor) -> float:
    """The largest difference of a pixel's mean from the mirrored pixel's mean, in standard errors of that difference.

    Args:
        images: integer levels, shape (N, C, H, W).
    """
    half = images.shape[-1] // 2
    some = images[:: max(1, len(images) // MOST)]
    if not half or len(some) < 2:
        return 0.0
    total, square = (torch.zeros(*some.shape[1:-1], half, dtype=torch.float64) for _ in range(2))
    for part in torch.split(some, 1000):
        difference = (part[..., :half].int() - part.flip(-1)[..., :half].int()).double()
        total += difference.sum(0)
        square += difference.square().sum(0)
    mean = total / len(some)
    error = ((square / len(some) - mean.square()).clamp(min=1e-9) / (len(some) - 1)).sqrt()
    return float((mean.abs() / error).max())


def mirror_note(images: Tensor) -> str | None:
    """A line for the user if mirrored images are other images than these; None if their means do not differ."""
    found = asymmetry(images)
    if found < SIGNIFICANT:
        return None
    each = 1 / math.prod(images.shape[1:])
    return (
        f"flip: the images are not mirror-symmetric (means differ by {found:.0f} standard errors). The model also "
        f"learns mirror images, which costs up to 1 bit per image ({each:.2g} bits/dim); the bound stays valid"
    )
