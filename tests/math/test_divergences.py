"""KL, against torch.distributions, quadrature, sums, Monte Carlo, and 50 digits."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import EPS, assert_mean, gaussians
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Cauchy,
    Distribution,
    Gamma,
    Geometric,
    Independent,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    Uniform,
    kl_divergence,
)

from nelbo.theory.densities import integral, kl, kl_density
from nelbo.theory.discrete import kl_discrete
from nelbo.theory.monte_carlo import kl_monte_carlo, kl_monte_carlo_low_variance
from nelbo.theory.normal import kl_normal, kl_of_variances

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


# The divergence of any two laws: sums, closed forms, quadrature, Monte Carlo


def f64(*numbers: float) -> list[Tensor]:
    return [torch.tensor(number, dtype=torch.float64) for number in numbers]


def log_normal(mean: float, std: float):
    """x ↦ ln N(x; mean, std²), by its formula."""
    return lambda x: -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


def log_uniform(low: float, high: float):
    return lambda x: torch.where((x >= low) & (x <= high), 0 * x - math.log(high - low), -math.inf)


def by_scipy(q: stats.rv_continuous, p: stats.rv_continuous, low: float, high: float) -> float:
    value, _ = integrate.quad(
        lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), low, high, epsabs=1e-12, epsrel=1e-12, limit=500
    )
    return value


def test_the_unfair_coin_and_that_its_divergence_has_a_direction() -> None:
    """KL(B(0.6) ‖ B(0.7)) = 0.6 ln(6/7) + 0.4 ln(4/3) in 50 digits; B is 1 with the probability in brackets."""
    six, seven = torch.tensor([0.4, 0.6], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    m = [mpmath.mpf(k) / 10 for k in range(10)]
    forth = m[6] * mpmath.log(m[6] / m[7]) + m[4] * mpmath.log(m[4] / m[3])
    back = m[7] * mpmath.log(m[7] / m[6]) + m[3] * mpmath.log(m[3] / m[4])
    assert round(float(forth), 7) == 0.0225824
    assert round(float(back), 7) == 0.0216009
    # Terms of about 0.1, each rounded a few times.
    assert float(kl_discrete(six, seven)) == pytest.approx(float(forth), abs=1e-15)
    assert float(kl_discrete(seven, six)) == pytest.approx(float(back), abs=1e-15)
    coins = [Bernoulli(probability) for probability in f64(0.6, 0.7)]
    # torch gets there from logits, which loses a digit.
    assert float(kl(coins[0], coins[1])) == pytest.approx(float(forth), abs=1e-14)
    assert float(kl(coins[1], coins[0])) == pytest.approx(float(back), abs=1e-14)


def test_it_is_not_symmetric() -> None:
    """N(0, 1) and N(0, 4): ln 2 + ⅛ − ½ one way, 2 − ln 2 − ½ the other; by every way there is."""
    narrow, wide = (Normal(*f64(0.0, std)) for std in (1.0, 2.0))
    for q, p, truth in ((narrow, wide, math.log(2) - 3 / 8), (wide, narrow, 1.5 - math.log(2))):
        assert float(kl(q, p)) == pytest.approx(truth, abs=1e-14)
        assert float(kl_normal(q.mean, q.variance, p.mean, p.variance)) == pytest.approx(truth, abs=1e-14)
        assert float(kl_density(q.log_prob, p.log_prob)) == pytest.approx(truth, abs=1e-9)
        x = q.mean + q.stddev * gaussians(20_000)
        estimate = kl_monte_carlo(q.log_prob(x), p.log_prob(x))
        assert abs(float(estimate.mean) - truth) < 4 * float(estimate.stderr)
        assert float(estimate.stderr) < 0.02


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (Categorical(torch.tensor([0.2, 0.8])), Categorical(torch.tensor([0.5, 0.5]))),
        (Poisson(torch.tensor(3.0)), Poisson(torch.tensor([2.0, 4.0]))),
        (
            MultivariateNormal(torch.zeros(2), torch.eye(2)),
            MultivariateNormal(torch.ones(2), 2 * torch.eye(2)),
        ),
        (Independent(Laplace(torch.zeros(3), 1.0), 1), Independent(Laplace(torch.ones(3), 2.0), 1)),
    ],
)
def test_a_closed_form_is_torchs(q: Distribution, p: Distribution) -> None:
    assert torch.equal(kl(q, p), kl_divergence(q, p))


@pytest.mark.parametrize(
    ("q", "p"), [((0, 1), (0, 1)), ((0, 1), (0.3, 1.7)), ((-2, 0.05), (1, 3)), ((30, 2), (35, 2.5))]
)
def test_quadrature_has_the_closed_form(q: tuple[float, float], p: tuple[float, float]) -> None:
    truth = kl_normal(*f64(q[0], q[1] ** 2, p[0], p[1] ** 2))
    assert float(kl_density(log_normal(*q), log_normal(*p))) == pytest.approx(float(truth), abs=1e-9)


STUDENT, NORMAL, CAUCHY = StudentT(*f64(4.0, 0.5, 1.3)), Normal(*f64(0.0, 2.0)), Cauchy(*f64(1.0, 0.5))
BETA, GAMMA, LOG_NORMAL = Beta(*f64(2.5, 1.5)), Gamma(*f64(0.8, 1.5)), LogNormal(*f64(0.2, 0.7))


@pytest.mark.parametrize(
    ("q", "p", "q_scipy", "p_scipy", "low", "high"),
    [
        (NORMAL, STUDENT, stats.norm(0, 2), stats.t(4, 0.5, 1.3), -60, 60),
        (STUDENT, NORMAL, stats.t(4, 0.5, 1.3), stats.norm(0, 2), -np.inf, np.inf),
        (CAUCHY, STUDENT, stats.cauchy(1, 0.5), stats.t(4, 0.5, 1.3), -np.inf, np.inf),
        (LOG_NORMAL, STUDENT, stats.lognorm(0.7, 0, math.exp(0.2)), stats.t(4, 0.5, 1.3), 0, np.inf),
        (BETA, LOG_NORMAL, stats.beta(2.5, 1.5), stats.lognorm(0.7, 0, math.exp(0.2)), 0, 1),
        (GAMMA, LOG_NORMAL, stats.gamma(0.8, 0, 1 / 1.5), stats.lognorm(0.7, 0, math.exp(0.2)), 0, np.inf),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Distribution) else "",
)
def test_without_a_closed_form_it_is_scipys_quadrature(q, p, q_scipy, p_scipy, low, high) -> None:
    """1e-8: scipy's own error on heavy tails and at the pole of the gamma density."""
    with pytest.raises(NotImplementedError):
        kl_divergence(q, p)
    assert float(kl(q, p)) == pytest.approx(by_scipy(q_scipy, p_scipy, low, high), abs=1e-8)


def test_the_integral_of_several_functions_is_each_ones() -> None:
    """∫ e^{−x²}, ∫ 1/(1 + x²) and ∫ x² e^{−x²} over the line; ∫ √x and ∫ |x − ⅓| over (0, 1)."""
    line = integral(lambda x: torch.stack([(-x * x).exp(), 1 / (1 + x * x), x * x * (-x * x).exp()], -1))
    assert line.tolist() == pytest.approx([math.sqrt(math.pi), math.pi, math.sqrt(math.pi) / 2], abs=1e-9)
    unit = integral(lambda x: torch.stack([x.sqrt(), (x - 1 / 3).abs()], -1), (0.0, 1.0))
    assert unit.tolist() == pytest.approx([2 / 3, 5 / 18], abs=1e-9)


def test_unequal_supports_cost_their_ratio_one_way_and_are_refused_the_other() -> None:
    """KL(U(0, 1) ‖ U(0, 3)) = ln 3. The jumps are found, named or not; and 0 ln 0 = 0 where q has no mass."""
    for around in ((0.0,), (0.0, 1.0, 3.0)):
        value = kl_density(log_uniform(0, 1), log_uniform(0, 3), around=around)
        assert float(value) == pytest.approx(math.log(3), abs=1e-8)
        with pytest.raises(ValueError, match="where p has none"):
            kl_density(log_uniform(0, 3), log_uniform(0, 1), around=around)
    inside, outside = Uniform(*f64(0.0, 1.0)), Uniform(*f64(0.0, 3.0))
    assert float(kl(inside, outside)) == pytest.approx(math.log(3), abs=1e-14)
    for q, p in ((outside, inside), (NORMAL, inside), (NORMAL, LOG_NORMAL)):
        with pytest.raises(ValueError, match="where p has none"):
            kl(q, p)


def test_a_tail_that_underflows_is_no_lack_of_mass() -> None:
    """N(0, 1) against N(60, 1), where p(0) = e^{−1800} is 0 in float64: the divergence is 60²/2."""
    value = kl_density(log_normal(0, 1), log_normal(60, 1), around=(0.0, 60.0))
    assert float(value) == pytest.approx(1800, abs=1e-6)


@pytest.mark.parametrize("factor", [0.5, 1.01, 2.0])
def test_densities_that_are_not_normalised_are_refused(factor: float) -> None:
    good, bad = log_normal(0, 1), lambda x: log_normal(0, 1)(x) + math.log(factor)
    with pytest.raises(ValueError, match="q integrates to"):
        kl_density(bad, good)
    with pytest.raises(ValueError, match="p integrates to"):
        kl_density(good, bad)


def test_a_peak_that_was_missed_is_refused_and_found_where_it_is_named() -> None:
    q, p = log_normal(777.7, 1e-3), log_normal(777.7, 2e-3)
    with pytest.raises(ValueError, match="around"):
        kl_density(q, p)
    truth = float(kl_normal(*f64(0.0, 1.0, 0.0, 4.0)))
    # x near 777.7 is known to 1e-13, which is 1e-10 of the peak's width.
    assert float(kl_density(q, p, around=(777.7,))) == pytest.approx(truth, abs=1e-8)


def test_an_integral_that_diverges_is_refused() -> None:
    """KL(Cauchy ‖ normal) = ∞ though p has mass wherever q has; and ∫ 1/x at 0."""
    for p in (NORMAL, Laplace(*f64(0.0, 1.0))):
        with pytest.raises(ValueError, match="infinite"):
            kl(CAUCHY, p)
    with pytest.raises(ValueError, match="infinite"):
        integral(lambda x: 1 / x[:, None], (0.0, 1.0))


def test_what_is_no_density_and_no_support_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        kl_density(log_normal(0, 1), lambda x: x * math.nan)
    with pytest.raises(ValueError, match="order"):
        kl_density(log_normal(0, 1), log_normal(0, 1), support=(1.0, 1.0))
    for q, p in ((Poisson(torch.tensor(1.0)), Geometric(torch.tensor(0.5))), (Normal(torch.zeros(2), 1.0), STUDENT)):
        with pytest.raises(ValueError, match="kl_monte_carlo"):
            kl(q, p)


# Monte Carlo. q = N(μ, 1), p = N(0, 1): ln q − ln p = μ x − μ²/2 has variance μ², and KL = μ²/2. With d = ln p − ln q,
# e^d is log-normal with variance e^{μ²} − 1, and Cov(e^d, d) = μ²: the variance of e^d − 1 − d is e^{μ²} − 1 − μ².

VARIANCES = {
    kl_monte_carlo: lambda mu: mu**2,
    kl_monte_carlo_low_variance: lambda mu: math.exp(mu**2) - 1 - mu**2,
}


@pytest.mark.parametrize("estimator", list(VARIANCES), ids=lambda e: e.__name__)
@pytest.mark.parametrize("mu", [0.1, 0.5])
def test_monte_carlo_has_the_mean_and_the_error_of_its_law(estimator, mu: float) -> None:
    """400 estimates from 500 samples: their mean, their spread (a χ² law), and the errors that they claim."""
    n, repeats = 500, 400
    q, p = Normal(*f64(mu, 1.0)), Normal(*f64(0.0, 1.0))
    x = mu + gaussians(n, repeats, seed=3)
    estimate = estimator(q.log_prob(x), p.log_prob(x))
    assert estimate.mean.shape == estimate.stderr.shape == (repeats,)
    assert_mean(estimate.mean, mu**2 / 2)
    variance = VARIANCES[estimator](mu) / n
    spread = float(estimate.mean.var()) / variance * (repeats - 1)
    assert stats.chi2(repeats - 1).ppf(0.00135) < spread < stats.chi2(repeats - 1).ppf(0.99865)
    assert_mean(estimate.stderr**2, variance)


def test_the_low_variance_estimate_is_never_negative_and_the_better_for_near_laws() -> None:
    q, p = Normal(*f64(0.1, 1.0)), Normal(*f64(0.0, 1.0))
    x = 0.1 + gaussians(5, 200)
    plain, low = (estimator(q.log_prob(x), p.log_prob(x)) for estimator in VARIANCES)
    assert bool((plain.mean < 0).any())
    assert bool((low.mean >= 0).all())
    assert float(low.stderr.mean()) < 0.2 * float(plain.stderr.mean())


def test_the_low_variance_estimate_misses_what_p_has_outside_q() -> None:
    """q = U(0, 1), p = U(0, 2): the ratio is ½ everywhere; ln 2 by the definition, ½ too little by k3."""
    log_q, log_p = torch.zeros(3, dtype=torch.float64), torch.full((3,), -math.log(2), dtype=torch.float64)
    assert float(kl_monte_carlo(log_q, log_p).mean) == pytest.approx(math.log(2), abs=1e-15)
    assert float(kl_monte_carlo_low_variance(log_q, log_p).mean) == pytest.approx(math.log(2) - 0.5, abs=1e-15)


@pytest.mark.parametrize("estimator", list(VARIANCES), ids=lambda e: e.__name__)
def test_samples_that_give_no_estimate_are_refused(estimator) -> None:
    good, none = torch.zeros(3), torch.tensor([0.0, -math.inf, 0.0])
    with pytest.raises(ValueError, match="infinite"):
        estimator(good, none)
    with pytest.raises(ValueError, match="not from a density"):
        estimator(none, good)
    with pytest.raises(ValueError, match="not a density"):
        estimator(good, good * math.nan)
    with pytest.raises(ValueError, match="at least 2"):
        estimator(good[:1], good[:1])
