"""Random numbers per example: rows depend only on their index, and have the right distribution."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import assert_mean
from scipy import stats

from nelbo.rng import Draws, Stream, generator, normal, permutation, uniform

CPU = torch.device("cpu")
streams = st.sampled_from(list(Stream))
seeds = st.integers(0, 2**63 - 1)


@pytest.mark.parametrize("draw", [normal, uniform])
@given(
    seed=seeds,
    stream=streams,
    step=st.integers(0, 2**40),
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=9),
    data=st.data(),
)
def test_any_split_into_batches_gives_the_same_bits(draw, seed, stream, step, indices, data) -> None:
    whole = draw(seed, stream, step, indices, (2, 3))
    cut = data.draw(st.integers(0, len(indices)))
    parts = [draw(seed, stream, step, part, (2, 3)) for part in (indices[:cut], indices[cut:]) if part]
    assert torch.equal(whole, torch.cat(parts))
    order = data.draw(st.permutations(range(len(indices))))
    shuffled = draw(seed, stream, step, [indices[i] for i in order], (2, 3))
    assert torch.equal(whole[list(order)], shuffled)


@given(
    seed=seeds, step=st.integers(0, 2**40), indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True)
)
def test_draws_are_the_rows_of_their_indices(seed: int, step: int, indices: list[int]) -> None:
    draws = Draws(seed, step, indices, 10, CPU)
    assert torch.equal(draws.normal(Stream.SCORE_NOISE, (4,)), normal(seed, Stream.SCORE_NOISE, step, indices, (4,)))
    assert torch.equal(draws.uniform(Stream.SCORE_TIME), uniform(seed, Stream.SCORE_TIME, step, indices))
    alone = Draws(seed, step, indices[-1:], 99, CPU)
    assert torch.equal(alone.normal(Stream.SAMPLE, (4,))[0], draws.normal(Stream.SAMPLE, (4,))[-1])


def test_everything_that_keys_the_generator_matters() -> None:
    """No two of (seed, stream, step, index) share numbers, also when two of them are swapped."""
    keys = list(itertools.product((0, 1, 2, 2**63 - 1), Stream, (0, 1, 2), (0, 1, 2)))
    first = [tuple(generator(seed, stream, step, index).random(2)) for seed, stream, step, index in keys]
    assert len(set(first)) == len(keys)


@pytest.mark.parametrize("seed", [0, 2**53 + 1, 2**63, 2**64 - 1])
def test_every_bit_of_the_seed_counts(seed: int) -> None:
    """0 ≤ seed < 2^64 as promised, with none of it lost in a float."""
    here = generator(seed, Stream.SAMPLE, 0, 3).random()
    assert here != generator(seed ^ 1, Stream.SAMPLE, 0, 3).random()
    assert here == generator(seed, Stream.SAMPLE, 0, 3).random()


def test_streams_do_not_overlap_however_much_is_drawn() -> None:
    """The next step's numbers are not this step's later ones: 10⁵ draws of one are disjoint from the other's."""
    here = generator(0, Stream.SAMPLE, 0, 0).integers(0, 2**63, 100_000)
    for other in (
        (0, Stream.SAMPLE, 1, 0),
        (0, Stream.SCORE_TIME, 0, 0),
        (0, Stream.SAMPLE, 0, 1),
        (1, Stream.SAMPLE, 0, 0),
    ):
        assert not np.intersect1d(here, generator(*other).integers(0, 2**63, 100_000)).size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_has_the_normal_law(dtype: torch.dtype) -> None:
    """Kolmogorov–Smirnov over rows (one number of each generator) and within rows; p > 0.0027 is three sigmas."""
    rows = normal(7, Stream.SAMPLE, 0, range(4000), (5,), dtype)
    assert rows.dtype == dtype
    assert stats.kstest(rows[:, 0].double().numpy(), "norm").pvalue > 0.0027
    assert stats.kstest(rows.flatten().double().numpy(), "norm").pvalue > 0.0027
    long = normal(7, Stream.SAMPLE, 0, [12], (20_000,), dtype)
    assert stats.kstest(long.flatten().double().numpy(), "norm").pvalue > 0.0027
    assert_mean(long[0].double() ** 4, 3.0)


def test_uniform_has_the_uniform_law() -> None:
    rows = uniform(7, Stream.SCORE_TIME, 0, range(4000))
    assert rows.shape == (4000,)
    assert rows.dtype == torch.float64
    assert bool(((rows >= 0) & (rows < 1)).all())
    assert stats.kstest(rows.numpy(), "uniform").pvalue > 0.0027
    # By seed and by step too: a run looks at few indices and many steps.
    assert stats.kstest([float(uniform(0, Stream.TRAIN_TIME, k, [0])) for k in range(2000)], "uniform").pvalue > 0.0027
    assert stats.kstest([float(uniform(k, Stream.TRAIN_TIME, 0, [0])) for k in range(2000)], "uniform").pvalue > 0.0027


@pytest.mark.parametrize(
    "other",
    [(3, Stream.SAMPLE, 5, 12), (3, Stream.SAMPLE, 6, 11), (3, Stream.SCORE_NOISE, 5, 11), (4, Stream.SAMPLE, 5, 11)],
)
def test_neighbours_are_uncorrelated(other: tuple[int, Stream, int, int]) -> None:
    """The correlation of n pairs has a standard error of 1/√n; also at a lag of one, and of the squares."""
    n = 40_000
    x, y = generator(3, Stream.SAMPLE, 5, 11).standard_normal(n), generator(*other).standard_normal(n)
    for a, b in ((x, y), (x[1:], y[:-1]), (x**2, y**2)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 3 / n**0.5


@given(seed=seeds, step=st.integers(0, 10**9), total=st.integers(1, 200))
def test_spread_is_evenly_spaced(seed: int, step: int, total: int) -> None:
    """One number in each stratum [k/B, (k+1)/B), all at the same place in theirs, whoever holds which index."""
    whole = Draws(seed, step, range(total), total, CPU).spread(Stream.TRAIN_TIME)
    assert whole.dtype == torch.float64
    assert bool(((whole >= 0) & (whole < 1)).all())
    gaps = torch.cat([whole, whole.min()[None] + 1]).sort().values.diff()
    assert float((gaps - 1 / total).abs().max()) < 1e-14 * 4
    half = total // 2
    parts = [
        Draws(seed, step, part, total, CPU).spread(Stream.TRAIN_TIME) for part in (range(half), range(half, total))
    ]
    assert torch.equal(whole, torch.cat(parts))


def test_each_of_a_spread_is_uniform() -> None:
    for index in (0, 5):
        u = [float(Draws(1, step, [index], 8, CPU).spread(Stream.TRAIN_TIME)) for step in range(2000)]
        assert stats.kstest(u, "uniform").pvalue > 0.0027


@given(seeds, st.integers(0, 10**6), st.integers(1, 100))
def test_permutation_is_one_and_changes_with_the_epoch(seed: int, epoch: int, n: int) -> None:
    order = permutation(seed, epoch, n)
    assert sorted(order) == list(range(n))
    assert (order == permutation(seed, epoch, n)).all()
    if n > 30:
        assert (order != permutation(seed, epoch + 1, n)).any()
