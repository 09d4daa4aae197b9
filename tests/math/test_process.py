"""The forward process and its posterior: two ways to the same law, and Bayes' rule by linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import EPS, every_schedule, gaussians, schedule_of, schedules_at_30
from scipy import stats

from nelbo.diffusion import Process, along
from nelbo.diffusion.schedules import SCHEDULES, Schedule


def full(t: int, batch: int) -> torch.Tensor:
    return torch.full((batch,), t)


@every_schedule
def test_single_steps_and_one_jump_have_the_same_moments(name: str, T: int) -> None:
    """Mean and variance through t steps: each multiplies by √α_t and adds β_t. Exact but for t roundings."""
    process = Process(schedule_of(name, T))
    x_0 = gaussians(2, 3)
    mean, var = x_0, torch.zeros_like(x_0)
    for t in range(1, T + 1):
        zero = process.step(torch.zeros_like(x_0), full(t, 2))
        unit = process.step(torch.ones_like(x_0), full(t, 2))
        factor = unit.mean - zero.mean
        mean = process.step(mean, full(t, 2)).mean
        var = factor.square() * var + zero.var
        jump = process.jump(x_0, full(t, 2))
        torch.testing.assert_close(mean, jump.mean, rtol=0, atol=8 * (t + 1) * EPS)
        torch.testing.assert_close(var, jump.var.expand_as(var), rtol=8 * (t + 1) * EPS, atol=0)


@schedules_at_30
def test_single_steps_and_one_jump_have_the_same_law(name: str) -> None:
    """Kolmogorov–Smirnov: 4,000 chains of noisy steps against the jump's law, and against samples of the jump.

    A false alarm at p < 0.0027 is as rare as three standard errors; the seed is fixed.
    """
    process, T, n = Process(schedule_of(name, 30)), 30, 4000
    rng = np.random.default_rng(5)
    x_0 = torch.full((n, 1), 0.7, dtype=torch.float64)
    x = x_0
    for t in range(1, T + 1):
        x = process.step(x, full(t, n)).sample(torch.from_numpy(rng.standard_normal((n, 1))))
        if t in (1, 5, 15, 30):
            jump = process.jump(x_0, full(t, n))
            law = stats.norm(float(jump.mean[0]), float(jump.var[0]) ** 0.5)
            assert stats.kstest(x[:, 0].numpy(), law.cdf).pvalue > 0.0027
            direct = process.diffuse(x_0, full(t, n), torch.from_numpy(rng.standard_normal((n, 1))))
            assert stats.ks_2samp(x[:, 0].numpy(), direct[:, 0].numpy()).pvalue > 0.0027


@every_schedule
def test_diffuse_is_a_reparameterised_sample_of_jump(name: str, T: int) -> None:
    process = Process(schedule_of(name, T))
    x_0, eps = gaussians(T, 2, 3), gaussians(T, 2, 3, seed=1)
    t = torch.arange(1, T + 1)
    jump = process.jump(x_0, t)
    torch.testing.assert_close(process.diffuse(x_0, t, eps), jump.sample(eps), rtol=0, atol=8 * EPS)
    torch.testing.assert_close(process.diffuse(x_0, full(0, T), eps), x_0, rtol=0, atol=0)


chains = st.tuples(st.sampled_from(sorted(SCHEDULES)), st.integers(21, 60)).flatmap(
    lambda case: st.tuples(
        st.just(case), st.lists(st.integers(0, case[1]), min_size=2, max_size=2, unique=True).map(sorted)
    )
)


@given(chains, st.integers(0, 1000))
def test_posterior_is_bayes_rule(case: tuple[tuple[str, int], list[int]], seed: int) -> None:
    """The joint law of (x_s, x_t) given x_0, built from single steps, conditioned on x_t with numpy.

    Conditioning subtracts numbers of the size of var(x_s), so its own round-off is a few ε of that over var(x_t).
    """
    (name, T), (s, t) = case
    schedule = schedule_of(name, T)
    alpha, beta = schedule.alpha.numpy(), schedule.beta.numpy()
    rng = np.random.default_rng(seed)
    x_0, x_t = rng.standard_normal(2)
    factor, var_s = 1.0, 0.0
    for i in range(1, s + 1):
        factor, var_s = factor * np.sqrt(alpha[i]), alpha[i] * var_s + beta[i]
    mean_s = factor * x_0
    # x_t = c x_s + noise of variance v.
    c, v = 1.0, 0.0
    for i in range(s + 1, t + 1):
        c, v = c * np.sqrt(alpha[i]), alpha[i] * v + beta[i]
    joint = np.array([[var_s, c * var_s], [c * var_s, c * c * var_s + v]])
    gain = joint[0, 1] / joint[1, 1]
    mean = mean_s + gain * (x_t - c * mean_s)
    var = joint[0, 0] - gain * joint[1, 0]

    one = torch.ones(1, 1, dtype=torch.float64)
    posterior = Process(schedule).posterior(x_0 * one, x_t * one, full(t, 1), full(s, 1))
    tolerance = 200 * EPS * T
    assert float(posterior.mean) == pytest.approx(mean, abs=tolerance)
    assert float(posterior.var) == pytest.approx(var, abs=tolerance * max(var_s, EPS))


@every_schedule
def test_posterior_is_the_papers_formula(name: str, T: int) -> None:
    """DDPM (7) at s = t − 1, term by term, and s = t − 1 is what is meant when s is left out."""
    schedule = schedule_of(name, T)
    t = torch.arange(1, T + 1)
    x_0, x_t = gaussians(T, 3), gaussians(T, 3, seed=1)
    alpha_bar, beta = np.cumprod(schedule.alpha.numpy()), schedule.beta.numpy()
    before, now = alpha_bar[:-1, None], alpha_bar[1:, None]
    b = beta[1:, None]
    mean = (np.sqrt(before) * b * x_0.numpy() + np.sqrt(1 - b) * (1 - before) * x_t.numpy()) / (1 - now)
    posterior = Process(schedule).posterior(x_0, x_t, t)
    # The reference computes 1 − ᾱ with cancellation: its relative error is ε/(1 − ᾱ_t), the code's is smaller.
    rtol = 16 * T * EPS / float(1 - now[0, 0])
    np.testing.assert_allclose(posterior.mean.numpy(), mean, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(posterior.var.numpy(), (1 - before) / (1 - now) * b, rtol=rtol, atol=1e-300)
    torch.testing.assert_close(posterior.var[:, 0], schedule.beta_tilde[1:], rtol=8 * T * EPS, atol=0)
    explicit = Process(schedule).posterior(x_0, x_t, t, t - 1)
    assert bool((explicit.mean == posterior.mean).all())
    assert bool((explicit.var == posterior.var).all())


@every_schedule
def test_posterior_at_0_is_the_point_x_0(name: str, T: int) -> None:
    x_0, x_t = gaussians(T, 3), gaussians(T, 3, seed=1)
    posterior = Process(schedule_of(name, T)).posterior(x_0, x_t, torch.arange(1, T + 1), full(0, T))
    assert bool((posterior.var == 0).all())
    torch.testing.assert_close(posterior.mean, x_0, rtol=8 * EPS, atol=0)


@given(chains)
def test_a_jump_is_a_step_of_the_coarser_chain(case: tuple[tuple[str, int], list[int]]) -> None:
    (name, T), (s, t) = case
    schedule = schedule_of(name, T)
    alpha, beta = Process(schedule).coarse(full(t, 1), full(s, 1))
    product = np.prod(1 - schedule.beta.numpy()[s + 1 : t + 1])
    assert float(alpha) == pytest.approx(product, rel=16 * T * EPS)
    assert float(beta) == pytest.approx(1 - product, rel=16 * T * EPS, abs=16 * T * EPS)


def test_along_reads_each_examples_own_t_and_keeps_its_dtype() -> None:
    table = torch.arange(5, dtype=torch.float64) / 3
    for dtype in (torch.float32, torch.float64):
        like = torch.zeros(3, 2, 4, 5, dtype=dtype)
        read = along(table, torch.tensor([4, 0, 2]), like)
        assert read.shape == (3, 1, 1, 1)
        assert read.dtype == dtype
        assert read.flatten().tolist() == table[[4, 0, 2]].to(dtype).tolist()


def test_float32_is_computed_from_float64_coefficients() -> None:
    """1 − ᾱ_1 = 1e-9 is lost in float32 if computed there; read from the table it is as good as float32 allows."""
    process = Process(Schedule(torch.full((2,), 1e-9, dtype=torch.float64)))
    var = process.jump(torch.zeros(1, 1), full(1, 1)).var
    assert var.dtype == torch.float32
    assert float(var) == pytest.approx(1e-9, rel=1e-6)
