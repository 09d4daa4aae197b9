"""The forward process and its posterior: two derivations, and Bayes' rule by linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import EPS, every_schedule, gammas_of, gaussians, schedules_at_30, table_of
from scipy import stats
from torch import Tensor

from nelbo.diffusion.process import (
    CLEAN,
    diffuse,
    marginal,
    per_image,
    posterior,
    posterior_var,
    step_signal,
    step_var,
    transition,
)
from nelbo.diffusion.schedules import SCHEDULES


def full(gamma: Tensor | float, batch: int) -> Tensor:
    return torch.full((batch,), float(gamma), dtype=torch.float64)


@every_schedule
def test_single_steps_and_one_jump_have_the_same_moments(name: str, T: int) -> None:
    """Mean and variance through t steps: each multiplies by √α_t and adds β_t. Exact but for t roundings of ln ᾱ."""
    gammas = gammas_of(name, T)
    x_0 = gaussians(2, 3)
    mean, var = x_0, torch.zeros_like(x_0)
    log = 1 + float(torch.log1p(gammas[-1].exp()))
    for t in range(1, len(gammas)):
        ends = full(gammas[t - 1], 2), full(gammas[t], 2)
        zero, unit = (transition(start, *ends) for start in (torch.zeros_like(x_0), torch.ones_like(x_0)))
        factor = unit.mean - zero.mean
        mean = transition(mean, *ends).mean
        var = factor.square() * var + zero.var
        jump = marginal(x_0, full(gammas[t], 2))
        torch.testing.assert_close(mean, jump.mean, rtol=0, atol=8 * (t + 1) * EPS * log)
        torch.testing.assert_close(var, jump.var.expand_as(var), rtol=8 * (t + 1) * EPS * log, atol=0)


@schedules_at_30
def test_single_steps_and_one_jump_have_the_same_law(name: str) -> None:
    """Kolmogorov–Smirnov: 4,000 chains of noisy steps against the jump's law, and against samples of the jump.

    A false alarm at p < 0.0027 is as rare as three standard errors; the seed is fixed.
    """
    gammas, n = gammas_of(name, 30), 4000
    rng = np.random.default_rng(5)
    x_0 = torch.full((n, 1), 0.7, dtype=torch.float64)
    x = x_0
    for t in range(1, len(gammas)):
        noise = torch.from_numpy(rng.standard_normal((n, 1)))
        x = transition(x, full(gammas[t - 1], n), full(gammas[t], n)).sample(noise)
        if t in (1, 5, 15, 30):
            jump = marginal(x_0, full(gammas[t], n))
            law = stats.norm(float(jump.mean[0]), float(jump.var[0]) ** 0.5)
            assert stats.kstest(x[:, 0].numpy(), law.cdf).pvalue > 0.0027
            direct = diffuse(x_0, full(gammas[t], n), torch.from_numpy(rng.standard_normal((n, 1))))
            assert stats.ks_2samp(x[:, 0].numpy(), direct[:, 0].numpy()).pvalue > 0.0027


@every_schedule
def test_diffuse_is_a_reparameterised_sample_of_the_marginal(name: str, T: int) -> None:
    gamma = gammas_of(name, T)[1:]
    x_0, eps = gaussians(len(gamma), 2, 3), gaussians(len(gamma), 2, 3, seed=1)
    torch.testing.assert_close(diffuse(x_0, gamma, eps), marginal(x_0, gamma).sample(eps), rtol=0, atol=8 * EPS)
    torch.testing.assert_close(diffuse(x_0, full(CLEAN, len(gamma)), eps), x_0, rtol=0, atol=0)


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
    gammas, table = gammas_of(name, T), table_of(name, T)
    alpha, beta = table.alpha.numpy(), table.beta.numpy()
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
    found = posterior(x_0 * one, x_t * one, full(gammas[s], 1), full(gammas[t], 1))
    tolerance = 200 * EPS * T
    assert float(found.mean) == pytest.approx(mean, abs=tolerance)
    assert float(found.var) == pytest.approx(var, abs=tolerance * max(var_s, EPS))


@every_schedule
def test_posterior_is_the_papers_formula(name: str, T: int) -> None:
    """DDPM (7) at s = t − 1, term by term, from the table of β_t."""
    gammas, table = gammas_of(name, T), table_of(name, T)
    n = len(gammas) - 1
    x_0, x_t = gaussians(n, 3), gaussians(n, 3, seed=1)
    alpha_bar, beta = np.cumprod(table.alpha.numpy()), table.beta.numpy()
    before, now = alpha_bar[:-1, None], alpha_bar[1:, None]
    b = beta[1:, None]
    mean = (np.sqrt(before) * b * x_0.numpy() + np.sqrt(1 - b) * (1 - before) * x_t.numpy()) / (1 - now)
    found = posterior(x_0, x_t, gammas[:-1], gammas[1:])
    # The reference computes 1 − ᾱ, and α where β_t is capped, with cancellation; the code's error is smaller.
    rtol = 16 * T * EPS / min(float(1 - now[0, 0]), float(1 - b.max()))
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(found.var.numpy(), (1 - before) / (1 - now) * b, rtol=rtol, atol=1e-300)
    torch.testing.assert_close(found.var[:, 0], table.beta_tilde[1:], rtol=8 * T * EPS, atol=0)


@every_schedule
def test_posterior_at_the_image_is_the_point_x_0(name: str, T: int) -> None:
    gamma = gammas_of(name, T)[1:]
    x_0, x_t = gaussians(len(gamma), 3), gaussians(len(gamma), 3, seed=1)
    found = posterior(x_0, x_t, full(CLEAN, len(gamma)), gamma)
    assert bool((found.var == 0).all())
    torch.testing.assert_close(found.mean, x_0, rtol=8 * EPS, atol=0)


@given(chains)
def test_a_jump_is_a_step_of_the_coarser_chain(case: tuple[tuple[str, int], list[int]]) -> None:
    (name, T), (s, t) = case
    gammas, table = gammas_of(name, T), table_of(name, T)
    product = np.prod(1 - table.beta.numpy()[s + 1 : t + 1])
    rel = 16 * T * EPS / float(1 - table.beta.max())  # of the product, whose factors are differences
    assert float(step_signal(gammas[s], gammas[t]) ** 2) == pytest.approx(product, rel=rel)
    assert float(step_var(gammas[s], gammas[t])) == pytest.approx(1 - product, rel=16 * T * EPS, abs=16 * T * EPS)
    noise = table.noise_var
    share = float(step_var(gammas[s], gammas[t]) * noise[s] / noise[t])
    assert float(posterior_var(gammas[s], gammas[t])) == pytest.approx(share, rel=16 * EPS)


def test_a_number_per_image_is_in_the_images_dtype() -> None:
    values = torch.tensor([4.0, 0.0, 2.0], dtype=torch.float64) / 3
    for dtype in (torch.float32, torch.float64):
        read = per_image(values, torch.zeros(3, 2, 4, 5, dtype=dtype))
        assert read.shape == (3, 1, 1, 1)
        assert read.dtype == dtype
        assert read.flatten().tolist() == values.to(dtype).tolist()


def test_float32_is_computed_from_float64_coefficients() -> None:
    """1 − ᾱ = 1e-9 is lost in float32 if computed there; from γ in float64 it is as good as float32 allows."""
    var = marginal(torch.zeros(1, 1), torch.tensor([np.log(1e-9)], dtype=torch.float64)).var
    assert var.dtype == torch.float32
    assert float(var) == pytest.approx(1e-9, rel=1e-6)
