"""p(x | ·) over pixel levels: integers 0 … L−1 mapped to [−1, 1], and distributions over them.

Level k of L has the value 2k/(L−1) − 1. The probability of a level is the integral of a continuous density over the
level's bin, half a spacing to either side; the outermost bins extend to ±∞, so that the sum is 1 (DDPM (13)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.errors import InputError


def to_unit(levels: Tensor, L: int) -> Tensor:
    """Map integer levels 0 … L−1 to [−1, 1], in the default dtype.

    >>> to_unit(torch.tensor([0, 8, 16]), 17).tolist()
    [-1.0, 0.0, 1.0]

    Raises:
        InputError: ``levels`` has a floating-point or complex dtype.
    """
    if levels.is_floating_point():
        raise InputError("images", float_levels(levels, L))
    return to_default_dtype(levels) * (2.0 / (L - 1)) - 1.0


def float_levels(x: Tensor, L: int) -> str:
    """The message that refuses float images, with the expression that converts them to levels."""
    kind = str(x.dtype).removeprefix("torch.")
    if x.is_complex() or not x.numel() or not bool(x.isfinite().all()):
        return f"is {kind}, not integer levels 0 … {L - 1}" + ("" if x.is_complex() else ", and not all finite")
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high <= 1:
        fix = f"(images * {L - 1}).round() as uint8"
    elif low >= -1 and high <= 1:
        fix = f"((images + 1) * {(L - 1) / 2:g}).round() as uint8"
    else:
        fix = "images.to(torch.uint8), if they are whole"
    return f"is {kind} from {low:g} to {high:g}, not integer levels 0 … {L - 1}; they are made by {fix}"


def to_default_dtype(x: Tensor) -> Tensor:
    """Convert to torch's default dtype: float32, unless the user changed it."""
    return x.to(torch.get_default_dtype())


def to_levels(x: Tensor, L: int) -> Tensor:
    """Round values to the nearest of L levels on [−1, 1], as uint8; values outside are clamped."""
    return ((x.clamp(-1.0, 1.0) + 1.0) * ((L - 1) / 2.0)).round().to(torch.uint8)


@dataclass(frozen=True)
class DiscretizedNormal:
    """N(μ, σ²) integrated over the bins of L levels (DDPM (13)).

    P(k) = Φ((b_k − μ)/σ) − Φ((a_k − μ)/σ), where the bin of level k is (a_k, b_k) = 2k/(L−1) − 1 ∓ 1/(L−1), with
    a_0 = −∞ and b_{L−1} = +∞. It is computed in float64 from differences of log Φ in the lower tail, so that no
    probability underflows to 0. Nothing is clipped.

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

    def expectation(self) -> Tensor:
        """μ, used to display images."""
        return self.mean

    def log_probs(self) -> Tensor:
        """ln P of every level, shape (\\*mean.shape, L)."""
        every = torch.arange(self.levels, device=self.mean.device)
        return DiscretizedNormal(self.mean[..., None], self.std[..., None], self.levels).log_prob(every)


def _log_cdf_difference(lower: Tensor, upper: Tensor) -> Tensor:
    """ln(Φ(upper) − Φ(lower)) for lower < upper, stable in the lower tail and for narrow bins."""
    log_upper = torch.special.log_ndtr(upper)
    ratio = torch.special.log_ndtr(lower) - log_upper
    return log_upper + torch.log(-torch.expm1(ratio))


@dataclass(frozen=True)
class DiscretizedLogistics:
    """A mixture of logistic distributions, integrated over the bins of L levels (Salimans et al. 2017, PixelCNN++).

    P(k) = Σ_j π_j [σ((b_k − μ_j)/s_j) − σ((a_k − μ_j)/s_j)] with the bins of :class:`DiscretizedNormal`. The logarithm
    uses σ(u) − σ(l) = σ(u) σ(−l) (1 − e^{l−u}), which does not cancel.

    Args:
        logits: ln π_j up to a constant, shape (…, J).
        mean: μ_j, on the scale where levels fill [−1, 1], shape (…, J).
        log_scale: ln s_j, shape (…, J).
        levels: L ≥ 2.
    """

    logits: Tensor
    mean: Tensor
    log_scale: Tensor
    levels: int

    def log_prob(self, level: Tensor) -> Tensor:
        """ln P(level), in nats, for integers 0 … L−1 of the leading shape (…)."""
        half, inverse = 1.0 / (self.levels - 1), torch.exp(-self.log_scale)
        centre = level[..., None].to(self.mean.dtype) * (2.0 * half) - 1.0 - self.mean
        above, below = F.logsigmoid((centre + half) * inverse), F.logsigmoid((half - centre) * inverse)
        inside = above + below + torch.log(-torch.expm1(-2.0 * half * inverse))
        lowest, highest = (level == 0)[..., None], (level == self.levels - 1)[..., None]
        log_p = torch.where(lowest, above, torch.where(highest, below, inside))
        return torch.logsumexp(self.logits.log_softmax(-1) + log_p, -1)

    def expectation(self) -> Tensor:
        """Σ_j π_j μ_j, shape (…): the mean before the discretisation, used to display images."""
        return (self.logits.softmax(-1) * self.mean).sum(-1)


@dataclass(frozen=True)
class Bernoulli:
    """Two levels: P(1) = σ(logit).

    Args:
        logits: any shape.
    """

    logits: Tensor

    def log_prob(self, level: Tensor) -> Tensor:
        """ln P(level), in nats, for levels 0 and 1."""
        return F.logsigmoid(torch.where(level > 0, self.logits, -self.logits))

    def expectation(self) -> Tensor:
        """2 P(1) − 1, on the scale where levels fill [−1, 1]."""
        return 2.0 * torch.sigmoid(self.logits) - 1.0
