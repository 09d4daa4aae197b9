"""The parts of coders: a stack and its laws, rounding, laws of pixels, moments and convolutions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from coders_helpers import bits, images_of, random_words, with_least
from scipy import stats
from torch import nn
from torch.nn import functional as F

from nelbo.codec.batches import batches, float64, padded
from nelbo.codec.convolution import FastConv, Scratch, replace_convolutions
from nelbo.codec.grid import FINE, MARGIN, SALTS, STEP, NoSaltError, Rounding, pop_salt, push_salt, salted
from nelbo.codec.moments import cut_normal, posterior_var
from nelbo.codec.pixels import LogisticPixels, NormalPixels, TablePixels, pixels_of
from nelbo.codec.stack import Normals, Stack
from nelbo.diffusion.levels import Posterior
from nelbo.errors import InputError
from nelbo.theory.likelihoods import Bernoulli, DiscretizedLogistics, DiscretizedNormal
from nelbo.units import normal_bits

# The stack


def test_a_normal_law_costs_its_bins() -> None:
    """Against scipy, for laws of many widths at once, including integers beyond every domain."""
    rng, n = np.random.default_rng(0), 3000
    mean, std = rng.normal(0, 1000, n), np.exp(rng.uniform(-3, 9, n))
    z = np.rint(mean + std * rng.standard_t(4, n)).astype(np.int64)
    z[:4] = [-(2**30), 2**30, -5, 10**9]
    stack = Stack(random_words(10))
    before = bits(stack)
    Normals(mean, std).push(stack, z)
    law = stats.norm(mean, std)
    centre = -np.abs(z - mean)
    mass = stats.norm.cdf((centre + 0.5) / std) - stats.norm.cdf((centre - 0.5) / std)
    inside = np.abs(z - np.rint(mean)) <= np.minimum(8 * 2 ** np.ceil(np.log2(std)).clip(1), 2**18)
    expected = with_least(-np.log(mass[inside])) / math.log(2) + (24 + 32) * (~inside).sum()
    assert bits(stack) - before == pytest.approx(expected, rel=5e-3)
    assert law.mean().shape == z.shape
    np.testing.assert_array_equal(Normals(mean, std).pop(stack), z)
    assert bits(stack) == pytest.approx(before, abs=1e-6)


def test_a_law_without_escapes_samples_itself() -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.uniform(-50, 50, 4000), np.full(4000, 3.0)
    words = random_words(2000)
    stack = Stack(words)
    law = Normals(mean, std, escapes=False)
    z = law.pop(stack)
    assert stats.kstest((z + rng.uniform(-0.5, 0.5, len(z)) - mean) / std, "norm").pvalue > 1e-3
    law.push(stack, z)
    np.testing.assert_array_equal(stack.unsealed(), words)


@pytest.mark.parametrize("std", [10.0, 100.0])
def test_a_sample_takes_the_bits_of_its_law(std: float) -> None:
    """log2(σ √(2πe)) each, up to the rounding of the law, and no more than the words that are masked for it."""
    n, stack = 20_000, Stack(random_words(20_000))
    before, law = bits(stack), Normals(np.zeros(n), np.full(n, std), escapes=False)
    stack.sample(law, turn=3)
    taken = before - bits(stack)
    assert taken == pytest.approx(n * normal_bits(math.log(std)), rel=5e-3)
    assert taken <= 32 * law.words <= taken + 1.1 * n


def test_an_escape_is_an_integer_of_32_bits() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        Normals(np.zeros(1), np.ones(1)).push(Stack(random_words(3)), np.array([2**40]))


@pytest.mark.parametrize("n", [0, 1, 7])
def test_tables_and_uniforms_come_back(n: int) -> None:
    rng, stack = np.random.default_rng(n), Stack(random_words(5))
    before, weights = bits(stack), rng.integers(1, 2**20, (n, 5)).astype(float)
    values = rng.integers(0, 5, n)
    stack.push_by_table(values, weights)
    stack.push_uniform(values, 3)
    share = weights[np.arange(n), values] / weights.sum(1)
    assert bits(stack) - before == pytest.approx(3 * n - np.log2(share).sum(), abs=1e-3)
    np.testing.assert_array_equal(stack.pop_uniform(n, 3), values)
    np.testing.assert_array_equal(stack.pop_by_table(weights), values)


# Rounding


@pytest.mark.parametrize("salt", [0, 1, SALTS - 1])
def test_rounding_is_near_and_says_when_it_is_not_safe(salt: int) -> None:
    values = np.random.default_rng(0).normal(0, 100, 1000)
    rounding = Rounding(salt)
    assert np.abs(rounding.floats(values) - values).max() <= STEP / 2
    edge = rounding.floats(np.array([0.3])) + STEP / 2
    assert not (Rounding(salt).floats(edge) == 0).any()
    for off, safe in [(10 * MARGIN, True), (MARGIN / 2, False), (-MARGIN / 2, False)]:
        rounding = Rounding(salt)
        rounding.floats(edge + off)
        assert rounding.safe is safe


def test_a_salt_moves_values_off_their_edges() -> None:
    """Values that differ by less than the margin become the same numbers with the encoder's salt."""
    edge = Rounding(0).floats(np.array([0.3])) + STEP / 2
    values = np.concatenate([edge, np.random.default_rng(0).normal(size=50)])
    found, salt = salted(lambda rounding: rounding.floats(values))
    assert salt == 1
    stack = Stack(random_words(3))
    push_salt(stack, salt)
    off = MARGIN * np.random.default_rng(1).uniform(-1, 1, len(values))
    np.testing.assert_array_equal(pop_salt(stack).floats(values + off), found)


def test_values_on_a_grid_are_safe() -> None:
    """Multiples of 2^−k, as rounded outputs and their halves are."""
    rounding = Rounding(0)
    rounding.floats(np.arange(-4096, 4096) * STEP / 64)
    rounding.cells(np.arange(-4096, 4096) * FINE / 8, FINE)
    assert rounding.safe


def test_no_salt_is_an_error() -> None:
    edges = [Rounding(salt).floats(np.array([0.3])) + STEP / 2 for salt in range(SALTS)]
    with pytest.raises(NoSaltError):
        salted(lambda rounding: rounding.floats(np.concatenate(edges)))


# Pixels


def logistics(n: int, L: int, seed: int = 0) -> DiscretizedLogistics:
    """Mixtures of narrow and broad logistics."""
    rng = np.random.default_rng(seed)
    logits, mean = rng.normal(size=(n, 5)), rng.uniform(-1.2, 1.2, (n, 5))
    return DiscretizedLogistics(*map(torch.from_numpy, (logits, mean, rng.uniform(-6, 0, (n, 5)))), L)


def laws(n: int) -> list[tuple[object, int, type]]:
    """Laws of n pixels, their levels, and their coders."""
    rng = np.random.default_rng(1)
    normal = DiscretizedNormal(torch.from_numpy(rng.uniform(-1, 1, n)), torch.from_numpy(rng.uniform(0.01, 1, n)), 256)
    mixtures = [(logistics(n, L), L, LogisticPixels) for L in (2, 3, 16, 17, 100, 256)]
    return [(Bernoulli(torch.from_numpy(rng.normal(0, 3, n))), 2, TablePixels), (normal, 256, NormalPixels), *mixtures]


@pytest.mark.parametrize("case", range(8))
def test_pixels_cost_what_their_law_says(case: int) -> None:
    n = 5000
    law, L, kind = laws(n)[case]
    rng = np.random.default_rng(2)
    with float64():
        every = torch.stack([law.log_prob(torch.full((n,), level)) for level in range(L)], 1)  # type: ignore[attr-defined]
        x = (every.exp().cumsum(1).numpy() < rng.uniform(size=(n, 1))).sum(1).clip(0, L - 1)
        x[: min(L, 20)] = np.arange(min(L, 20))  # also improbable ones
        stack = Stack(random_words(5))
        before = bits(stack)
        pixels = pixels_of(law, Rounding(0))
        assert isinstance(pixels, kind)
        pixels.pushing(x)(stack)
        expected = with_least(-every[np.arange(n), x]) / math.log(2)
        assert bits(stack) - before == pytest.approx(expected, rel=2e-3)
        np.testing.assert_array_equal(pixels_of(law, Rounding(0)).pop(stack), x)


def test_a_likelihood_from_python_is_refused() -> None:
    with pytest.raises(InputError, match="no codec of a likelihood dict"):
        pixels_of({}, Rounding(0))


# Moments


def test_a_cut_normal_has_scipys_moments() -> None:
    """In every case: cut on no, one or both sides, and far outside of the ends."""
    m = torch.tensor([0.0, 0.9, -0.9, 1.5, -1.5, 3.0, -8.0, 0.2], dtype=torch.float64)
    std = torch.tensor([0.01, 0.3, 0.3, 0.2, 2.0, 0.1, 0.5, 30.0], dtype=torch.float64)
    log_mass, mean, var = cut_normal(m, std, -1.0, 1.0)
    a, b = (-1 - m.numpy()) / std.numpy(), (1 - m.numpy()) / std.numpy()
    truth = stats.truncnorm(a, b, m.numpy(), std.numpy())
    below, above = stats.norm.cdf(b) - stats.norm.cdf(a), stats.norm.sf(a) - stats.norm.sf(b)
    np.testing.assert_allclose(log_mass.numpy(), np.log(np.where(a > 0, above, below)), rtol=1e-9)
    np.testing.assert_allclose(mean.numpy(), truth.mean(), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(var.numpy(), truth.var(), rtol=2e-4)


@pytest.mark.parametrize("gamma", [-13.0, -11.0, -9.0, -7.0, -3.0, 0.0, 8.0])
def test_the_variance_of_levels_is_the_sum_over_levels(gamma: float) -> None:
    """Within 1e-3 of the mean variance, at every noise, for laws within and beyond the levels."""
    rng, L, size = np.random.default_rng(3), 256, (4, 8, 6, 6)
    with float64():
        x = torch.from_numpy(images_of(4)) * (2 / (L - 1)) - 1
        g = torch.tensor(gamma)
        signal, noise = torch.sigmoid(-g).sqrt().reshape(1, 1, 1, 1), torch.sigmoid(g).sqrt().reshape(1, 1, 1, 1)
        z = signal * x + noise * torch.from_numpy(rng.normal(size=x.shape))
        law = Posterior.of(
            torch.from_numpy(rng.normal(0, 1.0, size)), z, signal.expand(4, 1, 1, 1), noise.expand(4, 1, 1, 1), L
        )
        exact, found = law.var(), posterior_var(law, law.mean())
    assert bool((found >= 0).all())
    assert float((found - exact).abs().mean()) <= 1e-3 * float(exact.mean()) + 1e-12


# Networks


@pytest.mark.parametrize(("height", "width"), [(28, 28), (7, 9), (3, 2)])
def test_fast_convolutions_are_torchs(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    scratch = Scratch()
    for bias in (True, False):  # both with the same scratch
        conv = nn.Conv2d(9, 12, 3, padding=1, bias=bias).double()
        x = torch.from_numpy(rng.normal(size=(3, 9, height, width)))
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            found = FastConv(conv, scratch)(given).numpy()
            np.testing.assert_allclose(found, conv(x).detach().numpy(), atol=1e-12)


def test_only_plain_convolutions_are_replaced() -> None:
    plain, others = nn.Conv2d(8, 8, 3, padding=1, bias=False), [
        nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, padding=1, stride=2), nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(1, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), nn.Conv2d(8, 8, 3, padding=2, dilation=2),
    ]  # fmt: skip
    model = nn.Sequential(plain, nn.Sequential(*others)).double()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 8, 5, 5)))
    expected = F.conv2d(x, plain.weight, padding=1)
    replace_convolutions(model)
    assert isinstance(model[0], FastConv)
    assert not any(isinstance(each, FastConv) for each in model[1])  # type: ignore[union-attr]
    np.testing.assert_allclose(model[0](x).numpy(), expected.detach().numpy(), atol=1e-13)


def test_batches_are_padded_to_one_size() -> None:
    assert [rows.stop - rows.start for rows in batches(10, 4)] == [4, 4, 2]
    whole = padded(np.ones((2, 3)), 4)
    np.testing.assert_array_equal(whole.numpy(), [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]])
