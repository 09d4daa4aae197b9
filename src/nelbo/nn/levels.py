"""A head that knows what pixels are: from a law over the levels, and the exact likelihood of z, to x̂_0.

The network gives, for each pixel, a law over its L levels: a Gaussian over the inner ones, and a logit for each of the
two outermost, where real pixels crowd. z = √ᾱ x + √(1−ᾱ) ε has the likelihood N(y; x, 1/SNR) in y = z/√ᾱ; times the
law and normalised it is a posterior over levels, whose mean is x̂_0:

    P(k|z) ∝ P(k) exp(−½ SNR (y − x_k)²),   x̂_0 = Σ_k x_k P(k|z)

Inside, a Gaussian times a Gaussian is a Gaussian with precision A = 1/s² + SNR and mean m = (μ/s² + SNR y)/A. Where it
is wider than the spacing of the levels, its sum over levels is its integral; where it is narrower, only the nearest
seven count: so x̂_0 costs a few operations per pixel and no sum over all levels. The law itself, for the decoder, is
normalised over every level.
"""

from __future__ import annotations

import torch
from torch import Tensor

OUTPUTS = 4
"""Numbers per pixel and channel: μ, ln s, and the logits of the lowest and the highest level."""


def posterior_mean(output: Tensor, z: Tensor, signal: Tensor, noise: Tensor, L: int) -> Tensor:
    """x̂_0 = E[x | z] under the law that the network gives.

    Args:
        output: the network's output, shape (B, 4·C, H, W).
        z: shape (B, C, H, W).
        signal, noise: √ᾱ and √(1 − ᾱ), shape (B, 1, 1, 1).
        L: the number of levels.
    """
    mu, inv_var, low, high = unpack(output, L)
    snr = (signal / noise).square()
    y = z / signal
    precision = inv_var + snr
    m = ((mu * inv_var + snr * y) / precision).clamp(-1.0, 1.0)
    mean, log_sum = inner_levels(m, precision, L)
    inner = log_sum + 0.5 * (torch.log(inv_var) - torch.log(precision))
    inner = inner - 0.5 * (mu - y).square() * inv_var * snr / precision
    if L == 2:
        inner = torch.full_like(inner, -torch.inf)  # there is no level inside
    logits = torch.stack([inner, low - 0.5 * snr * (y + 1).square(), high - 0.5 * snr * (y - 1).square()])
    p_inner, p_low, p_high = logits.softmax(0)
    return p_inner * mean - p_low + p_high


def inner_levels(m: Tensor, precision: Tensor, L: int) -> tuple[Tensor, Tensor]:
    """The mean of exp(−½ A (x_k − m)²) over the levels x_k, and ln of its sum over its integral by the spacing.

    Where it is broad these are m and 0; where narrow, the nearest seven levels give both.
    """
    spacing = 2.0 / (L - 1)
    nearest = torch.round((m.detach() + 1) / spacing) * spacing - 1
    offsets = torch.arange(-3, 4, device=m.device, dtype=m.dtype).reshape(-1, *[1] * m.ndim) * spacing
    exponent = -0.5 * precision * (nearest + offsets - m).square()
    narrow = precision * spacing**2 > 1.0
    mean = torch.where(narrow, nearest + (exponent.softmax(0) * offsets).sum(0), m)
    log_sum = exponent.logsumexp(0) + 0.5 * torch.log(precision * spacing**2 / (2 * torch.pi))
    return mean, torch.where(narrow, log_sum, torch.zeros_like(m))


def log_law(output: Tensor, z: Tensor, signal: Tensor, noise: Tensor, L: int) -> Tensor:
    """ln P(k|z) of every level, normalised over all L, shape (B, C, H, W, L): the decoder p(x|z_0)."""
    mu, inv_var, low, high = (part[..., None] for part in unpack(output, L))
    spacing = 2.0 / (L - 1)
    x = torch.arange(L, device=z.device, dtype=z.dtype) * spacing - 1
    inner = 0.5 * torch.log(inv_var * spacing**2 / (2 * torch.pi)) - 0.5 * inv_var * (x - mu).square()
    prior = torch.cat([low, inner[..., 1:-1], high], dim=-1)
    likelihood = -0.5 * ((signal / noise).square()[..., None]) * ((z / signal)[..., None] - x).square()
    return (prior + likelihood).log_softmax(-1)


def unpack(output: Tensor, L: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """μ, 1/s², and the two logits; s starts at 0.3 and stays between a hundredth of a level's spacing and 20."""
    mu, log_s, low, high = output.chunk(OUTPUTS, dim=1)
    log_s = (log_s - 1.2).clamp(-4.6 - float(torch.tensor(0.5 * (L - 1)).log()), 3.0)
    return mu, torch.exp(-2 * log_s), low, high
