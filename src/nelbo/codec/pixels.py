"""p(x|z) over the levels of every pixel, as laws of a stack.

The network's outputs are rounded before, so that a law's parameters only differ between machines by the last bits of
exp and log. Probabilities become whole numbers, multiples of 2⁻²⁰; the stack adds 2⁻²⁴ to each.

A mixture of logistics over L levels would need L probabilities of each pixel, so a level is pushed in two parts: its
group of some √L neighbours, by differences of the mixture's distribution function, and its place there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.grid import Rounding
from nelbo.codec.stack import Floats, Ints, Stack
from nelbo.errors import InputError
from nelbo.theory.likelihoods import Bernoulli, DiscretizedLogistics, DiscretizedNormal

SHARE = 2.0**-20
"""The grid of probabilities."""
SHARE_MARGIN = 1e-13
"""The distance of a probability from an edge; the last bits of its functions are some 1e-15."""
NARROWEST = 2.0**-6
"""The least standard deviation of a normal law, in levels."""
Pushing = Callable[[Stack], None]


class Pixels(Protocol):
    """The laws of n pixels."""

    def pushing(self, x: Ints) -> Pushing:
        """The function that pushes these levels, shape (n,); all rounding is done before it is returned."""

    def pop(self, stack: Stack) -> Ints:
        """The levels, shape (n,)."""


def weights_of(probabilities: Tensor, rounding: Rounding) -> Floats:
    """Probabilities as integer weights, shape (n, L)."""
    cells = rounding.cells(probabilities.numpy(), SHARE, SHARE_MARGIN)
    return cells.clip(0).astype(np.float64)


class TablePixels:
    """A probability of each level.

    Args:
        probabilities: P(k), shape (…, L), for n pixels.
        rounding: the rounding.
    """

    def __init__(self, probabilities: Tensor, rounding: Rounding) -> None:
        self.weights = weights_of(probabilities.flatten(0, -2), rounding)

    def pushing(self, x: Ints) -> Pushing:
        return lambda stack: stack.push_by_table(x, self.weights)

    def pop(self, stack: Stack) -> Ints:
        return stack.pop_by_table(self.weights)


class NormalPixels:
    """N(μ, σ²) integrated over the levels' bins.

    Args:
        law: the law of n pixels.
        rounding: the rounding.
    """

    def __init__(self, law: DiscretizedNormal, rounding: Rounding) -> None:
        half = (law.levels - 1) / 2
        self.high = law.levels - 1
        mean, std = torch.broadcast_tensors((law.mean + 1) * half, law.std * half)  # type: ignore[no-untyped-call]
        self.mean = rounding.floats(mean.flatten().clamp(-1e6, 1e6).numpy())
        self.std = rounding.floats(std.flatten().clamp(NARROWEST, 1e6).numpy()).clip(NARROWEST)

    def pushing(self, x: Ints) -> Pushing:
        return lambda stack: stack.push_normal(x, self.mean, self.std, 0, self.high)

    def pop(self, stack: Stack) -> Ints:
        return stack.pop_normal(self.mean, self.std, 0, self.high)


class LogisticPixels:
    """A mixture of logistics, in groups of levels.

    Args:
        law: the law of n pixels.
        rounding: the rounding.
    """

    def __init__(self, law: DiscretizedLogistics, rounding: Rounding) -> None:
        self.rounding, self.levels = rounding, law.levels
        self.width = math.isqrt(law.levels - 1) + 1
        self.groups = -(-law.levels // self.width)
        logits, mean, log_scale = (
            part.reshape(-1, 1, part.shape[-1]) for part in (law.logits, law.mean, law.log_scale)
        )
        self.law = DiscretizedLogistics(logits, mean, log_scale, law.levels)

    def of_groups(self) -> Floats:
        """The weight of each group, shape (n, groups): differences of Σ_j π_j σ((edge − μ_j)/s_j)."""
        first = torch.arange(1, self.groups, dtype=torch.float64) * self.width
        edges = (2 * first - self.levels) / (self.levels - 1)
        below = torch.sigmoid((edges[:, None] - self.law.mean) * torch.exp(-self.law.log_scale))
        below = torch.einsum("nkj,nkj->nk", below, self.law.logits.softmax(-1).expand_as(below))
        ends = below.new_zeros(len(below), 1), below.new_ones(len(below), 1)
        return weights_of(torch.cat([ends[0], below, ends[1]], 1).diff(dim=1), self.rounding)

    def within(self, group: Ints) -> Floats:
        """The weight of each level of a group, shape (n, width); 0 where there are no more levels."""
        level = torch.from_numpy(group)[:, None] * self.width + torch.arange(self.width)
        log_p = self.law.log_prob(level.clamp(max=self.levels - 1)).masked_fill(level >= self.levels, -math.inf)
        return weights_of(log_p.softmax(-1), self.rounding)

    def pushing(self, x: Ints) -> Pushing:
        group, place = x // self.width, x % self.width
        within = self.within(group)
        if self.groups == 1:
            return lambda stack: stack.push_by_table(place, within)
        of_groups = self.of_groups()

        def push(stack: Stack) -> None:
            stack.push_by_table(place, within)
            stack.push_by_table(group, of_groups)

        return push

    def pop(self, stack: Stack) -> Ints:
        group = np.zeros(len(self.law.logits), dtype=np.int64)
        if self.groups > 1:
            group = stack.pop_by_table(self.of_groups())
        return group * self.width + stack.pop_by_table(self.within(group))


def pixels_of(law: object, rounding: Rounding) -> Pixels:
    """The laws of the pixels as those of a stack.

    Raises:
        InputError: the law is from Python, and there is no codec for it.
    """
    if isinstance(law, Bernoulli):
        one = torch.sigmoid(law.logits)
        return TablePixels(torch.stack([1 - one, one], -1), rounding)
    if isinstance(law, DiscretizedNormal):
        return NormalPixels(law, rounding)
    if isinstance(law, DiscretizedLogistics):
        return LogisticPixels(law, rounding)
    raise InputError("RUN", f"cannot be compressed with: there is no codec of a likelihood {type(law).__name__}")
