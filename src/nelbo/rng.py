"""Random numbers per example: a pure function of (seed, stream, step, example index, element).

Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") maps a counter of four 32-bit words
to four random words, under a key of two words. Here the key is the seed, and the counter is (block, index, step,
stream): word 4b + j of an example is word j of its block b. So image i of a seed has the same noise for every batch
size, number of processes and device, and a run that resumes at a step needs no stored random state.

The words are computed with integer tensor operations on the device of the result. They are the same on every device,
to the bit; uniform and normal numbers are functions of the words, equal to rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
"""Philox's constants: the factors of the two products, and the increments of the key per round (Salmon et al. 2011)."""
ROUNDS = 10
WORD = 0xFFFFFFFF
"""The mask of a 32-bit word. Words are int64, because torch has no unsigned arithmetic."""
TILE = 2**16
"""Blocks at a time on the CPU, so that intermediate results stay in its caches."""
TOGETHER = 1024
"""Steps whose integers are drawn together."""


class Stream(IntEnum):
    """The purpose of a random number; two streams share no numbers."""

    ORDER = 0
    TRAIN_TIME = 1
    TRAIN_NOISE = 2
    SAMPLE = 3
    SCORE_TIME = 4
    SCORE_NOISE = 5
    TRAIN_PLACE = 6
    SCORE_PROBE = 7
    BINARIZE = 8
    SAMPLE_ACCEPT = 10
    SAMPLE_CLUSTER = 11
    SCORE_CLUSTER = 12
    SCORE_RARE = 13
    SCORE_RARE_PLACE = 14
    FLIP = 15
    DROPOUT = 16
    EDIT = 17
    EDIT_CHOICE = 18
    CLUSTER_DROPOUT = 19
    LABEL_DROPOUT = 20
    CLASSIFY_PLACE = 21
    CLASSIFY_NOISE = 22
    EDIT_CLUSTER = 23


Words = tuple[Tensor, ...]
"""The four words of a block, or the four numbers computed from them."""
Word = int | Tensor
"""A word common to all examples: an integer, or a tensor without dimensions."""
Law = Callable[[Words, torch.dtype], Words]
"""A map from words to numbers of a dtype."""


def philox(counter: Words, key: tuple[Word, Word]) -> Words:
    """Philox 4x32-10 of each counter: four words below 2^32 in int64, of the counters' common shape.

    Each round maps (c_0, c_1, c_2, c_3) to
    (hi(M_1 c_2) ⊕ c_1 ⊕ k_0, lo(M_1 c_2), hi(M_0 c_0) ⊕ c_3 ⊕ k_1, lo(M_0 c_0)).

    Args:
        counter: four words, each 0 ≤ c < 2^32, int64; their shapes broadcast.
        key: two words.
    """
    (c_0, c_1, c_2, c_3), (k_0, k_1) = counter, key
    for _ in range(ROUNDS):
        p_0, p_1 = c_0 * MULTIPLIERS[0], c_2 * MULTIPLIERS[1]  # modulo 2^64, which is all of the product
        c_0 = (p_1 >> 32).bitwise_xor(c_1).bitwise_xor_(k_0).bitwise_and_(WORD)
        c_2 = (p_0 >> 32).bitwise_xor(c_3).bitwise_xor_(k_1).bitwise_and_(WORD)
        c_1, c_3 = p_1.bitwise_and_(WORD), p_0.bitwise_and_(WORD)
        k_0, k_1 = (k_0 + WEYL[0]) & WORD, (k_1 + WEYL[1]) & WORD
    return c_0, c_1, c_2, c_3


def unit(word: Tensor, dtype: torch.dtype) -> Tensor:
    """(w + ½)/2^32, in (0, 1); in float32 the largest words give 1."""
    return word.to(dtype).add_(0.5).mul_(2.0**-32)


def to_uniform(words: Words, dtype: torch.dtype) -> Words:
    """A uniform number for each word."""
    return tuple(unit(word, dtype) for word in words)


def to_normal(words: Words, dtype: torch.dtype) -> Words:
    """Two normal numbers for each two words, by Box and Muller (1958): √(−2 ln u) (cos φ, sin φ), φ = 2π (u′ − ½).

    The largest is √(−2 ln 2^−33) = 6.76.
    """
    numbers = []
    for word, turn in (words[:2], words[2:]):
        radius = unit(word, dtype).log_().mul_(-2.0).sqrt_()
        angle = (turn - 2**31).to(dtype).mul_(math.pi * 2.0**-31)
        numbers += [angle.cos().mul_(radius), angle.sin().mul_(radius)]
    return tuple(numbers)


def to_words(words: Words, _: torch.dtype) -> Words:
    """The words themselves, int64."""
    return words


def numbers_of(
    law: Law, dtype: torch.dtype, key: tuple[Word, Word], index: Tensor, step: Word, tag: Word, first: Word, count: int
) -> Words:
    """The four numbers of each of ``count`` consecutive blocks of each example, four tensors of shape (B, count).

    Args:
        law: the map from words to numbers.
        dtype: the dtype of the numbers.
        key: the two words of the seed.
        index: each example's index, int64, shape (B, 1).
        step: the step's lower word.
        tag: the stream and the step's upper bits; with the index's upper bits, the last word of the counter.
        first: the first block.
        count: the number of blocks.
    """
    block = first + torch.arange(count, device=index.device)[None]
    return law(philox((block, index & WORD, step * torch.ones_like(block[:, :1]), tag ^ index >> 32 << 8), key), dtype)


@functools.cache
def fused() -> Callable[..., Tensor]:
    """:func:`numbers_of`, the four in the last dimension, as one kernel for all steps and sizes."""
    return torch.compile(lambda *counter: torch.stack(numbers_of(*counter), -1), dynamic=True)


FUSED: set[str] = set()
"""The types of devices on which one compiled kernel computes the numbers, instead of about a hundred operations."""


def draw(
    law: Law,
    dtype: torch.dtype,
    seed: int,
    stream: Stream,
    step: int,
    indices: Tensor,
    start: int,
    stop: int,
) -> Tensor:
    """The numbers ``start`` … ``stop`` − 1 of each example, shape (B, stop − start), on the device of ``indices``.

    Args:
        law: the map from words to numbers.
        dtype: the dtype of the numbers.
        seed: the run's seed, 0 ≤ seed < 2^64.
        stream: the purpose of the numbers.
        step: training step, sampler step or replicate, 0 ≤ step < 2^44.
        indices: each example's index, 0 ≤ index < 2^44, int64, shape (B,).
        start, stop: the range of numbers of each example.
    """
    seed, step, index = int(seed), int(step), indices[:, None]  # numpy's narrow integers would overflow
    shared = (seed & WORD, seed >> 32, step & WORD, int(stream) | step >> 32 << 20)
    first, last = start // 4, -(-stop // 4)
    if index.device.type in FUSED:
        # Tensors, because torch compiles a new kernel for every new integer.
        low, high, *others = (torch.full((), word, device=index.device) for word in (*shared, first))
        out = fused()(law, dtype, (low, high), index, *others, last - first)
    else:
        out = torch.empty(len(index), last - first, 4, dtype=dtype, device=index.device)
        width = TILE if index.device.type == "cpu" else max(1, last - first)
        height = max(1, TILE // max(1, last - first)) if index.device.type == "cpu" else len(index)
        for rows, of in zip(torch.split(out, height), torch.split(index, height), strict=True):
            for place, here in enumerate(torch.split(rows, width, 1)):
                numbers = numbers_of(law, dtype, shared[:2], of, *shared[2:], first + place * width, here.shape[1])
                for j, number in enumerate(numbers):
                    here[..., j] = number
    return out.flatten(1)[:, start - 4 * first : stop - 4 * first]


def column(indices: Sequence[int] | Tensor, device: torch.device | None = None) -> Tensor:
    """Indices as int64 on a device; a range needs no copy from the host."""
    if isinstance(indices, range):
        return torch.arange(indices.start, indices.stop, indices.step, device=device)
    return torch.as_tensor(indices, dtype=torch.int64, device=device)


def normal(
    seed: int,
    stream: Stream,
    step: int,
    indices: Sequence[int] | Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    start: int = 0,
) -> Tensor:
    """Standard normal noise, shape (len(indices), \\*shape); row k depends only on ``indices[k]``.

    Args:
        seed, stream, step, indices: as in :func:`draw`.
        shape: the shape of each example's numbers.
        dtype: the dtype; None for torch's default. float64 noise is float32 noise with more digits.
        device: the device of the noise; None for the CPU.
        start: the number of each example's numbers to skip.
    """
    stop = start + math.prod(shape)
    rows = draw(to_normal, dtype or torch.get_default_dtype(), seed, stream, step, column(indices, device), start, stop)
    return rows.reshape(len(rows), *shape)


def uniform(
    seed: int,
    stream: Stream,
    step: int,
    indices: Sequence[int] | Tensor,
    shape: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensor:
    """Uniform numbers in (0, 1), multiples of 2^−33, shape (len(indices), \\*shape); arguments as in :func:`normal`."""
    rows = draw(to_uniform, dtype, seed, stream, step, column(indices, device), 0, math.prod(shape))
    return rows.reshape(len(rows), *shape)


def words(
    seed: int,
    stream: Stream,
    step: int,
    indices: Sequence[int] | Tensor,
    shape: tuple[int, ...],
    device: torch.device | None = None,
) -> Tensor:
    """Uniform integers 0 … 2^32 − 1, int64, shape (len(indices), \\*shape); arguments as in :func:`normal`."""
    rows = draw(to_words, torch.int64, seed, stream, step, column(indices, device), 0, math.prod(shape))
    return rows.reshape(len(rows), *shape)


def integer(seed: int, stream: Stream, step: int, index: int = 0) -> int:
    """An integer 0 … 2^62 − 1 on the host, such as the seed of another library's generator.

    In the counter, ``step`` and ``index`` change places. The integers of many steps take the time of one.
    """
    block, place = divmod(step, TOGETHER)
    return integers(seed, stream, block, index)[place]


@functools.lru_cache(maxsize=64)
def integers(seed: int, stream: Stream, block: int, index: int) -> list[int]:
    """The integers of ``TOGETHER`` steps."""
    steps = range(block * TOGETHER, (block + 1) * TOGETHER)
    low, high = words(seed, stream, index, steps, (2,)).unbind(1)
    return (low | high >> 2 << 32).tolist()


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of 0 … n−1 for one epoch: the order in which training sees the data.

    It sorts n random numbers of 62 bits; two of them are equal with a probability below n²/2^63.
    """
    high, low = words(seed, Stream.ORDER, epoch, [0], (2, n))[0]
    return (high << 30 ^ low >> 2).argsort(stable=True).numpy()


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch at one step, which models use instead of a global generator, and its labels.

    Args:
        seed: the run's seed.
        step: training step, or replicate of a score.
        indices: each example's index: its place in the whole batch in training, and in the data set in scoring.
        total: the number of examples in the whole batch, over all processes.
        device: the device of the numbers.
        labels: the class of each example, 1 … K, 0 if unknown, int64, shape (B,), on the device; None without labels.
    """

    seed: int
    step: int
    indices: Sequence[int]
    total: int
    device: torch.device
    labels: Tensor | None = None

    def normal(self, stream: Stream, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal noise, see :func:`normal`, shape (B, \\*shape)."""
        return normal(self.seed, stream, self.step, self.indices, shape, dtype, self.device)

    def normal_iter(self, stream: Stream, shape: tuple[int, ...]) -> Iterator[Tensor]:
        """The rows of :meth:`normal`, one at a time and without end, for noise that does not fit into memory.

        Yields:
            Standard normal noise, shape (B, \\*shape); the first K are those of ``normal(stream, (K, *shape))``.
        """
        size, start = math.prod(shape), 0
        while True:
            yield normal(self.seed, stream, self.step, self.indices, shape, device=self.device, start=start)
            start += size

    def uniform(self, stream: Stream, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform in (0, 1), float64, shape (B, \\*shape)."""
        return uniform(self.seed, stream, self.step, self.indices, shape, device=self.device)

    def integer(self, stream: Stream) -> int:
        """An integer 0 … 2^62 − 1 for the step, see :func:`integer`."""
        return integer(self.seed, stream, self.step)

    def spread(self, stream: Stream) -> Tensor:
        """Uniform in [0, 1), one for each example, evenly spread over the whole batch, float64, shape (B,).

        u_k = (k/B + u) mod 1 with one u for the step (Kingma et al. 2021, appendix I.1). The mean over the batch has a
        lower variance than with independent numbers.
        """
        offset = self.integer(stream) * 2.0**-62
        places = column(self.indices, self.device).double()
        return torch.remainder(places / self.total + offset, 1.0)
