"""p(x|z) over the levels of every pixel, as laws of a stack.

The network's outputs are rounded before, so that a law's parameters only differ between machines by the last bits of
exp and log. Probabilities become whole numbers, multiples of 2⁻²⁰; the stack adds 2⁻²⁴ to each.

A mixture of logistics over L levels would need L probabilities of each pixel, so a level is pushed in two parts: its
group of some √L neighbours, by differences of the mixture's distribution function, and its place there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.grid import Rounding
from nelbo.codec.stack import Floats, Ints, Stack
from nelbo.errors import InputError
from nelbo.theory.likelihoods import Bernoulli, DiscretizedLogistics, DiscretizedNormal

SHARE = 2.0**-20
"""The grid of probabilities."""
SHARE_MARGIN = 2e-14
"""The distance of a probability from an edge; the last bits of its functions are at most some 1e-15."""
NARROWEST = 2.0**-6
"""The least standard deviation of a normal law, in levels."""
Pushing = Callable[[Stack], None]


class Pixels(ABC):
    """The laws of n pixels.

    An empty stack is the number 0, and whatever is pushed first makes some 24 bits of it. So the code of an image alone
    begins with a number that is a part of the image: the levels of those pixels whose laws are flattest.
    """

    @abstractmethod
    def pushing(self, x: Ints) -> Pushing:
        """The function that pushes these levels, shape (n,); all rounding is done before it is returned."""

    @abstractmethod
    def pop(self, stack: Stack) -> Ints:
        """The levels, shape (n,)."""

    def pushing_alone(self, x: Ints) -> tuple[int, Pushing]:
        """The number of an image alone, and the function that pushes the rest of its levels."""
        return 0, self.pushing(x)

    def pop_alone(self, stack: Stack) -> Ints:
        """The levels of :meth:`pushing_alone`, with its number at the bottom of the stack."""
        return self.pop(stack)


def weights_of(probabilities: Tensor, rounding: Rounding) -> Floats:
    """Probabilities as integer weights, shape (n, L)."""
    cells = rounding.cells(probabilities.numpy(), SHARE, SHARE_MARGIN)
    return cells.clip(0).astype(np.float64)


HEAD_BITS = 23
"""Bits of the number that begins an image alone."""
FLAT = 0.4
"""The largest probability in a flat law."""


def digits(base: int) -> int:
    """The digits of a number of ``HEAD_BITS`` in this base.

    >>> digits(2), digits(16), digits(5)
    (23, 5, 9)
    """
    count = 0
    while base ** (count + 1) <= 2**HEAD_BITS:
        count += 1
    return count


def flattest(weights: Floats) -> Ints:
    """The pixels whose laws are flat, flattest first, as many as a number of ``HEAD_BITS`` holds."""
    share = weights.max(1) / weights.sum(1)
    order: Ints = np.argsort(share, kind="stable")[: digits(weights.shape[1])]
    return order[share[order] <= FLAT + (weights.shape[1] == 2) * 0.3]


def push_table_alone(values: Ints, weights: Floats) -> tuple[int, Pushing]:
    """A number with the values of the flattest laws as its digits, and the function that pushes the other values."""
    first, width = flattest(weights), weights.shape[1]
    rest = np.delete(np.arange(len(values)), first)
    number = sum(int(value) * width**k for k, value in enumerate(values[first]))
    return number, lambda stack: stack.push_by_table(values[rest], weights[rest])


def pop_table_alone(stack: Stack, weights: Floats) -> Ints:
    """The values of :func:`push_table_alone`."""
    first, width = flattest(weights), weights.shape[1]
    values = np.zeros(len(weights), np.int64)
    rest = np.delete(np.arange(len(values)), first)
    values[rest] = stack.pop_by_table(weights[rest])
    number = stack.number()
    for row in first:
        number, values[row] = divmod(number, width)
    return values


class TablePixels(Pixels):
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

    def pushing_alone(self, x: Ints) -> tuple[int, Pushing]:
        return push_table_alone(x, self.weights)

    def pop_alone(self, stack: Stack) -> Ints:
        return pop_table_alone(stack, self.weights)


class NormalPixels(Pixels):
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


class LogisticPixels(Pixels):
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
        return self.with_groups(group, lambda stack: stack.push_by_table(place, within))

    def pop(self, stack: Stack) -> Ints:
        group = self.pop_groups(stack)
        return group * self.width + stack.pop_by_table(self.within(group))

    def pushing_alone(self, x: Ints) -> tuple[int, Pushing]:
        group, place = x // self.width, x % self.width
        number, push_places = push_table_alone(place, self.within(group))
        return number, self.with_groups(group, push_places)

    def pop_alone(self, stack: Stack) -> Ints:
        group = self.pop_groups(stack)
        return group * self.width + pop_table_alone(stack, self.within(group))

    def with_groups(self, group: Ints, push_places: Pushing) -> Pushing:
        """The function that pushes the places and then the groups, if there is more than one."""
        if self.groups == 1:
            return push_places
        of_groups = self.of_groups()

        def push(stack: Stack) -> None:
            push_places(stack)
            stack.push_by_table(group, of_groups)

        return push

    def pop_groups(self, stack: Stack) -> Ints:
        """The group of each pixel."""
        if self.groups == 1:
            return np.zeros(len(self.law.logits), np.int64)
        return stack.pop_by_table(self.of_groups())


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
