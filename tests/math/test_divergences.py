"""KL between Gaussians against torch.distributions, quadrature, and 50 digits."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import EPS, gaussians
from scipy import integrate, stats
from torch.distributions import Normal, kl_divergence

from nelbo.divergences import kl_normal, kl_of_variances

mpmath.mp.dps = 50


def test_matches_torch_distributions() -> None:
    """Over variances that differ by up to e^6. The rival's own round-off is a few ε of the largest of its terms."""
    mean_q, mean_p = gaussians(1000), gaussians(1000, seed=1)
    var_q, var_p = (3 * gaussians(1000, seed=2)).exp(), (3 * gaussians(1000, seed=3)).exp()
    rival = kl_divergence(Normal(mean_q, var_q.sqrt()), Normal(mean_p, var_p.sqrt()))
    torch.testing.assert_close(kl_normal(mean_q, var_q, mean_p, var_p), rival, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("mean_q", "var_q", "mean_p", "var_p"), [(0, 1, 0, 1), (0.3, 0.5, -1, 2), (2, 0.01, 1.9, 0.02), (-1, 4, 1, 0.7)]
)
def test_matches_quadrature(mean_q: float, var_q: float, mean_p: float, var_p: float) -> None:
    q, p = stats.norm(mean_q, var_q**0.5), stats.norm(mean_p, var_p**0.5)
    reach = 12 * var_q**0.5
    value, _ = integrate.quad(
        lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), mean_q - reach, mean_q + reach, epsabs=1e-12, limit=200
    )
    numbers = (torch.tensor(float(number), dtype=torch.float64) for number in (mean_q, var_q, mean_p, var_p))
    assert float(kl_normal(*numbers)) == pytest.approx(value, abs=1e-10)


@given(st.floats(-0.999, 1e6))
def test_the_part_of_the_variances_to_50_digits(delta: float) -> None:
    """δ − ln(1 + δ) for σ_p² = 1: a difference of numbers of size δ, each rounded once, so 2 ε |δ| at most.

    Near δ = 0 that is a relative error of 4 ε/|δ|: at δ = 1e-8 the value 5e-17 still has eight digits.
    """
    var_q = torch.tensor(1.0 + delta, dtype=torch.float64)
    exact_delta = mpmath.mpf(float(var_q)) - 1
    exact = exact_delta - mpmath.log1p(exact_delta)
    value = float(kl_of_variances(var_q, torch.ones((), dtype=torch.float64)))
    assert abs(mpmath.mpf(value) - exact) <= 2 * EPS * max(abs(exact_delta), abs(mpmath.log1p(exact_delta)))


@pytest.mark.parametrize("delta", [1e-3, -1e-3, 1e-5, -1e-5, 1e-7, -1e-7])
def test_tiny_differences_of_variance_keep_their_digits(delta: float) -> None:
    """ln(σ_p²/σ_q²) + σ_q²/σ_p² − 1 computed as it stands would have an error of ε: nothing is left at δ = 1e-8."""
    var_p = torch.tensor(0.37, dtype=torch.float64)
    var_q = var_p * (1 + delta)
    exact_delta = mpmath.mpf(float(var_q)) / mpmath.mpf(float(var_p)) - 1
    exact = exact_delta - mpmath.log1p(exact_delta)
    # var_q − var_p is exact (Sterbenz), so δ has one rounding; the difference loses 2/|δ|.
    assert abs(mpmath.mpf(float(kl_of_variances(var_q, var_p))) / exact - 1) <= 8 * EPS / abs(delta)


variances = st.floats(1e-12, 1e12)
means = st.floats(-1e6, 1e6)


@given(means, variances, means, variances, st.sampled_from([torch.float32, torch.float64]))
def test_never_negative(mean_q: float, var_q: float, mean_p: float, var_p: float, dtype: torch.dtype) -> None:
    """Down to round-off: −ε at the most, never a visible negative number."""
    numbers = [torch.tensor(number, dtype=dtype) for number in (mean_q, var_q, mean_p, var_p)]
    value = float(kl_normal(*numbers))
    assert value >= -torch.finfo(dtype).eps
    if (mean_q, var_q) == (mean_p, var_p):
        assert value == 0


@given(means, variances)
def test_zero_for_equals(mean: float, var: float) -> None:
    m, v = torch.tensor(mean, dtype=torch.float64), torch.tensor(var, dtype=torch.float64)
    assert float(kl_normal(m, v, m, v)) == 0


def test_gradient_matches_autograd_of_the_definition() -> None:
    """∂KL/∂μ_q = (μ_q − μ_p)/σ_p², ∂KL/∂σ_q² = ½(1/σ_p² − 1/σ_q²)."""
    q = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in (0.4, 0.6)]
    p = [torch.tensor(number, dtype=torch.float64) for number in (-0.2, 1.7)]
    kl_normal(q[0], q[1], p[0], p[1]).backward()
    assert float(q[0].grad) == pytest.approx(0.6 / 1.7, rel=1e-14)
    assert float(q[1].grad) == pytest.approx(0.5 * (1 / 1.7 - 1 / 0.6), rel=1e-14)


def test_diagonal_gaussians_sum_over_dimensions() -> None:
    """The sum of elements is the KL of the D-dimensional laws: ½(tr + quadratic − D + ln det)."""
    D = 5
    mean_q, mean_p = gaussians(D), gaussians(D, seed=1)
    var_q, var_p = gaussians(D, seed=2).exp(), gaussians(D, seed=3).exp()
    quadratic = ((mean_q - mean_p) ** 2 / var_p).sum()
    log_det = math.log(np.prod(var_p.numpy()) / np.prod(var_q.numpy()))
    whole = 0.5 * ((var_q / var_p).sum() + quadratic - D + log_det)
    assert float(kl_normal(mean_q, var_q, mean_p, var_p).sum()) == pytest.approx(float(whole), rel=1e-12)
