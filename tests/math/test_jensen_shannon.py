"""Jensen–Shannon divergence, total variation, and their bounds by a discriminator.

Every distribution here can be enumerated, or scipy knows its integral.
"""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import EPS, gaussians
from scipy import integrate, stats
from scipy.spatial import distance
from torch import Tensor

from nelbo.theory.adversarial import (
    discriminator_value,
    hinge_loss,
    js_lower_bound,
    optimal_logit,
    total_variation_lower_bound,
)
from nelbo.theory.densities import js_density, total_variation_density
from nelbo.theory.discrete import js_discrete, kl_discrete, total_variation_discrete

LN_2 = math.log(2)


def laws(rows: int, n: int, seed: int) -> Tensor:
    """Probability vectors, far from uniform, every other one with an outcome that cannot be, shape (rows, n)."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(n, 0.7), rows)
    p[::2, rng.integers(n)] = 0
    return torch.from_numpy(p / p.sum(1, keepdims=True))


P, Q = laws(40, 6, 0), laws(40, 6, 1)


# Discrete laws


def test_js_is_scipys() -> None:
    """scipy returns its square root; 1e-13 is a sum of six terms of order 1, and their square."""
    rival = distance.jensenshannon(P.numpy(), Q.numpy(), axis=1) ** 2
    np.testing.assert_allclose(js_discrete(P, Q), rival, rtol=0, atol=1e-13)


def test_js_is_the_mean_divergence_from_the_mixture() -> None:
    m = 0.5 * (P + Q)
    definition = 0.5 * kl_discrete(P, m) + 0.5 * kl_discrete(Q, m)
    torch.testing.assert_close(js_discrete(P, Q), definition, rtol=0, atol=1e-15)


def test_js_is_symmetric_zero_for_equals_and_ln_2_for_strangers() -> None:
    assert torch.equal(js_discrete(P, Q), js_discrete(Q, P))
    assert js_discrete(P, P).tolist() == [0.0] * len(P)
    left, right = torch.tensor([0.3, 0.7, 0.0, 0.0]).double(), torch.tensor([0.0, 0.0, 0.9, 0.1]).double()
    assert float(js_discrete(left / left.sum(), right / right.sum())) == pytest.approx(LN_2, abs=1e-15)


@pytest.mark.parametrize("delta", [1e-2, 1e-4, 1e-6, 1e-8])
def test_js_of_laws_that_are_near_each_other_keeps_its_digits(delta: float) -> None:
    """About δ²/(8 · 0.3 · 0.7), to 16 ε; of ½ KL + ½ KL nothing would be left at 1e-8."""
    q = torch.tensor([0.3 + delta, 0.7 - delta], dtype=torch.float64)
    p = torch.tensor([0.3, 0.7], dtype=torch.float64)
    with mpmath.workdps(50):
        a, b = ([mpmath.mpf(float(k)) for k in law] for law in (q, p))
        both = [(x, y, (x + y) / 2) for x, y in zip(a, b, strict=True)]
        exact = sum(x * mpmath.log(x / m) + y * mpmath.log(y / m) for x, y, m in both) / 2
        assert abs(float(js_discrete(q, p)) / float(exact) - 1) <= 16 * EPS


weights = st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda w: sum(w) > 1e-3)


@given(weights, weights)
def test_js_and_total_variation_hold_to_their_bounds(a: list[float], b: list[float]) -> None:
    """0 ≤ JS ≤ ln 2 · TV (Lin 1991), JS ≥ ½ TV² (Pinsker, twice, with TV(q, m) = ½ TV); any zeros, any size."""
    q, p = (torch.tensor(w, dtype=torch.float64) / sum(w) for w in (a, b))
    js, tv = float(js_discrete(q, p)), float(total_variation_discrete(q, p))
    assert 0 <= js <= LN_2 * tv + 4 * EPS
    assert js >= 0.5 * tv**2 - 4 * EPS
    assert 0 <= tv <= 1 + 4 * EPS


def test_total_variation_is_the_largest_difference_over_all_events() -> None:
    """max_A |q(A) − p(A)| over the 2⁶ sets of outcomes."""
    events = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
    largest = ((P - Q) @ events.T).abs().amax(1)
    torch.testing.assert_close(total_variation_discrete(P, Q), largest, rtol=0, atol=1e-15)


@pytest.mark.parametrize("bad", [[0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0]])
def test_numbers_that_are_no_law_are_refused(bad: list[float]) -> None:
    good, wrong = torch.tensor([0.5, 0.5]), torch.tensor(bad)
    scores = torch.zeros(2)
    for call in (
        lambda: js_discrete(good, wrong),
        lambda: js_discrete(wrong, good),
        lambda: total_variation_discrete(good, wrong),
        lambda: total_variation_discrete(wrong, good),
        lambda: discriminator_value(scores, scores, good, wrong),
        lambda: hinge_loss(scores, scores, wrong, good),
    ):
        with pytest.raises(ValueError, match="sum to 1"):
            call()


# Densities


def log_density(law: stats.rv_continuous):
    return lambda x: torch.from_numpy(np.asarray(law.logpdf(x.numpy())))


PAIRS = {
    "normals": (stats.norm(0, 1), stats.norm(1, 2)),
    "near": (stats.norm(0, 1), stats.norm(1e-3, 1)),
    "far": (stats.norm(0, 1), stats.norm(9, 0.5)),
    "heavy": (stats.cauchy(0, 1), stats.norm(0, 1)),
    "half": (stats.expon(), stats.norm(0.5, 1)),
}


@pytest.mark.parametrize("name", list(PAIRS))
def test_js_of_densities_is_scipys_quadrature(name: str) -> None:
    """1e-10: what both promise. KL(q‖p) is infinite for Cauchy, KL(p‖q) for the exponential."""
    q, p = PAIRS[name]

    def integrand(x: float) -> float:
        m = 0.5 * (q.pdf(x) + p.pdf(x))
        return 0.5 * sum(law.pdf(x) * math.log(law.pdf(x) / m) if law.pdf(x) > 0 else 0.0 for law in (q, p))

    pieces = [(-np.inf, -5), (-5, 0), (0, 5), (5, 12), (12, np.inf)]
    truth = sum(integrate.quad(integrand, *piece, epsabs=1e-12, limit=300)[0] for piece in pieces)
    assert float(js_density(log_density(q), log_density(p), around=(0.0, 9.0))) == pytest.approx(truth, abs=1e-10)
    swapped = js_density(log_density(p), log_density(q), around=(0.0, 9.0))
    assert float(swapped) == pytest.approx(truth, abs=1e-10)


@pytest.mark.parametrize(("shift", "std"), [(0.0, 1.0), (0.5, 1.0), (3.0, 1.0), (20.0, 1.0), (0.2, 0.3)])
def test_total_variation_of_shifted_normals_is_a_difference_of_distribution_functions(shift: float, std: float) -> None:
    """The densities cross in the middle, so TV = 2 Φ(|μ|/2σ) − 1."""
    q, p = log_density(stats.norm(0, std)), log_density(stats.norm(shift, std))
    truth = 2 * stats.norm.cdf(shift / (2 * std)) - 1
    assert float(total_variation_density(q, p, around=(0.0, shift))) == pytest.approx(truth, abs=1e-9)


def test_strangers_on_the_line_are_as_far_apart_as_can_be() -> None:
    """U(0, 1) and U(2, 4), with neither having mass between them."""
    q, p = log_density(stats.uniform(0, 1)), log_density(stats.uniform(2, 2))
    assert float(js_density(q, p, around=(0, 1, 2, 4))) == pytest.approx(LN_2, abs=1e-9)
    assert float(total_variation_density(q, p, around=(0, 1, 2, 4))) == pytest.approx(1, abs=1e-9)
    with pytest.raises(ValueError, match="p integrates to"):
        js_density(q, p, support=(0.0, 3.0))


# What a discriminator knows: p the data's law, q the generator's


@pytest.fixture(params=range(0, 40, 4))
def pair(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    return P[request.param], Q[request.param + 1]


def test_the_best_discriminator_is_the_share_of_the_data(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    share = torch.sigmoid(optimal_logit(p.log(), q.log()))
    torch.testing.assert_close(share, p / (p + q), rtol=0, atol=4 * EPS)
    nowhere = torch.full((2,), -math.inf)
    assert torch.sigmoid(optimal_logit(nowhere, nowhere)).tolist() == [0.5, 0.5]


def test_the_value_of_the_best_is_twice_js_less_twice_ln_2(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    best = optimal_logit(p.log(), q.log())
    value = discriminator_value(best, best, p, q)
    assert float(value) == pytest.approx(float(2 * js_discrete(p, q)) - 2 * LN_2, abs=1e-14)
    assert float(js_lower_bound(value)) == pytest.approx(float(js_discrete(p, q)), abs=1e-14)


def test_the_value_is_its_definition(pair: tuple[Tensor, Tensor]) -> None:
    """E_p ln D + E_q ln(1 − D) with D itself, at discriminators that are none too sure."""
    p, q = pair
    for seed in range(5):
        logit = gaussians(6, seed=seed)
        D = 1 / (1 + torch.exp(-logit))
        definition = (p * D.log()).sum() + (q * (1 - D).log()).sum()
        assert float(discriminator_value(logit, logit, p, q)) == pytest.approx(float(definition), abs=1e-14)


def test_no_discriminator_is_better_and_so_each_bounds_js(pair: tuple[Tensor, Tensor]) -> None:
    """Random ones of every confidence, and small steps away from the best."""
    p, q = pair
    best, js = optimal_logit(p.log(), q.log()), float(js_discrete(p, q))
    trials = [scale * gaussians(6, seed=seed) for seed in range(20) for scale in (0.1, 1.0, 10.0)]
    trials += [best + 1e-3 * gaussians(6, seed=seed) for seed in range(20)]
    for logit in trials:
        assert float(js_lower_bound(discriminator_value(logit, logit, p, q))) < js


def test_the_optimum_is_where_the_laws_are_equal(pair: tuple[Tensor, Tensor]) -> None:
    """There D* = ½ and V = −2 ln 2; for any other generator the best discriminator's value is higher."""
    p, q = pair
    here = optimal_logit(p.log(), p.log())
    assert torch.sigmoid(here).tolist() == [0.5] * 6
    least = float(discriminator_value(here, here, p, p))
    assert least == pytest.approx(-2 * LN_2, abs=1e-15)
    best = optimal_logit(p.log(), q.log())
    assert float(discriminator_value(best, best, p, q)) > least + 1e-3


def test_the_value_keeps_its_digits_where_the_discriminator_is_sure() -> None:
    """ln σ(−100) = −100 − ln(1 + e^{−100}): 1 − D would be 0 in float64."""
    sure = torch.tensor([100.0], dtype=torch.float64)
    assert float(discriminator_value(sure, sure)) == pytest.approx(-100.0, abs=1e-13)
    assert float(discriminator_value(sure, -sure)) == pytest.approx(-2 * math.exp(-100), rel=1e-12)


def test_hinge_is_its_definition(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    for seed in range(5):
        f = 2 * gaussians(6, seed=seed)
        definition = sum(
            float(p[k]) * max(0.0, 1 - float(f[k])) + float(q[k]) * max(0.0, 1 + float(f[k])) for k in range(6)
        )
        assert float(hinge_loss(f, f, p, q)) == pytest.approx(definition, abs=1e-14)


def test_the_best_hinge_is_the_sign_and_gives_total_variation(pair: tuple[Tensor, Tensor]) -> None:
    """At every outcome the least over a grid of scores is that of sign(p − q), 2 min(p, q)."""
    p, q = pair
    grid = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
    pointwise = p * (1 - grid).clamp(min=0) + q * (1 + grid).clamp(min=0)
    torch.testing.assert_close(pointwise.amin(0), 2 * torch.minimum(p, q), rtol=0, atol=1e-15)
    best = torch.sign(p - q)
    bound = total_variation_lower_bound(hinge_loss(best, best, p, q))
    assert float(bound) == pytest.approx(float(total_variation_discrete(p, q)), abs=1e-14)


def test_every_hinge_bounds_total_variation(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    truth = float(total_variation_discrete(p, q))
    for seed in range(20):
        for scale in (0.1, 1.0, 10.0):
            f = scale * gaussians(6, seed=seed)
            assert float(total_variation_lower_bound(hinge_loss(f, f, p, q))) < truth + 4 * EPS


def test_samples_estimate_what_the_laws_give() -> None:
    """p = N(0, 1), q = N(1, 1): at D*, ½ V + ln 2 is JS by quadrature; at the sign, 1 − ½ L is TV. Within 4 s.e."""
    n = 40_000
    x_p, x_q = gaussians(n), 1 + gaussians(n, seed=1)
    p, q = log_density(stats.norm(0, 1)), log_density(stats.norm(1, 1))
    at_p, at_q = optimal_logit(p(x_p), q(x_p)), optimal_logit(p(x_q), q(x_q))
    error = ((torch.nn.functional.logsigmoid(at_p).var() + torch.nn.functional.logsigmoid(-at_q).var()) / n).sqrt()
    estimate = js_lower_bound(discriminator_value(at_p, at_q))
    assert abs(float(estimate - js_density(p, q))) < 4 * 0.5 * float(error)
    sign_p, sign_q = torch.sign(at_p), torch.sign(at_q)
    error = ((sign_p.var() + sign_q.var()) / n).sqrt()
    estimate = total_variation_lower_bound(hinge_loss(sign_p, sign_q))
    assert abs(float(estimate - total_variation_density(p, q))) < 4 * 0.5 * float(error)
