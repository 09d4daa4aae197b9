"""Randomness per example: a pure function of (seed, stream, step, example index), and of nothing else.

Each call keys a counter-based generator (Philox 4x64, Salmon et al. 2011) with the seed and the example's index and
starts its counter at (stream, step). So image i of a seed has the same noise whatever the batch size, the number of
processes, or how many images were asked for; and a run that is resumed at a step needs no stored random state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Stream(IntEnum):
    """What a random number is for; two streams never share numbers."""

    ORDER = 0
    TRAIN_TIME = 1
    TRAIN_NOISE = 2
    SAMPLE = 3
    SCORE_TIME = 4
    SCORE_NOISE = 5
    TRAIN_PLACE = 6
    SCORE_PROBE = 7
    BINARIZE = 8
    BINARIZE_FIXED = 9
    SAMPLE_ACCEPT = 10
    SAMPLE_CLUSTER = 11
    SCORE_CLUSTER = 12
    SCORE_RARE = 13
    SCORE_RARE_PLACE = 14


def generator(seed: int, stream: Stream, step: int, index: int) -> np.random.Generator:
    """The generator of one example at one step of one stream.

    Args:
        seed: the run's seed, 0 ≤ seed < 2^64.
        stream: what the numbers are for.
        step: training step, sampler step or replicate.
        index: the example's index.
    """
    key = np.array([seed, index], dtype=np.uint64)
    # The lowest counter word is left to the generator: 2^64 blocks for each (stream, step).
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, int(stream)]))


def normal(
    seed: int,
    stream: Stream,
    step: int,
    indices: Iterable[int],
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standard normal noise, shape (len(indices), \\*shape): row k depends on ``indices[k]`` alone.

    In float32, or torch's default type if that is another; float64 noise is other noise.
    """
    dtype = dtype or torch.get_default_dtype()
    kind = np.float64 if dtype == torch.float64 else np.float32
    rows = [generator(seed, stream, step, int(i)).standard_normal(shape, dtype=kind) for i in indices]
    return torch.from_numpy(np.stack(rows)).to(dtype)


def uniform(seed: int, stream: Stream, step: int, indices: Iterable[int], shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform numbers in [0, 1) in float64, shape (len(indices), \\*shape): row k depends on ``indices[k]`` alone."""
    return torch.from_numpy(np.stack([generator(seed, stream, step, int(i)).random(shape) for i in indices]))


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of 0 … n−1 for one epoch: the order in which training sees the data."""
    return generator(seed, Stream.ORDER, epoch, 0).permutation(n)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch at one step: what a model is handed instead of a global generator.

    Args:
        seed: the run's seed.
        step: training step, or replicate of a score.
        indices: each example's index: its place in the whole batch while training, in the data set while scoring.
        total: examples in the whole batch, over all processes.
        device: where the numbers are wanted; they are drawn on the CPU, so that every device gets the same.
    """

    seed: int
    step: int
    indices: Sequence[int]
    total: int
    device: torch.device

    def normal(self, stream: Stream, shape: tuple[int, ...]) -> Tensor:
        """Standard normal, as :func:`normal`, shape (B, \\*shape)."""
        return normal(self.seed, stream, self.step, self.indices, shape).to(self.device)

    def normal_iter(self, stream: Stream, shape: tuple[int, ...]) -> Iterator[Tensor]:
        """The rows of :meth:`normal`, one after another and without end: for more noise than fits into memory.

        Yields:
            Standard normal, shape (B, \\*shape); the first K are those of ``normal(stream, (K, *shape))``.
        """
        sources = [generator(self.seed, stream, self.step, int(i)) for i in self.indices]
        kind = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
        while True:
            rows = [source.standard_normal(shape, dtype=kind) for source in sources]
            yield torch.from_numpy(np.stack(rows)).to(self.device)

    def uniform(self, stream: Stream, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform in [0, 1), float64, shape (B, \\*shape)."""
        return uniform(self.seed, stream, self.step, self.indices, shape).to(self.device)

    def spread(self, stream: Stream) -> Tensor:
        """Uniform in [0, 1) for each example, evenly spread over the whole batch, float64, shape (B,).

        u_k = (k/B + u) mod 1 with one u for the step (Kingma et al. 2021, appendix I.1): the mean over the batch varies
        less than with independent numbers.
        """
        offset = generator(self.seed, stream, self.step, 0).random()
        places = torch.tensor(list(self.indices), dtype=torch.float64)
        return torch.remainder(places / self.total + offset, 1.0).to(self.device)
