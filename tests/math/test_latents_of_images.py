"""Variations, latents and points between latents, against the exact laws and the exact flow of Gaussian data."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gammas_of, gaussians, random_cov
from scipy.stats import kstest
from torch import Tensor

from nelbo.diffusion.denoiser import denoiser_of
from nelbo.diffusion.process import CLEAN
from nelbo.diffusion.samplers import DDIM
from nelbo.diffusion.spacing import descending
from nelbo.editing.latents import USUAL, from_latent, slerp, to_latent
from nelbo.editing.variation import lower_part, vary
from nelbo.theory.exact import GaussianData

D = 4
ONE = torch.eye(D, dtype=torch.float64)
MEAN, COV = torch.tensor([0.4, -0.7, 0.6, 0.1], dtype=torch.float64), random_cov(D, seed=1)
DATA = GaussianData(MEAN, COV)
EXACT = denoiser_of(DATA.denoise)


def grid_of(steps: int, low: float = -14.0, high: float = 9.0) -> Tensor:
    """γ from ``high`` to ``low`` in even steps, and the image."""
    return torch.cat([torch.linspace(high, low, steps, dtype=torch.float64), torch.tensor([CLEAN])])


def exact_flow(z: Tensor, gamma: float, end: float) -> Tensor:
    """The flow of Gaussian data: (z − √ᾱ m)/√(ᾱ λ + 1 − ᾱ) is constant in each eigendirection."""
    signals = [float(torch.sigmoid(-torch.tensor(at, dtype=torch.float64))) for at in (gamma, end)]
    scales = [(a * DATA.eigenvalues + 1 - a).sqrt() for a in signals]
    y = (z - signals[0] ** 0.5 * MEAN) @ DATA.basis
    return signals[1] ** 0.5 * MEAN + (y * scales[1] / scales[0]) @ DATA.basis.T


# Variations


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_a_variation_has_the_law_of_x_0_given_z_averaged_over_z(strength: float) -> None:
    """Given z, x_0 ~ N(E[x_0|z], C), 1/C = 1/Σ + SNR; z ~ q(z|x) adds the covariance of E[x_0|z]. 4,000 images in up
    to 200 steps: 4 standard errors, and 0.02 for the steps."""
    n, grid = 4000, lower_part(descending(gammas_of("cosine", 1000), 200), strength)
    x = DATA.sample(gaussians(1, D, seed=3)).expand(n, D)
    *_, last = vary(DDIM(1.0), lambda z, gamma: EXACT, x, grid, lambda k: gaussians(n, D, seed=100 + k), False)
    signal = torch.sigmoid(-grid[0])
    given = torch.linalg.inv(torch.linalg.inv(COV) + signal / (1 - signal) * ONE)
    gain = signal.sqrt() * COV @ torch.linalg.inv(signal * COV + (1 - signal) * ONE)
    mean = MEAN + signal.sqrt() * gain @ (x[0] - MEAN)
    cov = given + (1 - signal) * gain @ gain.T
    assert_mean(last.z, mean, 4, 0.02)
    away = last.z - mean
    assert_mean((away[:, :, None] * away[:, None]).flatten(1), cov.flatten(), 4, 0.02)


def test_the_law_given_one_z_converges_to_the_exact_one_with_order_one() -> None:
    """Without Monte Carlo: every step is affine. Twice the steps halve the error, within 20%."""
    z, errors = gaussians(1, D, seed=5)[0], []
    for steps in (200, 400, 800):
        grid = lower_part(descending(gammas_of("cosine", 800), steps), 0.5)
        mean, cov = z, 0 * ONE
        for now, then in pairwise(grid):
            t, s = now.expand(D + 1), then.expand(D + 1)
            points = torch.cat([0 * ONE[:1], ONE])
            law = DDIM(1.0).step(points, EXACT(points, t), t, s)
            slope = (law.mean[1:] - law.mean[0]).T
            mean, cov = slope @ mean + law.mean[0], slope @ cov @ slope.T + float(law.var.flatten()[0]) * ONE
        snr = (-grid[0]).exp()
        exact = torch.linalg.inv(torch.linalg.inv(COV) + snr * ONE)
        middle = exact @ (torch.linalg.inv(COV) @ MEAN + snr / torch.sigmoid(-grid[0]).sqrt() * z)
        errors.append(float((mean - middle).norm() + (cov - exact).norm()))
    assert errors[-1] < 0.02
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize(("strength", "left"), [(1.0, 10), (0.5, 5), (0.04, 1), (0.26, 3)])
def test_strength_is_the_share_of_the_steps_and_at_least_one(strength: float, left: int) -> None:
    grid = grid_of(10)
    assert torch.equal(lower_part(grid, strength), grid[10 - left :])


# Latents


def test_the_latent_is_the_exact_flows_with_order_two() -> None:
    """From images that the last step gives exactly, so that only Heun's error is left: a slope of 2 within 0.15."""
    z_1 = gaussians(8, D, seed=1)
    x = DATA.denoise(z_1, torch.full((8,), -14.0).double())
    expected = exact_flow(z_1, -14.0, 9.0)
    counts = (40, 80, 160)
    errors = [float((to_latent(EXACT, x, grid_of(steps)) - expected).abs().max()) for steps in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.15)
    assert errors[-1] < 0.01


def test_the_latent_of_an_image_is_that_of_the_flow_without_noise() -> None:
    """From γ = −∞: what is between it and γ_1 = −14 changes z by terms of order e^{−14}/λ, λ ≥ 0.1: 1e-5; Heun's error
    in 2,000 steps is below 1e-4."""
    x = DATA.sample(gaussians(8, D, seed=2))
    expected = exact_flow(x, -100.0, 9.0)
    torch.testing.assert_close(to_latent(EXACT, x, grid_of(2000)), expected, atol=1e-4, rtol=0)


def test_back_and_forth_is_the_image_with_order_two() -> None:
    x = DATA.sample(gaussians(8, D, seed=2))
    errors = [
        float((from_latent(EXACT, to_latent(EXACT, x, g), g) - x).abs().max()) for g in map(grid_of, (40, 80, 160))
    ]
    for coarse, fine in pairwise(errors):
        assert coarse / fine > 3.5
    assert errors[-1] < 0.01


def test_evaluations_of_both_directions() -> None:
    count = 0

    def counted(z: Tensor, gamma: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return DATA.denoise(z, gamma)

    x, grid = DATA.sample(gaussians(2, D)), grid_of(10)
    z = to_latent(denoiser_of(counted), x, grid)
    assert count == 3 + 2 * 9
    from_latent(denoiser_of(counted), z, grid)
    assert count == 3 + 2 * 9 + 19


def test_the_last_step_is_inverted_at_large_noise_too() -> None:
    """x̂_0(z_1) = x at γ_1 = −4, where z_1 = √ᾱ_1 x alone is wrong: the fixed point's error falls by the factor
    (1 − ᾱ)/(ᾱ λ + 1 − ᾱ) ≤ 0.16 per iteration, to 0.16³ of the first one."""
    x, grid = DATA.sample(gaussians(8, D, seed=2)), torch.tensor([-4.0, CLEAN], dtype=torch.float64)
    gamma = torch.full((8,), -4.0).double()
    z = to_latent(EXACT, x, grid)
    plain = (DATA.denoise(torch.sigmoid(-grid[0]).sqrt() * x, gamma) - x).abs().max()
    assert float((DATA.denoise(z, gamma) - x).abs().max()) < 0.16**3 * 1.1 * float(plain)


# Points between latents


def test_the_path_ends_at_both_latents_and_is_a_circle() -> None:
    a, b = gaussians(5, 3, 4, seed=1), gaussians(5, 3, 4, seed=2)
    torch.testing.assert_close(slerp(a, b, torch.zeros(5)), a, atol=1e-12, rtol=0)
    torch.testing.assert_close(slerp(a, b, torch.ones(5)), b, atol=1e-12, rtol=0)
    unit_a, unit_b = (part.flatten(1) / part.flatten(1).norm(dim=1, keepdim=True) for part in (a, b))
    for u in (0.2, 0.5, 0.9):
        point = slerp(a, b, torch.full((5,), u, dtype=torch.float64)).flatten(1)
        unit = point / point.norm(dim=1, keepdim=True)
        theta = (unit_a * unit_b).sum(1).arccos()
        torch.testing.assert_close((unit_a * unit).sum(1).arccos(), u * theta, atol=1e-7, rtol=0)
        torch.testing.assert_close((unit_b * unit).sum(1).arccos(), (1 - u) * theta, atol=1e-7, rtol=0)


def test_parallel_latents_are_joined_by_a_line() -> None:
    """The direction stays; the radius mixes the deviations from √(D − ½) by cos and sin of a quarter turn."""
    a, u = gaussians(2, 3, seed=1), torch.tensor([0.5, 0.5], dtype=torch.float64)
    radius, usual, half = a.norm(dim=1, keepdim=True), 2.5**0.5, 0.5**0.5
    expected = usual + half * (radius - usual) + half * (2 * radius - usual)
    torch.testing.assert_close(slerp(a, 2 * a, u), a / radius * expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("u", [0.25, 0.5])
def test_points_between_normal_latents_are_normal(u: float) -> None:
    """64 dimensions, 2,000 pairs: KS tests of one coordinate and of the squared norm, p > 0.01. The straight line, and
    a radius between those of the ends, fail the same tests."""
    n, dims = 2000, 64
    a, b = gaussians(n, dims, seed=1), gaussians(n, dims, seed=2)
    point, line = slerp(a, b, torch.full((n,), u)), (1 - u) * a + u * b
    assert kstest(point[:, 0].numpy(), "norm").pvalue > 0.01
    assert kstest(point.square().sum(1).numpy(), "chi2", args=(dims,)).pvalue > 0.01
    assert kstest(line[:, 0].numpy(), "norm").pvalue < 1e-4
    radius = (1 - u) * a.norm(dim=1) + u * b.norm(dim=1)
    assert kstest(radius.square().numpy(), "chi2", args=(dims,)).pvalue < 1e-3


def test_images_between_images_have_the_law_of_the_data() -> None:
    """Through latents of 6,000 pairs in 100 steps. Moments of Gaussian data: 4 standard errors, and 5% of λ for Heun's
    error and for the radius's law in D = 4 dimensions."""
    n, grid = 6000, grid_of(100)
    ends = DATA.sample(gaussians(2 * n, D, seed=7))
    z = to_latent(EXACT, ends, grid)
    rows = from_latent(EXACT, slerp(z[:n], z[n:], torch.full((n,), 0.5)), grid)
    assert_mean(rows, MEAN, 4)
    away = (rows - MEAN) @ DATA.basis
    assert_mean(away.square() / DATA.eigenvalues, 1.0, 4, 0.05)
    line = ((ends[:n] + ends[n:]) / 2 - MEAN) @ DATA.basis
    assert float((line.square() / DATA.eigenvalues).mean()) < 0.6


def test_latents_of_smooth_images_are_not_shortened() -> None:
    """Both of a third of the usual length: so is every point between, but for what is by chance, at most 0.42 USUAL."""
    a, b = gaussians(5, 400, seed=1) / 3, gaussians(5, 400, seed=2) / 3
    for u in (0.25, 0.5):
        length = slerp(a, b, torch.full((5,), u)).norm(dim=1)
        between = torch.lerp(a.norm(dim=1), b.norm(dim=1), u)
        assert float((length - between).abs().max()) < 0.42 * USUAL + 1e-9
    torch.testing.assert_close(slerp(a, b, torch.ones(5)), b, atol=1e-12, rtol=0)
