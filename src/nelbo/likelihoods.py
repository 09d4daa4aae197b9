"""p(x | ·) over pixel levels: from the integers 0 … L−1 to [−1, 1] and to probabilities that sum to one.

Level k of L stands at 2k/(L−1) − 1. A continuous density becomes a law over levels by integrating it over each
level's bin, half a spacing to either side; the outermost bins reach to ±∞, so that nothing is lost (DDPM (13)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def to_unit(levels: Tensor, L: int) -> Tensor:
    """Map integer levels 0 … L−1 onto [−1, 1], as float32.

    >>> to_unit(torch.tensor([0, 8, 16]), 17).tolist()
    [-1.0, 0.0, 1.0]
    """
    return levels.to(torch.float32) * (2.0 / (L - 1)) - 1.0


def to_levels(x: Tensor, L: int) -> Tensor:
    """Round values to the nearest of L levels on [−1, 1], as uint8; what lies outside goes to the outermost level."""
    return ((x.clamp(-1.0, 1.0) + 1.0) * ((L - 1) / 2.0)).round().to(torch.uint8)


@dataclass(frozen=True)
class DiscretizedNormal:
    """N(μ, σ²) integrated over the bins of L levels (DDPM (13)).

    P(k) = Φ((b_k − μ)/σ) − Φ((a_k − μ)/σ), where the bin of level k is (a_k, b_k) = 2k/(L−1) − 1 ∓ 1/(L−1), with
    a_0 = −∞ and b_{L−1} = +∞. Computed in float64 from differences of log Φ in the lower tail, so that no probability
    underflows to zero, and nothing is clipped.

    Args:
        mean: μ, on the scale where levels fill [−1, 1]; any shape.
        std: σ > 0; broadcasts with ``mean``.
        levels: L ≥ 2.
    """

    mean: Tensor
    std: Tensor
    levels: int

    def log_prob(self, level: Tensor) -> Tensor:
        """ln P(level), in nats, float64.

        Args:
            level: integers 0 … L−1; broadcasts with ``mean``.
        """
        half = 1.0 / (self.levels - 1)
        mean, std = self.mean.double(), self.std.double()
        centre = level.double() * (2.0 * half) - 1.0 - mean
        lower, upper = (centre - half) / std, (centre + half) / std
        # Both ends are mirrored into the lower tail, where log Φ keeps its relative precision.
        mirrored = centre > 0
        lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
        lowest, highest = level == 0, level == self.levels - 1
        open_below = (lowest & ~mirrored) | (highest & mirrored)
        open_above = (lowest & mirrored) | (highest & ~mirrored)
        inside = _log_cdf_difference(lower, upper)
        below = torch.special.log_ndtr(upper)
        above = torch.special.log_ndtr(-lower)
        return torch.where(open_below, below, torch.where(open_above, above, inside))

    def log_probs(self) -> Tensor:
        """ln P of every level, shape (\\*mean.shape, L)."""
        every = torch.arange(self.levels, device=self.mean.device)
        return DiscretizedNormal(self.mean[..., None], self.std[..., None], self.levels).log_prob(every)


def _log_cdf_difference(lower: Tensor, upper: Tensor) -> Tensor:
    """ln(Φ(upper) − Φ(lower)) for lower < upper, stable in the lower tail and for narrow bins."""
    log_upper = torch.special.log_ndtr(upper)
    ratio = torch.special.log_ndtr(lower) - log_upper
    return log_upper + torch.log(-torch.expm1(ratio))
