"""Random numbers per example: Philox's published words, the laws of what is made of them, and on what they depend.

The laws are tested over the coordinates that nelbo walks along: elements, examples, steps, streams and seeds.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import assert_mean
from scipy import stats
from torch import Tensor

from nelbo import rng
from nelbo.rng import Draws, Stream, integer, normal, permutation, philox, uniform, words

CPU = torch.device("cpu")
streams = st.sampled_from(list(Stream))
seeds = st.integers(0, 2**63 - 1)
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
"""Counter, key and words of Philox 4x32-10 in Random123's file of known answers (kat_vectors)."""


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), PUBLISHED)
def test_the_words_are_the_published_ones(counter: str, key: str, answer: str) -> None:
    """Of whole numbers, and of tensors of any shapes that broadcast."""
    c, k = hexadecimal(counter), hexadecimal(key)
    found = philox(tuple(torch.tensor(word) for word in c), (k[0], k[1]))
    assert [int(word) for word in found] == hexadecimal(answer)
    shapes = [(3, 1), (1, 2), (1, 1), (3, 2)]
    spread = tuple(torch.full(shape, word) for shape, word in zip(shapes, c, strict=True))
    for word, value in zip(philox(spread, (k[0], k[1])), hexadecimal(answer), strict=True):
        assert torch.equal(word, torch.full((3, 2), value))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_the_words_are_those_of_whole_numbers_without_end(numbers: list[int]) -> None:
    """Products of tensors wrap at 2^64; Python's integers do not: the definition of Salmon et al. 2011, spelt out."""
    c, k = numbers[:4], numbers[4:]
    found = philox(tuple(torch.tensor(word) for word in c), (k[0], k[1]))
    for r in range(10):
        p_0, p_1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        k_0, k_1 = (k[0] + r * 0x9E3779B9) % 2**32, (k[1] + r * 0xBB67AE85) % 2**32
        c = [p_1 // 2**32 ^ c[1] ^ k_0, p_1 % 2**32, p_0 // 2**32 ^ c[3] ^ k_1, p_0 % 2**32]
    assert [int(word) for word in found] == c


def test_an_example_walks_through_its_blocks() -> None:
    """Word 4b + j is word j of block b; the seed is the key; index, step and stream are the counter."""
    seed, step, index = 2**40 + 5, 2**35 + 7, 2**33 + 3
    found = words(seed, Stream.SCORE_NOISE, step, [index], (3, 4))[0]
    tag = int(Stream.SCORE_NOISE) | (index >> 32) << 8 | (step >> 32) << 20
    for block in range(3):
        counter = (block, index % 2**32, step % 2**32, tag)
        expected = philox(tuple(torch.tensor(word) for word in counter), (seed % 2**32, seed >> 32))
        assert found[block].tolist() == [int(word) for word in expected]


@pytest.mark.parametrize("shape", [(1,), (4,), (7,), (3, 5), (1031,)])
def test_tiles_do_not_show(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and blocks that are cut into pieces for the cache are those of one piece."""
    full = normal(3, Stream.SAMPLE, 2, range(5, 16), shape)
    for tile in (1, 3, 64):
        monkeypatch.setattr(rng, "TILE", tile)
        assert torch.equal(full, normal(3, Stream.SAMPLE, 2, range(5, 16), shape))


def test_one_kernel_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled: the same words, and normal numbers within 1e-6, for any seed, step and size."""
    cases = [(3, 5, range(7), (9,)), (2**64 - 3, 2**40 + 1, range(3), (4, 4)), (0, 0, [2**43, 1], (1,))]

    def drawn() -> list[tuple[Tensor, Tensor]]:
        return [
            (words(seed, Stream.SAMPLE, step, indices, shape), normal(seed, Stream.SAMPLE, step, indices, shape))
            for seed, step, indices, shape in cases
        ]

    plain = drawn()
    monkeypatch.setattr(rng, "FUSED", {"cpu"})
    for (word, number), (word_too, number_too) in zip(plain, drawn(), strict=True):
        assert torch.equal(word, word_too)
        torch.testing.assert_close(number, number_too, rtol=0, atol=1e-6)


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
    keys = list(itertools.product((0, 1, 2, 2**32, 2**63 - 1), Stream, (0, 1, 2, 2**32), (0, 1, 2, 2**32)))
    first = [tuple(words(seed, stream, step, [index], (2,))[0].tolist()) for seed, stream, step, index in keys]
    assert len(set(first)) == len(keys)


@pytest.mark.parametrize("seed", [0, 2**53 + 1, 2**63, 2**64 - 1])
def test_every_bit_of_the_seed_counts(seed: int) -> None:
    """0 ≤ seed < 2^64 as promised, with none of it lost in a float."""
    here = integer(seed, Stream.SAMPLE, 0, 3)
    for bit in range(64):
        assert here != integer(seed ^ 2**bit, Stream.SAMPLE, 0, 3)
    assert here == integer(seed, Stream.SAMPLE, 0, 3)


def test_streams_do_not_overlap_however_much_is_drawn() -> None:
    """The next step's blocks are not this step's later ones: 10⁵ of one are disjoint from the other's."""

    def blocks(seed: int, stream: Stream, step: int, index: int) -> np.ndarray:
        pairs = words(seed, stream, step, [index], (100_000, 4))[0].numpy()
        return pairs[:, 0] << 31 ^ pairs[:, 1]

    here = blocks(0, Stream.SAMPLE, 0, 0)
    others = [
        (0, Stream.SAMPLE, 1, 0),
        (0, Stream.SCORE_TIME, 0, 0),
        (0, Stream.SAMPLE, 0, 1),
        (1, Stream.SAMPLE, 0, 0),
    ]
    for other in others:
        # 10¹⁰ pairs of 63 bits: by chance two agree once in 10⁹ times.
        assert not np.intersect1d(here, blocks(*other)).size


@pytest.mark.parametrize("bit", range(32))
def test_each_bit_of_a_word_is_a_fair_coin(bit: int) -> None:
    """Over elements, examples and steps: 3 × 40,000 flips, each within 4.5 standard errors of one half."""
    along = [
        words(1, Stream.SAMPLE, 0, [0], (40_000,)),
        words(1, Stream.SAMPLE, 0, range(40_000), (1,)),
        torch.cat([words(1, Stream.SAMPLE, step, range(100), (1,)) for step in range(400)]),
    ]
    for word in along:
        ones = (word.flatten() >> bit & 1).double().mean()
        assert abs(float(ones) - 0.5) < 4.5 * 0.5 / 40_000**0.5


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
    assert bool(((rows > 0) & (rows < 1)).all())
    assert stats.kstest(rows.numpy(), "uniform").pvalue > 0.0027
    # By seed and by step too: a run looks at few indices and many steps.
    assert stats.kstest([float(uniform(0, Stream.TRAIN_TIME, k, [0])) for k in range(2000)], "uniform").pvalue > 0.0027
    assert stats.kstest([float(uniform(k, Stream.TRAIN_TIME, 0, [0])) for k in range(2000)], "uniform").pvalue > 0.0027


@pytest.mark.parametrize(
    "other",
    [(3, Stream.SAMPLE, 5, 12), (3, Stream.SAMPLE, 6, 11), (3, Stream.SCORE_NOISE, 5, 11), (4, Stream.SAMPLE, 5, 11)],
)
def test_neighbours_are_uncorrelated(other: tuple[int, Stream, int, int]) -> None:
    """Of example, step, stream and seed, along the elements; n pairs correlate with a standard error of 1/√n.

    Also at a lag of one, which is the neighbour among the elements, and of the squares.
    """
    n = 40_000
    x, y = (normal(a, b, c, [d], (n,))[0].numpy() for a, b, c, d in ((3, Stream.SAMPLE, 5, 11), other))
    for a, b in ((x, y), (x[1:], y[:-1]), (x[1:], x[:-1]), (x[2:], x[:-2]), (x**2, y**2), (x[1:] ** 2, x[:-1] ** 2)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 3.5 / n**0.5


@pytest.mark.parametrize("over", ["index", "step", "seed"])
def test_neighbours_are_uncorrelated_along_every_coordinate(over: str) -> None:
    """The first element of 10,000 consecutive examples, steps or seeds: lags 1 to 4, and their squares."""
    n = 10_000
    one = {
        "index": lambda k: normal(3, Stream.SAMPLE, 5, [k], (1,)),
        "step": lambda k: normal(3, Stream.SAMPLE, k, [11], (1,)),
        "seed": lambda k: normal(k, Stream.SAMPLE, 5, [11], (1,)),
    }[over]
    x = np.array([float(one(k)) for k in range(n)])
    assert stats.kstest(x, "norm").pvalue > 0.0027
    for lag in (1, 2, 3, 4):
        for y in (x, x**2):
            assert abs(np.corrcoef(y[lag:], y[:-lag])[0, 1]) < 3.5 / n**0.5


def test_moments_and_tails_are_the_normal_laws() -> None:
    """Of 2^22 numbers: moments up to the eighth within 4 errors, and as many beyond 3, 4 and 5 σ as there should be."""
    x = normal(11, Stream.SAMPLE, 0, range(64), (2**16,), torch.float64).flatten()
    for power, moment in enumerate((0.0, 1.0, 0.0, 3.0, 0.0, 15.0, 0.0, 105.0), 1):
        assert_mean(x**power, moment, sigmas=4)
    for sigmas in (3, 4, 5):
        expected = len(x) * 2 * stats.norm.sf(sigmas)
        assert abs(int((x.abs() > sigmas).sum()) - expected) < 4 * expected**0.5


def test_float32_is_float64_in_fewer_digits() -> None:
    """The same words: what differs is rounding, most of all in ln u near u = 1, where 2^−25/r is an ulp of u."""
    single, double = (normal(5, Stream.SAMPLE, 0, range(64), (1024,), of) for of in (torch.float32, torch.float64))
    near = double.reshape(64, -1, 2).norm(dim=2).repeat_interleave(2, 1).reshape(64, -1)
    assert bool(((single - double).abs() < 2e-6 + 2**-24 / near).all())


def test_an_iterator_goes_on_where_one_draw_would() -> None:
    """Also where an example's size is no multiple of a block's four."""
    for shape in ((4,), (3,), (2, 5)):
        draws = Draws(1, 2, range(3), 3, CPU)
        rows = torch.stack(list(itertools.islice(draws.normal_iter(Stream.SCORE_NOISE, shape), 5)), 1)
        assert torch.equal(rows, draws.normal(Stream.SCORE_NOISE, (5, *shape)))


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
