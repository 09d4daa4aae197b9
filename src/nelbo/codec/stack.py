"""A stack of integers, coded by their laws: asymmetric numeral systems (Duda 2009), as constriction implements them.

Pushing an integer of probability P adds log2 1/P bits, and popping it by the same law takes these bits off. Popping by
a law what was not pushed by it is sampling: pushing the sample back restores the stack (bits-back coding).

The sample is one of the law only if the bits are random, and those that a model has just pushed are random only if its
law is that of what it pushed. So :meth:`Stack.sample` first masks the bits that it takes by a fixed stream of random
bits, and :meth:`Stack.give_back` removes the mask. (Without it, data of the exact Gaussian model in 8 steps with σ² =
β̃ cost 4% more than the bound.)

Probabilities are multiples of 2⁻²⁴, at least one of them for each integer of a law's domain; so a law of n integers
costs up to n/2²⁴ nats more than it should, and domains are kept small.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nelbo.errors import InputError

Words = NDArray[np.uint32]
"""A stack of words; the last one is on top. Between calls they mean nothing."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PRECISION = 24
"""Probabilities are multiples of 2⁻²⁴."""
REACH = 8
"""Integers farther than this from a normal law's mean, in standard deviations, are escapes."""
LARGEST_REACH = 2**18
"""The largest distance from a normal law's mean that is no escape."""


STATE_WORDS = 2
"""Words on top of the stack that are the coder's state."""
MASK_WORDS = 2**14
"""Words of a mask that is kept."""


class OutOfWordsError(ValueError):
    """The stack has too few words to sample the latents of the first images; give more.

    Args:
        words: the number of words that was given.
    """

    def __init__(self, words: int) -> None:
        super().__init__(f"{words} words are too few to sample the first latents; give more")
        self.words = words


def constriction() -> Any:
    """The package constriction.

    Raises:
        InputError: it is not installed.
    """
    try:
        import constriction as package
    except ImportError:
        raise InputError("constriction", "is not installed; pip install 'nelbo[codec]'") from None
    return package.stream


class Stack:
    """A stack on top of words.

    Args:
        words: the words.
        sealed: whether they are any words, which :meth:`unsealed` returns; else those of :meth:`words`.
    """

    def __init__(self, words: Words, sealed: bool = True) -> None:
        stream = constriction()
        self.model, self.stack, self.given = stream.model, stream.stack, len(words)
        self.coder = self.stack.AnsCoder(np.ascontiguousarray(words, dtype=np.uint32), seal=sealed)

    def words(self) -> Words:
        """All that is on the stack."""
        found: Words = self.coder.get_compressed()
        return found

    def unsealed(self) -> Words:
        """The words under everything else, once that has been popped.

        Raises:
            ValueError: something else is left, because the words were not those of an encoder.
        """
        try:
            found: Words = self.coder.get_compressed(unseal=True)
        except AssertionError:
            raise ValueError("these words are not those of an encoder") from None
        return found

    @classmethod
    def of_number(cls, number: int) -> Stack:
        """A stack that is this number, below 2³² − 1."""
        return cls(np.array([number + 1], np.uint32), sealed=False)

    def number(self) -> int:
        """The number of :meth:`of_number`, once everything else has been popped.

        Raises:
            ValueError: something else is left, because the words were not those of an encoder.
        """
        left = self.words()
        if len(left) != 1:
            raise ValueError("these words are not those of an encoder")
        return int(left[0]) - 1

    # Sampling

    def sample(self, law: Normals, turn: int) -> Ints:
        """A sample of a law without escapes, which takes bits off the stack.

        Args:
            law: the law.
            turn: the number of the mask; laws that follow each other should have different ones.

        Raises:
            OutOfWordsError: the stack has too few bits.
        """
        self.mask(law.words, turn)
        z = law.pop(self)
        if self.coder.num_words() <= STATE_WORDS:
            raise OutOfWordsError(self.given)
        return z

    def give_back(self, law: Normals, turn: int, z: Ints) -> None:
        """Undo :meth:`sample`, which returned z."""
        law.push(self, z)
        self.mask(law.words, turn)

    def mask(self, count: int, turn: int) -> None:
        """Mask words below the coder's state, or remove the mask.

        Args:
            count: the number of words, or all if there are fewer.
            turn: the number of the mask.
        """
        words = self.words()
        some = words[max(0, len(words) - STATE_WORDS - count) : max(0, len(words) - STATE_WORDS)]
        some ^= mask_of(turn)[: len(some)] if len(some) <= MASK_WORDS else long_mask(turn, len(some))
        self.coder = self.stack.AnsCoder(words)

    # Laws with a table of weights

    def push_by_table(self, values: Ints, weights: Floats) -> None:
        """Push integers 0 … L−1 whose probabilities are proportional to integer weights.

        Args:
            values: shape (n,).
            weights: non-negative integers below 2³², which any machine adds up to the same sums, shape (n, L), L ≥ 2.
        """
        if len(values):
            self.coder.encode_reverse(values.astype(np.int32), self.model.Categorical(perfect=False), weights)

    def pop_by_table(self, weights: Floats) -> Ints:
        """The integers of :meth:`push_by_table`, shape (n,)."""
        if not len(weights):
            return np.zeros(0, dtype=np.int64)
        found: Ints = self.coder.decode(self.model.Categorical(perfect=False), weights).astype(np.int64)
        return found

    def push_uniform(self, values: Ints, bits: int) -> None:
        """Push integers below 2^bits, bits < 24."""
        self.coder.encode_reverse(values.astype(np.int32), self.model.Uniform(2**bits))

    def pop_uniform(self, count: int, bits: int) -> Ints:
        """The integers of :meth:`push_uniform`."""
        found: Ints = self.coder.decode(self.model.Uniform(2**bits), count).astype(np.int64)
        return found

    # Normal laws

    def push_normal(self, values: Ints, mean: Floats, std: Floats, low: int, high: int) -> None:
        """Push integers low … high by normal laws over bins of width 1; the outermost bins extend to ±∞.

        Args:
            values, mean, std: shape (n,), std > 0.
            low, high: the domain.
        """
        self.coder.encode_reverse(values.astype(np.int32), self.model.QuantizedGaussian(low, high), mean, std)

    def pop_normal(self, mean: Floats, std: Floats, low: int, high: int) -> Ints:
        """The integers of :meth:`push_normal`, shape (n,)."""
        found: Ints = self.coder.decode(self.model.QuantizedGaussian(low, high), mean, std).astype(np.int64)
        return found


class Normals:
    """Normal laws of integers, each with a domain around its own mean.

    Laws of one power of two of σ share the size of their domain, ± 8 · 2^k with 2^(k−1) ≤ σ < 2^k. It is either all
    that can be popped or pushed (``escapes`` False), or one more integer stands for all others, which follow it in 32
    bits.

    Args:
        mean, std: in widths of a bin, std > 0, shape (n,). All machines must have the same numbers.
        escapes: whether any integer can be pushed; else those that were popped by this law.
    """

    def __init__(self, mean: Floats, std: Floats, escapes: bool = True) -> None:
        self.centre = np.rint(mean)
        self.offset, self.std, self.escapes = mean - self.centre, std, escapes
        powers = np.frexp(std)[1].clip(1)
        present = np.unique(powers)
        self.groups: list[tuple[int, Any]] = [
            (min(REACH * 2 ** int(k), LARGEST_REACH), slice(None) if len(present) == 1 else np.flatnonzero(powers == k))
            for k in present
        ]

    @property
    def words(self) -> int:
        """The words that a sample of all laws takes on average, or a few more, the same on every machine."""
        exponents = int(np.frexp(self.std)[1].sum())  # σ < 2^exponent, and log2 √(2πe) < 33/16
        return max(0, (exponents + 33 * len(self.std) // 16) // 32 + 1)

    def push(self, stack: Stack, values: Ints) -> None:
        """Push an integer by each law."""
        offsets = values - self.centre.astype(np.int64)
        for reach, rows in reversed(self.groups):
            some = offsets[rows]
            if self.escapes:
                far = np.abs(some) > reach
                push_far(stack, some[far])
                some = np.where(far, -reach - 1, some)
            low = -reach - self.escapes
            stack.push_normal(some, self.offset[rows], self.std[rows], low, reach)

    def pop(self, stack: Stack) -> Ints:
        """Pop an integer by each law."""
        offsets = np.zeros(len(self.std), dtype=np.int64)
        for reach, rows in self.groups:
            some = stack.pop_normal(self.offset[rows], self.std[rows], -reach - self.escapes, reach)
            if self.escapes:
                far = some < -reach
                some[far] = pop_far(stack, int(far.sum()))
            offsets[rows] = some
        return offsets + self.centre.astype(np.int64)


def long_mask(turn: int, count: int) -> Words:
    """Random words, the same on every machine."""
    found: Words = (np.random.Philox(key=turn).random_raw(count) >> np.uint64(32)).astype(np.uint32)
    return found


@functools.lru_cache(maxsize=512)
def mask_of(turn: int) -> Words:
    """The first words of a mask."""
    return long_mask(turn, MASK_WORDS)


FAR = 2**31
"""Escapes are integers from −2³¹ to 2³¹ − 1."""


def push_far(stack: Stack, values: Ints) -> None:
    """Push integers in 32 bits each.

    Raises:
        ValueError: an integer needs more bits.
    """
    if not len(values):
        return
    raised = values + FAR
    if raised.min() < 0 or raised.max() >= 2 * FAR:
        raise ValueError("a latent is farther from its mean than 32 bits can say")
    stack.push_uniform(raised >> 16, 16)
    stack.push_uniform(raised & 0xFFFF, 16)


def pop_far(stack: Stack, count: int) -> Ints:
    """The integers of :func:`push_far`."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    low = stack.pop_uniform(count, 16)
    return (stack.pop_uniform(count, 16) << 16) + low - FAR
