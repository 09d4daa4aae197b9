"""Distributions over pixel levels: they sum to 1, agree with scipy where scipy is accurate, and never underflow."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import gaussians
from scipy import stats

from nelbo.theory.likelihoods import DiscretizedNormal, to_levels, to_unit

mpmath.mp.dps = 50
LEVELS = (2, 3, 17, 256)
STDS = (1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0)
MEANS = (-100.0, -3.0, -1.0, -0.998, -0.31, 0.0, 1e-9, 0.25, 0.9999, 1.0, 2.5, 100.0)


def double(number: float) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.float64)


def edges(L: int) -> tuple[np.ndarray, np.ndarray]:
    """The bins (a_k, b_k), from the middle between neighbouring levels."""
    levels = np.array([2 * k / (L - 1) - 1 for k in range(L)])
    middle = (levels[1:] + levels[:-1]) / 2
    return np.concatenate([[-np.inf], middle]), np.concatenate([middle, [np.inf]])


@pytest.mark.parametrize("L", LEVELS)
@pytest.mark.parametrize("std", STDS)
def test_probabilities_sum_to_one(L: int, std: float) -> None:
    """To L roundings of logarithms. Wherever the mean is, far outside too."""
    means = torch.tensor(MEANS, dtype=torch.float64)
    log_probs = DiscretizedNormal(means, double(std).expand_as(means), L).log_probs()
    assert log_probs.shape == (len(MEANS), L)
    assert bool(log_probs.isfinite().all())
    # An edge at distance r σ is known to ε r, and the probability beside it to the density times that: ε r at most.
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones_like(means), rtol=0, atol=1e-12)


@pytest.mark.parametrize("L", LEVELS)
@pytest.mark.parametrize("std", STDS)
def test_matches_differences_of_scipys_cdf(L: int, std: float) -> None:
    """Absolutely everywhere: a difference of CDFs is accurate to ε, and an edge at r σ moves it by ε r φ(r) < ε."""
    a, b = edges(L)
    for mean in MEANS:
        expected = stats.norm.cdf(b, mean, std) - stats.norm.cdf(a, mean, std)
        ours = DiscretizedNormal(double(mean), double(std), L).log_probs().exp().numpy()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-13 / min(1, std * 10))


@pytest.mark.parametrize("L", LEVELS)
@pytest.mark.parametrize("std", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("mean", [-3.0, -0.31, 0.0, 1.4])
def test_logarithms_match_50_digits_into_the_tails(L: int, std: float, mean: float) -> None:
    """Relative to ln P, where P itself may be 1e-20000 and both tails are looked at."""
    a, b = edges(L)
    ours = DiscretizedNormal(double(mean), double(std), L).log_probs().tolist()

    def lower_tail(z: float) -> mpmath.mpf:
        return mpmath.erfc(-mpmath.mpf(z) / mpmath.sqrt(2)) / 2

    mu, sigma = mpmath.mpf(mean), mpmath.mpf(std)
    for k in sorted({0, 1, L // 2, L - 2, L - 1}):
        low, high = (mpmath.mpf(float(edge)) for edge in (a[k], b[k]))
        low, high = (low - mu) / sigma, (high - mu) / sigma
        if low > 0:
            low, high = -high, -low
        exact = mpmath.log(lower_tail(high) - lower_tail(low))
        # A bin of width w σ: the difference of two logarithms of size |ln P| keeps ε |ln P|/w.
        loss = max(1.0, (1 / float(high - low) if mpmath.isfinite(high - low) else 1.0))
        assert abs(ours[k] - float(exact)) <= 1e-14 * (abs(float(exact)) + 1) * (10 + 20 * loss)


@pytest.mark.parametrize("L", LEVELS)
@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_with_finite_gradients_everywhere(L: int, std: float, dtype: torch.dtype) -> None:
    """No branch that torch.where drops may leave a NaN in the gradient."""
    mean = torch.tensor(MEANS, dtype=dtype, requires_grad=True)
    log_std = torch.full((len(MEANS),), math.log(std), dtype=dtype, requires_grad=True)
    log_probs = DiscretizedNormal(mean, log_std.exp(), L).log_probs()
    assert log_probs.dtype == torch.float64
    assert bool(log_probs.isfinite().all())
    assert bool((log_probs <= 1e-12).all())
    log_probs.sum().backward()
    assert bool(mean.grad.isfinite().all())
    assert bool(log_std.grad.isfinite().all())


def exact_gradient(mean: float, std: float, k: int, L: int) -> tuple[float, float]:
    """∂ ln P/∂μ = (φ(l) − φ(h))/(σ P) and ∂ ln P/∂σ = (l φ(l) − h φ(h))/(σ P) for the edges l, h in units of σ."""
    a, b = edges(L)
    mu, sigma = mpmath.mpf(mean), mpmath.mpf(std)
    low, high = ((mpmath.mpf(float(edge)) - mu) / sigma for edge in (a[k], b[k]))

    def density(z: mpmath.mpf) -> mpmath.mpf:
        return mpmath.exp(-z * z / 2) / mpmath.sqrt(2 * mpmath.pi) if mpmath.isfinite(z) else mpmath.mpf(0)

    def tail(z: mpmath.mpf) -> mpmath.mpf:
        return mpmath.erfc(-z / mpmath.sqrt(2)) / 2

    p = tail(high) - tail(low) if high < 0 else tail(-low) - tail(-high)
    scaled_low = low * density(low) if mpmath.isfinite(low) else mpmath.mpf(0)
    scaled_high = high * density(high) if mpmath.isfinite(high) else mpmath.mpf(0)
    return float((density(low) - density(high)) / (sigma * p)), float((scaled_low - scaled_high) / (sigma * p))


@pytest.mark.parametrize("L", LEVELS)
@pytest.mark.parametrize("std", [0.003, 0.03, 0.4])
@pytest.mark.parametrize("mean", [-1.7, -0.31, 0.0, 0.62])
def test_gradient_is_the_analytic_one(L: int, std: float, mean: float) -> None:
    """Relative 1e-8: a bin of width w σ far in the tail loses a factor |z|/w of 1e-16."""
    for k in sorted({0, L // 3, L - 1}):
        mu, sigma = double(mean).requires_grad_(), double(std).requires_grad_()
        DiscretizedNormal(mu, sigma, L).log_prob(torch.tensor(k)).backward()
        of_mean, of_std = exact_gradient(mean, std, k, L)
        assert float(mu.grad) == pytest.approx(of_mean, rel=1e-8, abs=1e-8)
        assert float(sigma.grad) == pytest.approx(of_std, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("L", LEVELS)
def test_gradient_matches_finite_differences(L: int) -> None:
    mean = (0.8 * gaussians(12)).requires_grad_()
    log_std = (gaussians(12, seed=1) - 2).requires_grad_()
    level = torch.from_numpy(np.random.default_rng(2).integers(0, L, 12))
    assert torch.autograd.gradcheck(
        lambda m, s: DiscretizedNormal(m, s.exp(), L).log_prob(level), (mean, log_std), eps=1e-6, rtol=1e-4, atol=1e-6
    )


@given(st.integers(2, 256), st.floats(-5, 5), st.floats(1e-3, 10), st.integers(0, 255), st.booleans())
def test_mirrored_levels_have_mirrored_probabilities(L: int, mean: float, std: float, k: int, small: bool) -> None:
    """P(k; μ) = P(L−1−k; −μ)."""
    k, dtype = k % L, torch.uint8 if small else torch.int64
    here = DiscretizedNormal(double(mean), double(std), L).log_prob(torch.tensor(k, dtype=dtype))
    there = DiscretizedNormal(double(-mean), double(std), L).log_prob(torch.tensor(L - 1 - k, dtype=dtype))
    assert float(here) == pytest.approx(float(there), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("L", [2, 17, 256])
def test_a_wide_law_is_density_times_bin_inside(L: int) -> None:
    """Midpoint rule: P(k) = h p(x_k) (1 + h²/24 (z² − 1)/σ² + …) for the inner levels."""
    h, std, mean = 2 / (L - 1), 5.0, 0.3
    levels = torch.arange(1, L - 1)
    ours = DiscretizedNormal(double(mean), double(std), L).log_prob(levels)
    z = (np.array([2 * k / (L - 1) - 1 for k in range(1, L - 1)]) - mean) / std
    expected = stats.norm.logpdf(z) - math.log(std) + math.log(h)
    np.testing.assert_allclose(ours.numpy(), expected, atol=h**2 / 24 / std**2 + 1e-11)


def test_std_broadcasts_over_the_mean() -> None:
    mean = gaussians(2, 3, 4)
    one = DiscretizedNormal(mean, double(0.3), 17)
    each = DiscretizedNormal(mean, torch.full_like(mean, 0.3), 17)
    assert one.log_probs().shape == (2, 3, 4, 17)
    assert bool((one.log_probs() == each.log_probs()).all())
    levels = torch.randint(0, 17, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    picked = one.log_probs().gather(-1, levels[..., None])[..., 0]
    assert bool((one.log_prob(levels) == picked).all())


@pytest.mark.parametrize("L", range(2, 257))
def test_levels_survive_the_way_to_the_unit_interval_and_back(L: int) -> None:
    levels = torch.arange(L)
    unit = to_unit(levels, L)
    assert unit.dtype == torch.float32
    assert float(unit[0]) == -1
    np.testing.assert_allclose(unit.numpy(), [2 * k / (L - 1) - 1 for k in range(L)], atol=1.2e-7)
    assert to_levels(unit, L).tolist() == levels.tolist()
    assert to_levels(to_unit(levels.to(torch.uint8), L), L).tolist() == levels.tolist()


@given(st.integers(2, 256), st.floats(-3, 3))
def test_to_levels_is_the_nearest_level(L: int, x: float) -> None:
    distance = np.abs(np.array([2 * k / (L - 1) - 1 for k in range(L)]) - x)
    level = int(to_levels(double(x), L))
    assert distance[level] <= distance.min() + 1e-12
