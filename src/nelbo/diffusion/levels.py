"""A prediction for discrete pixels: x̂_0 from a law over the levels and the exact likelihood of z.

For each pixel, the network outputs a law over its L levels: two Gaussians over the inner levels, one broad and one that
starts narrow near the brightest level, and a logit for each of the two outermost levels, which are frequent in real
images. z = √ᾱ x + √(1−ᾱ) ε has the likelihood N(y; x, 1/SNR) in y = z/√ᾱ. The posterior over levels is the normalised
product, and x̂_0 is about its mean:

    P(k|z) ∝ P(k) exp(−½ SNR (y − x_k)²),   x̂_0 ≈ Σ_k x_k P(k|z)

For inner levels, the product of two Gaussians is a Gaussian with precision A = 1/s² + SNR and mean
m = (μ/s² + SNR y)/A. If it is wider than the spacing of the levels, the sum over levels is replaced by its integral;
if it is narrower, only the seven levels nearest to m clamped to [−1, 1] are summed. So x̂_0 needs a few operations per
pixel instead of a sum over all levels. A Gaussian that extends beyond the outermost levels makes x̂_0 differ from
E[x|z]: up to 0.25 for trained networks (docs/forms.md). The bound stays valid, because any function of z may be x̂_0
and the decoder's law is normalised over all levels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

MU_0, LOG_S_0 = (0.0, 0.98), (-1.2, -3.0)
"""μ and ln s of each Gaussian for an output of zeros."""
LARGEST = 2**23
"""Probabilities of levels that are computed together, so that they fit into memory."""
OUTPUTS = 3 * len(MU_0) + 2
"""Outputs per pixel and channel: every μ, every ln s, every ln weight, and the logits of the two outermost levels."""


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Constants along the dimension of the Gaussians, shape (n, 1, 1, 1), made on the device without a copy."""
    return torch.stack([like.new_full((1, 1, 1), value) for value in values])


class Law(NamedTuple):
    """An unnormalised law over the levels of every pixel.

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
        """The law given by a network's output of shape (B, 8·C, H, W).

        s is clamped between a hundredth of the levels' spacing, 2/(L − 1), and e³.
        """
        channels, n = output.shape[1] // OUTPUTS, len(MU_0)
        outputs = output.contiguous().reshape(len(output), OUTPUTS, channels, *output.shape[2:])
        mu, log_s, weight = outputs[:, : 3 * n].chunk(3, dim=1)
        log_s = (log_s + constants(LOG_S_0, log_s)).clamp(math.log(0.02 / (L - 1)), 3.0)
        return cls(mu + constants(MU_0, mu), torch.exp(-2 * log_s), weight, outputs[:, -2], outputs[:, -1])

    def inner(self, x: Tensor, L: int) -> Tensor:
        """ln of the Gaussians' mass at the level x, shape (B, C, H, W): their densities times the spacing."""
        # One Gaussian at a time: x holds every level and dominates the memory.
        parts = (
            weight + 0.5 * torch.log(inv_var / (2 * torch.pi)) - 0.5 * inv_var * (x - mu).square()
            for mu, inv_var, weight in zip(*(part.unbind(1) for part in self[:3]), strict=True)
        )
        return functools.reduce(torch.logaddexp, parts) + math.log(2.0 / (L - 1))


class Posterior(NamedTuple):
    """P(k|z) of every pixel, in four parts: the two Gaussians, the lowest level and the highest level.

    Attributes:
        law: the law before z.
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
        """The posterior under the network's law.

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
            inner = torch.full_like(inner, -torch.inf)  # no inner levels
        ends = [law.low - 0.5 * snr * (y + 1).square(), law.high - 0.5 * snr * (y - 1).square()]
        logits = torch.cat([inner, torch.stack(ends, 1)], 1)
        return cls(
            law, y, snr, logits, torch.cat([mean, torch.stack([-torch.ones_like(y), torch.ones_like(y)], 1)], 1), L
        )

    def mean(self) -> Tensor:
        """x̂_0, shape (B, C, H, W): E[x|z] if the Gaussians lie within the levels, else an approximation."""
        return (self.logits.softmax(1) * self.means).sum(1)

    def var(self) -> Tensor:
        """E[(x − x̂_0)²|z] of each pixel, the sum over all L levels, shape (B, C, H, W)."""
        levels = self.levels()
        rows = max(1, LARGEST // max(1, self.y[:1].numel() * self.L))
        parts = [self.y.new_zeros(0, *self.y.shape[1:])]
        for first in range(0, len(self.y), rows):
            some = self.rows(slice(first, first + rows))
            parts.append((some.log_probs().exp() * (levels - some.mean()[..., None]).square()).sum(-1))
        return torch.cat(parts)

    def levels(self) -> Tensor:
        """The value of every level on [−1, 1], shape (L,)."""
        return torch.arange(self.L, device=self.y.device, dtype=self.y.dtype) * (2.0 / (self.L - 1)) - 1

    def rows(self, rows: slice) -> Self:
        """The posteriors of some of the images."""
        law = Law(*(part[rows] for part in self.law))
        return type(self)(law, self.y[rows], self.snr[rows], self.logits[rows], self.means[rows], self.L)

    def nll(self, x: Tensor) -> Tensor:
        """−ln P(x|z) summed over each image's pixels, in nats, shape (B,): the cost of a decoder at this z.

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
        x = self.levels()
        prior = torch.cat([law.low, law.inner(x, self.L)[..., 1:-1], law.high], dim=-1)
        likelihood = -0.5 * self.snr[..., None] * (self.y[..., None] - x).square()
        return (prior + likelihood).log_softmax(-1)


def inner_levels(m: Tensor, precision: Tensor, L: int) -> tuple[Tensor, Tensor]:
    """The mean of exp(−½ A (x_k − m)²) over the levels x_k, and ln of (spacing · its sum/its integral).

    If the Gaussian is broad, these are m and 0; if narrow, the seven nearest levels give both. With a = A spacing² and
    f the distance from the nearest level to m in spacings, the level j places up has exp(a (j f − ½ j²)) times the
    weight of the nearest level. With u = exp(a (f − ½)) and d = exp(−a (f + ½)), one place up and down, this is u^j (u
    d)^(j(j−1)/2).
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
