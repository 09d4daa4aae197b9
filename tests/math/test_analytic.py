"""The exact results of theory.exact, against numpy's conditioning, torch, quadrature and sampling."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gammas_of, gaussians, random_cov, schedules_at_30, table_of
from torch.distributions import MultivariateNormal, Normal

from nelbo.diffusion.denoiser import Denoised, denoiser_of
from nelbo.diffusion.process import diffuse, prior_term
from nelbo.diffusion.variances import VARIANCES
from nelbo.theory.exact import Coefficients, GaussianData

D = 4
every_variance = pytest.mark.parametrize("variance", ["beta", "beta_tilde"])


def variances(table: Coefficients, name: str) -> torch.Tensor:
    """σ² of every step in DDPM's own tables."""
    return {"beta": table.beta, "beta_tilde": table.beta_tilde}[name]


@pytest.fixture
def data() -> GaussianData:
    return GaussianData(gaussians(D, seed=9), random_cov(D))


@schedules_at_30
def test_denoiser_is_the_conditional_expectation(data: GaussianData, name: str) -> None:
    """E[x_0 | x_t] from the joint covariance of (x_0, x_t), by numpy: m + C_0t C_tt⁻¹ (x_t − E x_t)."""
    gammas, alpha, denoise = gammas_of(name, 30), table_of(name, 30).alpha.numpy(), denoiser_of(data.denoise)
    cov, mean = data.cov.numpy(), data.mean.numpy()
    x_t = 2 * gaussians(5, D)
    for t in range(1, len(gammas)):
        alpha_bar = np.prod(alpha[: t + 1])
        cross, whole = np.sqrt(alpha_bar) * cov, alpha_bar * cov + (1 - alpha_bar) * np.eye(D)
        expected = mean + (x_t.numpy() - np.sqrt(alpha_bar) * mean) @ np.linalg.solve(whole, cross)
        denoised = denoise(x_t, gammas[t].expand(5))
        np.testing.assert_allclose(denoised.x_0.numpy(), expected, atol=1e-11)
        again = diffuse(denoised.x_0, gammas[t].expand(5), denoised.eps)
        torch.testing.assert_close(again, x_t, rtol=0, atol=1e-13)


def test_log_prob_is_torchs(data: GaussianData) -> None:
    x_0 = 2 * gaussians(20, D)
    torch.testing.assert_close(
        data.log_prob(x_0), MultivariateNormal(data.mean, data.cov).log_prob(x_0), rtol=1e-12, atol=1e-12
    )


def test_samples_have_the_law(data: GaussianData) -> None:
    """Means and second moments within 4 s.e. each (14 comparisons), and x = m + A ε with A Aᵀ = Σ exactly."""
    x_0 = data.sample(gaussians(20_000, D))
    assert_mean(x_0, data.mean, 4)
    centred = x_0 - data.mean
    assert_mean((centred[:, :, None] * centred[:, None, :]).flatten(1), data.cov.flatten(), 4)
    factor = data.sample(torch.eye(D)) - data.mean
    torch.testing.assert_close(factor.T @ factor, data.cov, rtol=0, atol=1e-14)


@schedules_at_30
def test_squared_error_is_the_denoisers(data: GaussianData, name: str) -> None:
    """Against Monte Carlo with the denoiser itself, for a given image, at several t."""
    gammas, n, x_0 = gammas_of(name, 30), 20_000, 1.5 * gaussians(D, seed=3)
    for t in (1, 2, 15, 30):
        at_t = gammas[t].expand(n)
        x_0_hat = data.denoise(diffuse(x_0.expand(n, D), at_t, gaussians(n, D, seed=t)), at_t)
        exact = data.squared_error(gammas[t : t + 1], data.coordinates(x_0[None]).square())
        assert_mean((x_0_hat - x_0).square().sum(1), float(exact))


@schedules_at_30
def test_squared_error_matches_quadrature(name: str) -> None:
    """In one dimension: Gauss–Hermite is exact for the quadratic (x_0 − x̂_0)² of ε."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    weights = torch.from_numpy(weights / weights.sum())
    data = GaussianData(torch.tensor([0.3]), torch.tensor([[0.6]]))
    x_0 = torch.full((8, 1), -1.1, dtype=torch.float64)
    for gamma in gammas_of(name, 30)[1:]:
        at_t = gamma.expand(8)
        x_0_hat = data.denoise(diffuse(x_0, at_t, torch.from_numpy(nodes)[:, None]), at_t)
        exact = data.squared_error(gamma[None], data.coordinates(x_0[:1]).square())
        assert float((weights * (x_0_hat - x_0)[:, 0].square()).sum()) == pytest.approx(float(exact), rel=1e-11)


@schedules_at_30
def test_squared_error_averages_over_the_data_to_the_posterior_variance(data: GaussianData, name: str) -> None:
    """E‖x_0 − E[x_0|x_t]‖² = tr(Σ − C_0t C_tt⁻¹ C_t0), by numpy, when y² is its mean λ."""
    gammas, alpha, cov = gammas_of(name, 30), table_of(name, 30).alpha.numpy(), data.cov.numpy()
    for t in (1, 10, 30):
        alpha_bar = np.prod(alpha[: t + 1])
        whole = alpha_bar * cov + (1 - alpha_bar) * np.eye(D)
        expected = np.trace(cov - alpha_bar * cov @ np.linalg.solve(whole, cov))
        assert float(data.squared_error(gammas[t : t + 1], data.eigenvalues[None])) == pytest.approx(
            expected, rel=1e-10
        )


@schedules_at_30
@every_variance
def test_every_term_of_the_bound_matches_monte_carlo(data: GaussianData, name: str, variance: str) -> None:
    """The term of every step and the Gaussian decoder, with the oracle's own denoiser, for two images."""
    n, gammas, table, denoise = 3000, gammas_of(name, 30), table_of(name, 30), denoiser_of(data.denoise)
    images = data.sample(gaussians(2, D, seed=4))
    exact = data.bound(gammas, variances(table, variance), images)
    assert set(exact) == {"reconstruction", "diffusion", "prior"}
    for i, x_0 in enumerate(images):
        copies = x_0.expand(n, D)
        diffusion = torch.zeros(n, dtype=torch.float64)
        for t in range(2, len(gammas)):
            eps, gamma_s, gamma_t = gaussians(n, D, seed=100 * i + t), gammas[t - 1].expand(n), gammas[t].expand(n)
            denoised = denoise(diffuse(copies, gamma_t, eps), gamma_t)
            diffusion += VARIANCES[variance].diffusion_term(denoised, eps, gamma_s, gamma_t)
        assert_mean(diffusion, exact["diffusion"][i])
        first = gammas[1].expand(n)
        mean = data.denoise(diffuse(copies, first, gaussians(n, D, seed=100 * i + 1)), first)
        nll = -Normal(mean, table.beta[1].sqrt()).log_prob(copies).sum(1)
        assert_mean(nll, exact["reconstruction"][i])
    torch.testing.assert_close(exact["prior"], prior_term(images, gammas[-1]))


def mean_gap(data: GaussianData, name: str, T: int, variance: str) -> float:
    """E[bound + ln p] over the data. Both are quadratic in x_0, so the 2D points m ± √(Dλ_i) e_i give it exactly."""
    offsets = (D * data.eigenvalues).sqrt() * data.basis
    points = torch.cat([data.mean + offsets.T, data.mean - offsets.T])
    bound = sum(data.bound(gammas_of(name, T), variances(table_of(name, T), variance), points).values())
    return float((bound + data.log_prob(points)).mean())


@schedules_at_30
@every_variance
def test_the_bound_is_a_bound_that_tightens_as_steps_double(data: GaussianData, name: str, variance: str) -> None:
    gaps = [mean_gap(data, name, T, variance) for T in (30, 60, 120, 240, 480)]
    assert gaps[-1] > 0
    assert all(after < before for before, after in pairwise(gaps))


def test_sigma_points_average_quadratics_exactly(data: GaussianData) -> None:
    """The device of the test above: E[ln p] over them is minus the entropy."""
    offsets = (D * data.eigenvalues).sqrt() * data.basis
    points = torch.cat([data.mean + offsets.T, data.mean - offsets.T])
    assert float(-data.log_prob(points).mean()) == pytest.approx(
        float(MultivariateNormal(data.mean, data.cov).entropy()), rel=1e-12
    )


@pytest.mark.parametrize("x", [0.7, -2.0, 0.0])
def test_the_bound_is_tight_for_standard_normal_data(x: float) -> None:
    """For N(0, 1) data and σ² = β the reverse chain is q itself, decoder included, and p(x_T) = q(x_T): no gap at all.

    At x_0 = 0.7 that is ½ ln 2π + 0.245 = 1.16394 nats. Sums of 1000 terms of size up to 1/β_1: 1e-9.
    """
    data = GaussianData(torch.zeros(1), torch.eye(1))
    x_0 = torch.tensor([[x]], dtype=torch.float64)
    bound = float(sum(data.bound(gammas_of("linear", 1000), table_of("linear", 1000).beta, x_0).values()))
    assert bound == pytest.approx(0.5 * math.log(2 * math.pi) + 0.5 * x * x, abs=1e-9)
    assert bound == pytest.approx(float(-data.log_prob(x_0)), abs=1e-9)


@schedules_at_30
@every_variance
def test_a_worse_denoiser_has_a_worse_bound(data: GaussianData, name: str, variance: str) -> None:
    """The oracle minimises every term on average over data: a shift of ε̂ by δ adds weight·D·δ², exactly."""
    n, delta, gammas, table = 4000, 0.1, gammas_of(name, 30), table_of(name, 30)
    reverse_var, denoise = variances(table, variance), denoiser_of(data.denoise)
    x_0, eps = data.sample(gaussians(n, D)), gaussians(n, D, seed=1)
    t = 2 + torch.arange(n) % (len(gammas) - 2)
    said = denoise(diffuse(x_0, gammas[t], eps), gammas[t])
    exact, shifted = (
        VARIANCES[variance].diffusion_term(Denoised(said.x_0, said.eps + d), eps, gammas[t - 1], gammas[t])
        for d in (0.0, delta)
    )
    weight = table.beta[t] ** 2 / (2 * reverse_var[t] * table.alpha[t] * table.noise_var[t])
    assert_mean((shifted - exact) / weight, D * delta**2)
