"""Noise schedules against their papers' formulas, evaluated with 50 digits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import CASES, EPS, every_schedule, schedule_of

from nelbo.diffusion.schedules import SCHEDULES, Schedule, cosine, linear, sigmoid
from nelbo.errors import InputError

mpmath.mp.dps = 50


def exact_alpha_bar(schedule: Schedule) -> list[mpmath.mpf]:
    """ᾱ_0 … ᾱ_T by multiplying 1 − β_t with 50 digits, taking the float64 β_t as they are."""
    products = [mpmath.mpf(1)]
    for beta in schedule.beta[1:].tolist():
        products.append(products[-1] * (1 - mpmath.mpf(beta)))
    return products


@every_schedule
def test_index_0_is_the_clean_image(name: str, T: int) -> None:
    schedule = schedule_of(name, T)
    assert schedule.T == T
    for table in ("beta", "alpha", "alpha_bar", "noise_var", "signal_rate", "noise_rate", "snr", "gamma", "beta_tilde"):
        values = getattr(schedule, table)
        assert values.shape == (T + 1,)
        assert values.dtype == torch.float64
    assert schedule.beta[0] == 0
    assert schedule.alpha_bar[0] == 1
    assert schedule.noise_var[0] == 0
    assert schedule.snr[0] == float("inf")
    assert schedule.beta_tilde[1] == 0


@every_schedule
def test_tables_match_50_digits(name: str, T: int) -> None:
    """Relative to the value itself: ln ᾱ_t is a sum of t rounded terms, so t·ε bounds its relative error and exp
    turns that into an error of |ln ᾱ|·t·ε in ᾱ; 1 − ᾱ_t has no cancellation if the same bound holds at small t."""
    schedule = schedule_of(name, T)
    exact = exact_alpha_bar(schedule)
    for t in {1, 2, T // 2, T - 1, T} - {0}:
        if t > T:
            continue
        log = abs(mpmath.log(exact[t]))
        tolerance = 2 * EPS * (t + 2)
        assert abs(mpmath.mpf(float(schedule.alpha_bar[t])) / exact[t] - 1) <= tolerance * max(1, log)
        assert abs(mpmath.mpf(float(schedule.noise_var[t])) / (1 - exact[t]) - 1) <= tolerance
        assert abs(mpmath.mpf(float(schedule.signal_rate[t])) ** 2 / exact[t] - 1) <= 2 * tolerance * max(1, log)
        assert abs(mpmath.mpf(float(schedule.noise_rate[t])) ** 2 / (1 - exact[t]) - 1) <= 2 * tolerance
        snr = exact[t] / (1 - exact[t])
        assert abs(mpmath.mpf(float(schedule.snr[t])) / snr - 1) <= 2 * tolerance * max(1, log)
        assert abs(mpmath.mpf(float(schedule.gamma[t])) + mpmath.log(snr)) <= 2 * tolerance * max(1, log)
        tilde = mpmath.mpf(float(schedule.beta[t])) * (1 - exact[t - 1]) / (1 - exact[t])
        assert abs(mpmath.mpf(float(schedule.beta_tilde[t])) - tilde) <= 3 * tolerance * tilde


@given(st.floats(1e-16, 1e-6), st.integers(1, 20))
def test_noise_is_accurate_where_one_minus_alpha_bar_would_cancel(beta: float, T: int) -> None:
    schedule = Schedule(torch.full((T,), beta, dtype=torch.float64))
    exact = 1 - (1 - mpmath.mpf(beta)) ** T
    assert abs(mpmath.mpf(float(schedule.noise_var[T])) / exact - 1) <= 4 * T * EPS


@every_schedule
def test_alpha_bar_is_the_product_of_alpha(name: str, T: int) -> None:
    schedule = schedule_of(name, T)
    torch.testing.assert_close(schedule.alpha_bar, schedule.alpha.cumprod(0), rtol=8 * T * EPS, atol=0)


@every_schedule
def test_snr_decreases_and_gamma_is_its_logarithm(name: str, T: int) -> None:
    schedule = schedule_of(name, T)
    assert bool((schedule.snr.diff() < 0).all())
    assert bool((schedule.gamma.diff() > 0).all())
    torch.testing.assert_close(schedule.alpha_bar, torch.sigmoid(-schedule.gamma), rtol=16 * T * EPS, atol=0)
    assert bool((schedule.beta_tilde <= schedule.beta).all())


@pytest.mark.parametrize("T", [21, 22, 50, 1000, 4000])
def test_linear_ends(T: int) -> None:
    beta = linear(T).beta
    assert float(beta[1]) == pytest.approx(1e-4 * 1000 / T, rel=4 * EPS)
    assert float(beta[T]) == pytest.approx(0.02 * 1000 / T, rel=4 * EPS)
    steps = beta[1:].diff()
    torch.testing.assert_close(steps, steps.mean().expand(T - 1), rtol=1e-9, atol=0)


def test_linear_at_1000_is_ddpm() -> None:
    """The numbers of Ho et al. 2020, section 4. ᾱ_1000 ≈ 4e-5 leaves a prior term of 1e-5 bits/dim, as they report."""
    beta = np.array([1e-4 + (0.02 - 1e-4) * k / 999 for k in range(1000)])
    np.testing.assert_allclose(linear(1000).beta[1:].numpy(), beta, rtol=8 * EPS)
    np.testing.assert_allclose(float(linear(1000).alpha_bar[1000]), np.prod(1 - beta), rtol=1e-12)


@pytest.mark.parametrize("T", [1, 2, 19, 20])
def test_linear_refuses_20_steps_or_fewer(T: int) -> None:
    with pytest.raises(InputError, match="T > 20") as refused:
        linear(T)
    assert refused.value.where == "timesteps"


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("T", [0, -1, -1000])
def test_no_steps_are_refused(name: str, T: int) -> None:
    with pytest.raises(InputError) as refused:
        SCHEDULES[name](T)
    assert refused.value.where == "timesteps"


def cosine_curve(u: mpmath.mpf) -> mpmath.mpf:
    """f(t)/f(0) of Nichol & Dhariwal 2021 (17)."""
    s = mpmath.mpf("0.008")
    return (mpmath.cos((u + s) / (1 + s) * mpmath.pi / 2) / mpmath.cos(s / (1 + s) * mpmath.pi / 2)) ** 2


def sigmoid_curve(u: mpmath.mpf) -> mpmath.mpf:
    """Jabri et al. 2022, Algorithm 1, ``gamma_sigmoid_schedule`` with start −3, end 3, τ = 1."""

    def logistic(x: mpmath.mpf) -> mpmath.mpf:
        return 1 / (1 + mpmath.exp(-x))

    return (logistic(mpmath.mpf(3)) - logistic(6 * u - 3)) / (logistic(mpmath.mpf(3)) - logistic(mpmath.mpf(-3)))


@pytest.mark.parametrize(("make", "curve"), [(cosine, cosine_curve), (sigmoid, sigmoid_curve)])
@pytest.mark.parametrize("T", [1, 2, 3, 10, 50, 1000])
def test_curves_match_their_papers(make, curve, T: int) -> None:
    """β_t = min(1 − f(t)/f(t−1), 0.999). The ratio has an error of a few ε of curve(0), so β_t one of ε/f(t−1)."""
    beta = make(T).beta
    for t in range(1, T + 1):
        before = curve(mpmath.mpf(t - 1) / T)
        exact = min(1 - curve(mpmath.mpf(t) / T) / before, mpmath.mpf("0.999"))
        assert abs(mpmath.mpf(float(beta[t])) - exact) <= 16 * EPS / before
    assert float(beta[T]) == 0.999  # both curves end at 0, where β_T would be 1
    assert bool((beta <= 0.999).all())


@pytest.mark.parametrize("beta", [[], [0.0], [1.0], [0.1, -0.1], [0.1, 1.5, 0.1], [float("nan")]])
def test_a_schedule_needs_betas_between_0_and_1(beta: list[float]) -> None:
    with pytest.raises(InputError):
        Schedule(torch.tensor(beta))


def test_every_schedule_is_in_the_list() -> None:
    assert {name for name, _ in CASES} == set(SCHEDULES)
