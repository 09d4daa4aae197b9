"""A head that knows what pixels are: from a law over the levels, and the exact likelihood of z, to x̂_0.

The network gives, for each pixel, a law over its L levels: two Gaussians over the inner ones, a broad one and one that
starts narrow and near the brightest, where a stroke's inside is, and a logit for each of the two outermost, where real
pixels crowd. z = √ᾱ x + √(1−ᾱ) ε has the likelihood N(y; x, 1/SNR) in y = z/√ᾱ; times the law and normalised it is a
posterior over levels, near whose mean x̂_0 is:

    P(k|z) ∝ P(k) exp(−½ SNR (y − x_k)²),   x̂_0 ≈ Σ_k x_k P(k|z)

Inside, a Gaussian times a Gaussian is a Gaussian with precision A = 1/s² + SNR and mean m = (μ/s² + SNR y)/A. Where it
is wider than the spacing of the levels, its sum over levels is its integral; where it is narrower, only the nearest
seven count, about m clamped to [−1, 1]: so x̂_0 costs a few operations per pixel and no sum over all levels. Where a
Gaussian reaches past the ends, that is not the mean: trained networks put it there, and x̂_0 is up to 0.25 off E[x|z]
(docs/forms.md). The bound does not rest on it: any function of z may be x̂_0, and the law of the decoder is normalised
over every level.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

GAUSSIANS = ((0.0, -1.2), (0.98, -3.0))
"""μ and ln s of each Gaussian where the network gives zeros."""
OUTPUTS = 3 * len(GAUSSIANS) + 2
"""Numbers per pixel and channel: every μ, every ln s and every ln weight, then the logits of the outermost levels."""


class Law(NamedTuple):
    """A law over the levels of every pixel, not normalised.

    Attributes:
        mu, inv_var, weight: μ, 1/s² and the logit of each Gaussian, shape (B, 2, C, H, W).
        low, high: the logits of the lowest and the highest level, shape (B, C, H, W).
    """

    mu: Tensor
    inv_var: Tensor
    weight: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, output: Tensor, L: int) -> Self:
        """The law that a network's output, shape (B, 8·C, H, W), stands for.

        s is between a hundredth of the levels' spacing, 2/(L − 1), and e³.
        """
        channels, n = output.shape[1] // OUTPUTS, len(GAUSSIANS)
        outputs = output.contiguous().reshape(len(output), OUTPUTS, channels, *output.shape[2:])
        mu, log_s, weight = outputs[:, : 3 * n].chunk(3, dim=1)
        mu_0, log_s_0 = output.new_tensor(GAUSSIANS).T.reshape(2, n, 1, 1, 1)
        log_s = (log_s + log_s_0).clamp(math.log(0.02 / (L - 1)), 3.0)
        return cls(mu + mu_0, torch.exp(-2 * log_s), weight, outputs[:, -2], outputs[:, -1])

    def inner(self, x: Tensor, L: int) -> Tensor:
        """ln of what the Gaussians give the level at x, shape (B, C, H, W), their densities times the spacing."""
        # One Gaussian after the other: with every level beside it, x is what fills the memory.
        parts = (
            weight + 0.5 * torch.log(inv_var / (2 * torch.pi)) - 0.5 * inv_var * (x - mu).square()
            for mu, inv_var, weight in zip(*(part.unbind(1) for part in self[:3]), strict=True)
        )
        return functools.reduce(torch.logaddexp, parts) + math.log(2.0 / (L - 1))


class Posterior(NamedTuple):
    """P(k|z) of every pixel, in four parts: the two Gaussians, the lowest level and the highest.

    Attributes:
        law: before z was seen.
        y, snr: z/√ᾱ, shape (B, C, H, W), and the precision of x's likelihood there, shape (B, 1, 1, 1).
        logits, means: ln of each part's sum over its levels, and its mean, shape (B, 4, C, H, W).
        L: the number of levels.
    """

    law: Law
    y: Tensor
    snr: Tensor
    logits: Tensor
    means: Tensor
    L: int

    @classmethod
    def of(cls, output: Tensor, z: Tensor, signal: Tensor, noise: Tensor, L: int) -> Self:
        """The posterior under the law that the network gives.

        Args:
            output: the network's output, shape (B, 8·C, H, W).
            z: shape (B, C, H, W).
            signal, noise: √ᾱ and √(1 − ᾱ), shape (B, 1, 1, 1).
            L: the number of levels.
        """
        law, snr, y = Law.of(output, L), (signal / noise).square(), z / signal
        at, seen = y[:, None], snr[:, None]
        precision = law.inv_var + seen
        mean, log_sum = inner_levels(((law.mu * law.inv_var + seen * at) / precision).clamp(-1.0, 1.0), precision, L)
        share = law.inv_var / precision
        inner = law.weight + log_sum + 0.5 * torch.log(share) - 0.5 * (law.mu - at).square() * share * seen
        if L == 2:
            inner = torch.full_like(inner, -torch.inf)  # there is no level inside
        ends = [law.low - 0.5 * snr * (y + 1).square(), law.high - 0.5 * snr * (y - 1).square()]
        logits = torch.cat([inner, torch.stack(ends, 1)], 1)
        return cls(
            law, y, snr, logits, torch.cat([mean, torch.stack([-torch.ones_like(y), torch.ones_like(y)], 1)], 1), L
        )

    def mean(self) -> Tensor:
        """x̂_0, shape (B, C, H, W): E[x|z] where the Gaussians lie within the levels, else near it."""
        return (self.logits.softmax(1) * self.means).sum(1)

    def nll(self, x: Tensor) -> Tensor:
        """−ln P(x|z) summed over each image's pixels, in nats, shape (B,): what a decoder at this z would cost.

        Args:
            x: the levels of the image, shape (B, C, H, W).
        """
        value = x.to(self.y.dtype) * (2.0 / (self.L - 1)) - 1
        prior = torch.where(x == self.L - 1, self.law.high, self.law.inner(value, self.L))
        joint = torch.where(x == 0, self.law.low, prior) - 0.5 * self.snr * (self.y - value).square()
        return (self.logits.logsumexp(1) - joint).flatten(1).sum(1)

    def log_probs(self) -> Tensor:
        """ln P(k|z) of every level, normalised over all L, shape (B, C, H, W, L): the decoder p(x|z)."""
        law = Law(*(part[..., None] for part in self.law))
        x = torch.arange(self.L, device=self.y.device, dtype=self.y.dtype) * (2.0 / (self.L - 1)) - 1
        prior = torch.cat([law.low, law.inner(x, self.L)[..., 1:-1], law.high], dim=-1)
        likelihood = -0.5 * self.snr[..., None] * (self.y[..., None] - x).square()
        return (prior + likelihood).log_softmax(-1)


def inner_levels(m: Tensor, precision: Tensor, L: int) -> tuple[Tensor, Tensor]:
    """The mean of exp(−½ A (x_k − m)²) over the levels x_k, and ln of its sum over its integral by the spacing.

    Where it is broad these are m and 0; where narrow, the nearest seven levels give both. With a = A spacing² and f of
    a spacing from the nearest level to m, the one j places up has exp(a (j f − ½ j²)) times the nearest one's share: of
    u = exp(a (f − ½)) and d = exp(−a (f + ½)), one place up and down, that is u^j (u d)^(j(j−1)/2).
    """
    spacing = 2.0 / (L - 1)
    nearest = torch.round((m.detach() + 1) / spacing) * spacing - 1
    f, a = (m - nearest) / spacing, precision * spacing**2
    up, down = torch.exp(a * (f - 0.5)), torch.exp(-a * (f + 0.5))
    # Σ_j of u^j + d^j and of j (u^j − d^j), j = 1, 2, 3, from the sum, the difference and the product of u and d.
    plus, minus, both = up + down, up - down, up * down
    square, cube = plus.square(), both * both * both
    total = 1 + plus + both * (square - 2 * both) + cube * plus * (square - 3 * both)
    shift = minus * (1 + 2 * both * plus + 3 * cube * (square - both)) / total
    log_sum = torch.log(total) - 0.5 * a * f.square() + 0.5 * torch.log(a / (2 * torch.pi))
    narrow = a > 1.0
    return torch.where(narrow, nearest + spacing * shift, m), torch.where(narrow, log_sum, torch.zeros_like(m))
