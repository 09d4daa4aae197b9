"""Var(x|z) of a law over levels without a sum over all levels.

The posterior of :mod:`nelbo.diffusion.levels` has four parts: two Gaussians over the inner levels, and the lowest and
the highest level. The sum over a Gaussian's levels is that of a normal distribution cut off half a level from the
outermost levels, with α and β the distances of the ends from m in standard deviations and Z = Φ(β) − Φ(α):

    mean − m = σ (φ(α) − φ(β))/Z,     Var = σ² (1 + (α φ(α) − β φ(β))/Z − ((φ(α) − φ(β))/Z)²)

if it is wider than a level; else it is summed over the nearest levels. It is within 10⁻³ of the sum over all levels
for trained networks, at a twentieth of its time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised
from nelbo.diffusion.levels import Posterior
from nelbo.diffusion.variances import MomentsVariance

NEAR = 4
"""Levels to each side of the nearest one that a narrow Gaussian is summed over."""
WIDE = 1.0
"""A Gaussian is wide if its precision times the squared spacing is at most this."""


def cut_normal(m: Tensor, std: Tensor, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """ln of the mass of N(m, std²) in [low, high], and the mean and variance of what lies there.

    It is mirrored so that the nearer end is below, and uses Mills' ratio R(t) = (1 − Φ(t))/φ(t), which does not
    underflow: relative to φ(α), the masses are Z = R(α) − r R(β) and φ(β) = r φ(α), r = exp(½ (α² − β²)).
    """
    sign = torch.where(m > 0.5 * (low + high), -1.0, 1.0)
    far = 0.5 * (high - low)
    centre = 0.5 * (low + high)
    alpha = (-far - sign * (m - centre)) / std  # sign · m lies in the lower half
    beta = (far - sign * (m - centre)) / std
    outside = alpha > 0
    ratio = torch.exp(0.5 * (alpha.square() - beta.square()))
    tail = mills(alpha.clamp(min=0)) - ratio * mills(beta)
    density = torch.exp(-0.5 * alpha.square()) / math.sqrt(2 * math.pi)
    mass = torch.special.ndtr(beta) - torch.special.ndtr(alpha)
    scaled = torch.where(outside, 1 / tail, density / mass)
    log_mass = torch.where(outside, tail.log() - 0.5 * alpha.square() - 0.5 * math.log(2 * math.pi), mass.log())
    shift = scaled * (1 - ratio)
    spread = 1 + scaled * (alpha - ratio * beta) - shift.square()
    return log_mass, m + sign * std * shift, std.square() * spread.clamp(min=0)


def mills(t: Tensor) -> Tensor:
    """(1 − Φ(t))/φ(t) for t ≥ 0."""
    return math.sqrt(math.pi / 2) * torch.special.erfcx(t / math.sqrt(2))


def summed_normal(m: Tensor, precision: Tensor, L: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same over the inner levels next to m, for a Gaussian that is narrower than a level."""
    spacing = 2 / (L - 1)
    nearest = torch.round((m + 1) / spacing).clamp(1, max(1, L - 2))
    level = nearest[..., None] + torch.arange(-NEAR, NEAR + 1, dtype=m.dtype)
    x = level * spacing - 1
    log_weight = -0.5 * precision[..., None] * (x - m[..., None]).square()
    log_weight = log_weight.masked_fill((level < 1) | (level > L - 2), -math.inf)
    share = log_weight.softmax(-1)
    mean = (share * x).sum(-1)
    log_mass = log_weight.logsumexp(-1) + 0.5 * torch.log(precision * (spacing**2 / (2 * math.pi)))
    return log_mass, mean, (share * (x - mean[..., None]).square()).sum(-1)


def posterior_var(law: Posterior, x_0: Tensor) -> Tensor:
    """E[(x − x̂_0)²|z] of each pixel, shape (B, C, H, W)."""
    at, seen, spacing = law.y[:, None], law.snr[:, None], 2 / (law.L - 1)
    precision = law.law.inv_var + seen
    m = (law.law.mu * law.law.inv_var + seen * at) / precision
    end = 1 - 0.5 * spacing
    wide = precision * spacing**2 <= WIDE
    log_mass, mean, var = cut_normal(m, precision.rsqrt(), -end, end)
    if not bool(wide.all()):
        others = summed_normal(m, precision, law.L)
        log_mass, mean, var = (torch.where(wide, a, b) for a, b in zip((log_mass, mean, var), others, strict=True))
    share = law.law.inv_var / precision
    inner = law.law.weight + log_mass + 0.5 * torch.log(share) - 0.5 * (law.law.mu - at).square() * share * seen
    if law.L == 2:
        inner = torch.full_like(inner, -math.inf)
    weight = torch.cat([inner, law.logits[:, 2:]], 1).softmax(1)
    square = torch.cat([var + (mean - x_0[:, None]).square(), (law.means[:, 2:] - x_0[:, None]).square()], 1)
    return torch.where(weight > 0, weight * square, 0.0).sum(1)


class FastMoments(MomentsVariance):
    """As :class:`~nelbo.diffusion.variances.MomentsVariance`, with :func:`posterior_var`."""

    def image_var(self, denoised: Denoised, gamma_t: Tensor) -> Tensor:
        """Var(x|z_t) about x̂_0 of each pixel, shape (B, …)."""
        assert denoised.law is not None
        return posterior_var(denoised.law, denoised.x_0)
