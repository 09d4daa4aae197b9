"""Every prediction of a network: the identities that make them the same model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from math_helpers import EPS, gammas_of, gaussians, schedules_at_30, table_of
from torch import Tensor

from nelbo.diffusion.denoiser import PREDICTIONS, Epsilon, LinearPrediction, Mean, Velocity
from nelbo.diffusion.process import diffuse, noise_rate, posterior, signal_rate
from nelbo.diffusion.samplers import DDIM, Ancestral
from nelbo.diffusion.variances import VARIANCES

KINDS = ("eps", "x0", "mean", "v")
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, gammas: Tensor) -> LinearPrediction:
    prediction = PREDICTIONS[kind](256, gammas)
    assert isinstance(prediction, LinearPrediction)
    return prediction


class Noised(NamedTuple):
    """One example at each γ of a chain."""

    gammas: Tensor
    gamma: Tensor
    x_0: Tensor
    eps: Tensor
    z: Tensor


def noised(name: str, dtype: torch.dtype = torch.float64) -> Noised:
    gammas = gammas_of(name, 30)
    gamma = gammas[1:]
    x_0, eps = gaussians(len(gamma), 4).to(dtype), gaussians(len(gamma), 4, seed=1).to(dtype)
    return Noised(gammas, gamma, x_0, eps, diffuse(x_0, gamma, eps))


def conditioning(row: LinearPrediction, z: Tensor, output: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """How much a relative error in output and z grows in x̂_0 and in ε̂: the sizes of the terms that are subtracted."""
    a, b, d = (table[:, None].abs() for table in row.row(gamma))
    signal, noise = signal_rate(gamma)[:, None], noise_rate(gamma)[:, None]
    out, at = output.double().abs(), z.double().abs()
    return (noise * out + b * at) / d + 1, (a * at + signal * out) / d + 1


@schedules_at_30
@every_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_target_gives_back_image_and_noise(kind: str, name: str, dtype: torch.dtype) -> None:
    gammas, gamma, x_0, eps, z = noised(name, dtype)
    row = made(kind, gammas)
    output = row.target(x_0, eps, gamma)
    denoised = row.denoised(output, z, gamma)
    assert denoised.x_0.dtype == dtype
    of_image, of_noise = conditioning(row, z, output, gamma)
    unit = 8 * torch.finfo(dtype).eps
    assert bool(((denoised.x_0 - x_0).abs() <= unit * of_image).all())
    assert bool(((denoised.eps - eps).abs() <= unit * of_noise).all())


@schedules_at_30
@every_kind
def test_both_views_agree_whatever_the_network_says(kind: str, name: str) -> None:
    """z = √ᾱ x̂_0 + √(1 − ᾱ) ε̂ for any output, and the target of (x̂_0, ε̂) is the output."""
    gammas, gamma, _, _, z = noised(name)
    row, output = made(kind, gammas), gaussians(len(gamma), 4, seed=2)
    denoised = row.denoised(output, z, gamma)
    of_image, of_noise = conditioning(row, z, output, gamma)
    tolerance = 16 * EPS * (of_image + of_noise)
    assert bool(((diffuse(denoised.x_0, gamma, denoised.eps) - z).abs() <= tolerance).all())
    said, (a, b, _) = row.target(denoised.x_0, denoised.eps, gamma), row.row(gamma)
    assert bool(((said - output).abs() <= tolerance * (1 + a[:, None].abs() + b[:, None].abs())).all())


@schedules_at_30
@every_kind
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_every_kind_is_the_same_model(kind: str, name: str, variance: str) -> None:
    """One network's ε̂, said in another way, has the same bound and takes the same steps."""
    gammas, gamma, _, eps, z = noised(name)
    before, row = gammas[:-1], made(kind, gammas)
    one = Epsilon().denoised(gaussians(len(gamma), 4, seed=2), z, gamma)
    converted = row.target(one.x_0, one.eps, gamma)
    other = row.denoised(converted, z, gamma)
    of_image, of_noise = conditioning(row, z, converted, gamma)
    rtol = 64 * EPS * float((of_image + of_noise).max())

    def late(denoised):
        return denoised._replace(x_0=denoised.x_0[1:], eps=denoised.eps[1:])

    bounds = [VARIANCES[variance].diffusion_term(late(d), eps[1:], before[1:], gamma[1:]) for d in (one, other)]
    torch.testing.assert_close(*bounds, rtol=rtol, atol=rtol)
    for sampler in (Ancestral(VARIANCES[variance]), DDIM(), DDIM(0.7)):
        steps = [sampler.step(z, d, gamma, before) for d in (one, other)]
        torch.testing.assert_close(steps[0].mean, steps[1].mean, rtol=rtol, atol=rtol)
        assert bool((steps[0].var == steps[1].var).all())


@schedules_at_30
def test_the_mean_row_is_the_posteriors_mean(name: str) -> None:
    """DDPM (7) for the target; DDPM (11) for the conversion from ε̂; and the network's output is the step's mean."""
    gammas, gamma, x_0, eps, z = noised(name)
    before, table = gammas[:-1], table_of(name, 30)
    target = Mean(gammas).target(x_0, eps, gamma)
    torch.testing.assert_close(target, posterior(x_0, z, before, gamma).mean, rtol=0, atol=1e-13)

    eps_hat = gaussians(len(gamma), 4, seed=2)
    denoised = Epsilon().denoised(eps_hat, z, gamma)
    mean = Mean(gammas).target(denoised.x_0, denoised.eps, gamma)
    alpha, beta = table.alpha[1:, None], table.beta[1:, None]
    noise_var = table.noise_var[1:, None]
    of_eps = (z - beta / noise_var.sqrt() * eps_hat) / alpha.sqrt()
    # x̂_0 is of size 1/√ᾱ_t, and the mean is a difference of such numbers; α = 1 − β loses digits where β is capped.
    torch.testing.assert_close(mean, of_eps, rtol=0, atol=2e-14 / float(table.alpha_bar[-1].sqrt()))

    output = gaussians(len(gamma), 4, seed=3)
    step = Ancestral(VARIANCES["beta"]).step(z, Mean(gammas).denoised(output, z, gamma), gamma, before)
    torch.testing.assert_close(step.mean, output, rtol=0, atol=1e-11)
    at_1 = Mean(gammas).target(x_0, eps, gammas[1].expand(len(gamma)))
    torch.testing.assert_close(at_1, x_0, rtol=0, atol=0)


@schedules_at_30
def test_v_is_its_papers_formula(name: str) -> None:
    """v = α_φ ε − σ_φ x, x̂ = α_φ x_t − σ_φ v, ε̂ = σ_φ x_t + α_φ v (Salimans & Ho 2022, appendix D)."""
    _, gamma, x_0, eps, z = noised(name)
    angle = np.arctan(np.exp(gamma.numpy() / 2))[:, None]
    cos, sin = np.cos(angle), np.sin(angle)
    v = Velocity()
    np.testing.assert_allclose(v.target(x_0, eps, gamma).numpy(), cos * eps.numpy() - sin * x_0.numpy(), atol=1e-14)
    output = gaussians(len(gamma), 4, seed=2)
    denoised = v.denoised(output, z, gamma)
    np.testing.assert_allclose(denoised.x_0.numpy(), cos * z.numpy() - sin * output.numpy(), atol=1e-14)
    np.testing.assert_allclose(denoised.eps.numpy(), sin * z.numpy() + cos * output.numpy(), atol=1e-14)


@schedules_at_30
@every_kind
def test_the_determinant_is_that_of_the_two_equations(kind: str, name: str) -> None:
    gammas = gammas_of(name, 30)
    a, b, d = made(kind, gammas).row(gammas[1:])
    signal, noise = signal_rate(gammas[1:]), noise_rate(gammas[1:])
    size = (a * noise).abs() + (b * signal).abs()
    assert bool(((a * noise - b * signal - d).abs() <= 16 * 30 * EPS * size).all())
