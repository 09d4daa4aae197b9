"""Noise schedules against their papers' formulas, evaluated with 50 digits."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import CASES, EPS, every_schedule, gammas_of, gaussians, table_of
from torch import Tensor

from nelbo.diffusion.named import from_words, in_words
from nelbo.diffusion.objectives import OBJECTIVES, MinSNR
from nelbo.diffusion.process import diffuse, noise_rate, noise_var, posterior_var, signal_rate
from nelbo.diffusion.schedules import (
    CROSSING,
    SCHEDULES,
    BetaTable,
    Between,
    Cosine,
    FixedSchedule,
    Karras,
    LinearBeta,
    LinearGamma,
    RectifiedFlow,
    Schedule,
    as_schedule,
    betas_of,
    chain_of,
    gamma_of_betas,
    gamma_range,
)
from nelbo.errors import InputError

mpmath.mp.dps = 50
mpf = mpmath.mpf
INSIDE = (0.03, 0.2, 0.5, 0.77, 0.98)


def logistic(x: mpf) -> mpf:
    return 1 / (1 + mpmath.exp(-x))


def of_alpha_bar(curve: Callable[[mpf], mpf]) -> Callable[[mpf], mpf]:
    return lambda t: mpmath.log((1 - curve(t)) / curve(t))


def cosine_curve(u: mpf) -> mpf:
    """f(t)/f(0) of Nichol & Dhariwal 2021 (17)."""
    s = mpf("0.008")
    return (mpmath.cos((u + s) / (1 + s) * mpmath.pi / 2) / mpmath.cos(s / (1 + s) * mpmath.pi / 2)) ** 2


def sigmoid_curve(u: mpf) -> mpf:
    """Jabri et al. 2022, Algorithm 1, ``gamma_sigmoid_schedule`` with start −3, end 3, τ = 1."""
    return (logistic(mpf(3)) - logistic(6 * u - 3)) / (logistic(mpf(3)) - logistic(mpf(-3)))


def karras_curve(u: mpf) -> mpf:
    """2 ln σ of Karras et al. 2022 (5), their i/(N − 1) being 1 − t."""
    low, high = mpf("0.002") ** (mpf(1) / 7), mpf(80) ** (mpf(1) / 7)
    return 2 * mpmath.log((high + (1 - u) * (low - high)) ** 7)


EXACT: dict[str, Callable[[mpf], mpf]] = {
    "linear": of_alpha_bar(lambda t: mpmath.exp(-(mpf("0.1") * t + (20 - mpf("0.1")) * t**2 / 2))),
    "cosine": of_alpha_bar(cosine_curve),
    "sigmoid": of_alpha_bar(sigmoid_curve),
    "linear_gamma": lambda t: mpf("-13.3") + (8 + mpf("13.3")) * t,
    "karras": karras_curve,
    "rectified_flow": lambda t: 2 * mpmath.log(t / (1 - t)),
}
"""γ(t) by the papers' formulas, of every schedule with nothing to learn."""


def test_every_schedule_has_its_formula() -> None:
    assert {*EXACT, "learned"} == set(SCHEDULES) == {name for name, _ in CASES}


@pytest.mark.parametrize("name", list(EXACT))
def test_a_curve_and_its_slope_are_its_papers(name: str) -> None:
    gamma, slope = SCHEDULES[name]()(torch.tensor(INSIDE, dtype=torch.float64))
    for k, t in enumerate(INSIDE):
        assert float(gamma[k]) == pytest.approx(float(EXACT[name](mpf(t))), rel=1e-13, abs=1e-13)
        assert float(slope[k]) == pytest.approx(float(mpmath.diff(EXACT[name], mpf(t))), rel=1e-11)


def test_a_learned_curve_has_the_slope_of_its_differences() -> None:
    schedule, h = SCHEDULES["learned"](), 1e-5
    t = torch.tensor(INSIDE, dtype=torch.float64)
    with torch.no_grad():
        numeric = (schedule(t + h)[0] - schedule(t - h)[0]) / (2 * h)
        torch.testing.assert_close(schedule(t)[1], numeric, rtol=1e-6, atol=1e-6)


@every_schedule
def test_a_chain_rises_from_the_image_to_noise(name: str, T: int) -> None:
    gammas = gammas_of(name, T)
    assert gammas.dtype == torch.float64
    assert len(gammas) == T + 1 + (name in ("linear_gamma", "learned", "karras"))  # whose z_0 is a latent too
    assert gammas[0] == -torch.inf
    assert bool((gammas.diff() > 0).all())
    assert bool(gammas[1:].isfinite().all())


@every_schedule
def test_coefficients_of_a_chain_match_50_digits(name: str, T: int) -> None:
    """ᾱ, 1 − ᾱ, their roots, β and β̃ at γ_t, each relative to itself; β has the error of a difference of γ."""
    gammas = gammas_of(name, T)
    n = len(gammas) - 1
    betas = betas_of(gammas[1:])
    for t in {1, 2, n // 2, n - 1, n} & set(range(1, n + 1)):
        gamma, before = mpf(float(gammas[t])), mpf(float(gammas[t - 1]))
        here, earlier = logistic(-gamma), mpf(1) if t == 1 else logistic(-before)
        unit = 8 * EPS * max(1, abs(gamma))
        assert abs(mpf(float(signal_rate(gammas[t]))) ** 2 / here - 1) <= unit
        assert abs(mpf(float(noise_rate(gammas[t]))) ** 2 / (1 - here) - 1) <= unit
        assert abs(mpf(float(noise_var(gammas[t]))) / (1 - here) - 1) <= unit
        beta = 1 - here / earlier
        step = 1 if t == 1 else min(1, gamma - before)
        assert abs(mpf(float(betas[t - 1])) / beta - 1) <= unit / min(step, beta / max(beta, 1 - here))
        tilde = beta * (1 - earlier) / (1 - here)
        assert abs(mpf(float(posterior_var(gammas[t - 1], gammas[t]))) - tilde) <= unit / step * tilde


@given(st.floats(1e-16, 1e-6), st.integers(1, 20))
def test_noise_is_accurate_where_one_minus_alpha_bar_would_cancel(beta: float, T: int) -> None:
    gammas = gamma_of_betas(torch.full((T,), beta, dtype=torch.float64))
    exact = 1 - (1 - mpf(beta)) ** T
    assert abs(mpf(float(noise_var(gammas[-1]))) / exact - 1) <= (4 * T + 80) * EPS  # |γ| of up to 37 is rounded


@pytest.mark.parametrize("T", [21, 22, 50, 1000, 4000])
def test_linear_is_ddpms_table(T: int) -> None:
    """β_t from 1e-4 to 0.02, times 1000/T, evenly spaced (Ho et al. 2020, section 4)."""
    beta = np.array([1e-4 + (0.02 - 1e-4) * k / (T - 1) for k in range(T)]) * 1000 / T
    gammas = LinearBeta().grid(T)
    np.testing.assert_allclose(betas_of(gammas).numpy(), beta, rtol=1e-9)
    np.testing.assert_allclose(float(torch.sigmoid(-gammas[-1])), np.prod(1 - beta), rtol=1e-12)
    if T == 1000:  # which leaves a prior term of 1e-5 bits/dim, as they report
        assert float(torch.sigmoid(-gammas[-1])) == pytest.approx(4.0358e-5, rel=1e-5)


def test_the_table_nears_the_curve() -> None:
    """Σ ln(1 − β_i) = −∫ β dt − ½ Σ β_i² − …: the difference falls as 1/T."""
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    off = [(LinearBeta().grid(T)[T // 10 - 1 :: T // 10] - LinearBeta()(t)[0]).abs().max() for T in (1000, 2000, 4000)]
    for less, more in ((off[1], off[0]), (off[2], off[1])):
        assert float(less / more) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("T", [1, 2, 19, 20])
def test_linear_refuses_20_steps_or_fewer(T: int) -> None:
    with pytest.raises(InputError, match="T > 20") as refused:
        LinearBeta().grid(T)
    assert refused.value.where == "timesteps"


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("T", [0, -1, -1000])
def test_no_steps_are_refused(name: str, T: int) -> None:
    with pytest.raises(InputError) as refused:
        SCHEDULES[name]().grid(T)
    assert refused.value.where == "timesteps"


@pytest.mark.parametrize(("name", "curve"), [("cosine", cosine_curve), ("sigmoid", sigmoid_curve)])
@pytest.mark.parametrize("T", [1, 2, 3, 10, 50, 1000])
def test_grids_match_their_papers_tables(name: str, curve: Callable[[mpf], mpf], T: int) -> None:
    """β_t = min(1 − f(t)/f(t−1), 0.999). The ratio has an error of a few ε of curve(0), so β_t one of ε/f(t−1)."""
    beta = betas_of(gammas_of(name, T)[1:])
    for t in range(1, T + 1):
        before = curve(mpf(t - 1) / T)
        exact = min(1 - curve(mpf(t) / T) / before, mpf("0.999"))
        assert abs(mpf(float(beta[t - 1])) - exact) <= 32 * EPS / before
    assert float(beta[-1]) == pytest.approx(0.999, abs=1e-13)  # both curves end at 0, where β_T would be 1
    assert bool((beta <= 0.999 + 1e-13).all())


@pytest.mark.parametrize("beta", [[], [0.0], [1.0], [0.1, -0.1], [0.1, 1.5, 0.1], [float("nan")]])
def test_a_table_needs_betas_between_0_and_1(beta: list[float]) -> None:
    with pytest.raises(InputError):
        BetaTable(beta)


def test_a_table_of_betas_is_its_grid_and_rises_between() -> None:
    beta = torch.tensor([0.01, 0.1, 0.3, 0.7], dtype=torch.float64)
    table = BetaTable(beta)
    torch.testing.assert_close(betas_of(table.grid(4)), beta, rtol=1e-14, atol=0)
    gamma, slope = table(torch.tensor([0.25, 0.5, 0.625, 0.75, 1.0], dtype=torch.float64))
    torch.testing.assert_close(gamma[[0, 1, 3, 4]], table.grid(4), rtol=0, atol=1e-14)
    torch.testing.assert_close(gamma[2], 0.5 * (table.grid(4)[1] + table.grid(4)[2]), rtol=0, atol=1e-14)
    torch.testing.assert_close(slope[2], 4 * (table.grid(4)[2] - table.grid(4)[1]), rtol=0, atol=1e-13)
    with pytest.raises(InputError, match="holds 4 numbers, but timesteps is 5"):
        table.grid(5)


@pytest.mark.parametrize("t", [0.01, 0.3, 0.5, 0.9])
def test_rectified_flow_is_its_straight_path_rescaled(t: float) -> None:
    """x_t = (1 − t) x + t ε, divided by √((1 − t)² + t²), is z at γ(t), for the same x and ε."""
    x, eps = gaussians(5, 3), gaussians(5, 3, seed=1)
    gamma = RectifiedFlow()(torch.full((5,), t, dtype=torch.float64))[0]
    path = ((1 - t) * x + t * eps) / np.hypot(1 - t, t)
    torch.testing.assert_close(diffuse(x, gamma, eps), path, rtol=0, atol=1e-14)


def test_karras_adds_noise_of_sigma() -> None:
    """z √(1 + σ²) = x + σ ε with σ from 0.002 to 80, and σ^{1/7} even in t."""
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    gamma, x, eps = Karras()(t)[0], gaussians(5, 3), gaussians(5, 3, seed=1)
    sigma = (gamma / 2).exp()
    assert sigma[[0, -1]].tolist() == pytest.approx([0.002, 80.0], rel=1e-13)
    torch.testing.assert_close(
        (sigma ** (1 / 7)).diff(), (sigma ** (1 / 7)).diff().mean().expand(4), rtol=1e-12, atol=0
    )
    scaled = diffuse(x, gamma, eps) * (1 + sigma**2).sqrt()[:, None]
    torch.testing.assert_close(scaled, x + sigma[:, None] * eps, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in EXACT if name != "linear_gamma"])
def test_a_part_of_a_schedule_has_its_ends_and_its_curve(name: str) -> None:
    whole = SCHEDULES[name]()
    assert isinstance(whole, FixedSchedule)
    part = Between(whole, -6.0, 3.0)
    gamma, slope = part(torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64))
    assert gamma[[0, 2]].tolist() == pytest.approx([-6.0, 3.0], abs=1e-9)
    place = part.start + 0.4 * (part.end - part.start)
    there = whole(torch.tensor([place], dtype=torch.float64))
    torch.testing.assert_close(gamma[1:2], there[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(slope[1:2], there[1] * (part.end - part.start), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("levels", "first"), [(256, -13.3), (17, -7.762), (2, -2.217)])
def test_the_least_noise_reaches_half_way_to_the_next_level_in_three_deviations(levels: int, first: float) -> None:
    low, high = gamma_range(levels)
    assert low == pytest.approx(first, abs=1e-3)
    assert high == 8.0
    sigma = np.exp(low / 2)  # of x̂ = z/√ᾱ
    assert CROSSING * sigma == pytest.approx(1 / (levels - 1))


def test_a_function_of_ones_own_is_a_schedule() -> None:
    schedule = as_schedule(lambda t: -7.0 + 3.0 * t + 11.0 * t**3)
    assert isinstance(schedule, Schedule)
    gamma, slope = schedule(torch.tensor([0.5], dtype=torch.float64))
    assert (float(gamma), float(slope)) == pytest.approx((-7 + 1.5 + 11 / 8, 3 + 33 / 4))
    assert len(schedule.grid(10)) == 11
    for wrong in (lambda t: -t, lambda t: (t - 0.5) ** 2, lambda t: 0 * t):
        with pytest.raises(InputError, match="must increase"):
            as_schedule(wrong)


def test_words_for_schedules_and_objectives_are_read_back() -> None:
    for name, kind in SCHEDULES.items():
        assert in_words(kind(), SCHEDULES) == name
        assert isinstance(from_words(name, SCHEDULES, "schedule"), type(kind()))
    assert in_words(Cosine(0.02), SCHEDULES) == "cosine(s=0.02)"
    assert from_words("cosine(s=0.02)", SCHEDULES, "schedule").s == 0.02
    assert in_words(LinearGamma(-9.0, 8.0), SCHEDULES) == "linear_gamma(first=-9.0)"
    assert in_words(MinSNR(3.0), OBJECTIVES) == "min_snr(k=3.0)"
    assert in_words(lambda t: t, SCHEDULES) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cosin", "did you mean 'cosine'"),
        ("cosine(", "write cosine"),
        ("cosine(0.1)", "write cosine"),
        ("cosine(w=1)", "write cosine"),
        ("cosine(s=__import__('os'))", "write cosine"),
        ("rectified_flow(s=1)", "it takes no numbers"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        as_schedule(words)
    assert refused.value.where == "schedule"


def test_a_chain_begins_at_the_image() -> None:
    grid: Tensor = torch.tensor([-5.0, 1.0], dtype=torch.float64)
    assert chain_of(grid).tolist() == [-torch.inf, -5.0, 1.0]
    table = table_of("cosine", 5)
    assert (float(table.alpha_bar[0]), float(table.noise_var[0]), float(table.beta_tilde[1])) == (1.0, 0.0, 0.0)
