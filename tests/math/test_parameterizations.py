"""Every parameterisation, in one list: the laws that make them the same model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from math_helpers import EPS, gaussians, schedule_of, schedules_at_30
from nelbo.bounds import REVERSE_VARIANCES, diffusion_term

from nelbo.diffusion import PARAMETERIZATIONS, Epsilon, Mean, Parameterization, Process, Velocity
from nelbo.diffusion.samplers import DDIM, Ancestral

KINDS = list(PARAMETERIZATIONS.values())
every_kind = pytest.mark.parametrize("kind", KINDS)


def noised(name: str, T: int = 30, dtype: torch.dtype = torch.float64):
    """A process, and one example at each t: (process, t, x_0, ε, x_t)."""
    process = Process(schedule_of(name, T))
    t = torch.arange(1, T + 1)
    x_0, eps = gaussians(T, 4).to(dtype), gaussians(T, 4, seed=1).to(dtype)
    return process, t, x_0, eps, process.diffuse(x_0, t, eps)


def conditioning(row: Parameterization, x_t: torch.Tensor, output: torch.Tensor, t: torch.Tensor):
    """How much a relative error in output and x_t grows in x̂_0 and in ε̂: the sizes of the terms that are subtracted."""
    a, b, d = (table[t, None].abs() for table in row.row)
    signal, noise = row.schedule.signal_rate[t, None], row.schedule.noise_rate[t, None]
    out, x = output.double().abs(), x_t.double().abs()
    return (noise * out + b * x) / d + 1, (a * x + signal * out) / d + 1


@schedules_at_30
@every_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_target_gives_back_image_and_noise(kind: type[Parameterization], name: str, dtype: torch.dtype) -> None:
    process, t, x_0, eps, x_t = noised(name, dtype=dtype)
    row = kind(process.schedule)
    output = row.target(x_0, eps, t)
    denoised = row.denoised(output, x_t, t)
    assert denoised.x_0.dtype == dtype
    of_image, of_noise = conditioning(row, x_t, output, t)
    unit = 8 * torch.finfo(dtype).eps
    assert bool(((denoised.x_0 - x_0).abs() <= unit * of_image).all())
    assert bool(((denoised.eps - eps).abs() <= unit * of_noise).all())


@schedules_at_30
@every_kind
def test_both_views_agree_whatever_the_network_says(kind: type[Parameterization], name: str) -> None:
    """x_t = √ᾱ_t x̂_0 + √(1 − ᾱ_t) ε̂ for any output, and the target of (x̂_0, ε̂) is the output."""
    process, t, _, _, x_t = noised(name)
    row, output = kind(process.schedule), gaussians(len(t), 4, seed=2)
    denoised = row.denoised(output, x_t, t)
    of_image, of_noise = conditioning(row, x_t, output, t)
    tolerance = 16 * EPS * (of_image + of_noise)
    again = process.diffuse(denoised.x_0, t, denoised.eps)
    assert bool(((again - x_t).abs() <= tolerance).all())
    said = row.target(denoised.x_0, denoised.eps, t)
    assert bool(((said - output).abs() <= tolerance * (1 + row.row.a[t, None].abs() + row.row.b[t, None].abs())).all())


@schedules_at_30
@every_kind
@pytest.mark.parametrize("variance", list(REVERSE_VARIANCES))
def test_every_kind_is_the_same_model(kind: type[Parameterization], name: str, variance: str) -> None:
    """One network's ε̂, said in another parameterisation, has the same bound and takes the same steps."""
    process, t, _, eps, x_t = noised(name)
    schedule = process.schedule
    row = kind(schedule)
    one = Epsilon(schedule).denoised(gaussians(len(t), 4, seed=2), x_t, t)
    converted = row.target(one.x_0, one.eps, t)
    other = row.denoised(converted, x_t, t)
    of_image, of_noise = conditioning(row, x_t, converted, t)
    rtol = 64 * EPS * float((of_image + of_noise).max())

    late = t >= 2
    reverse_var = REVERSE_VARIANCES[variance](schedule)
    bounds = [diffusion_term(process, reverse_var, eps[late], d.eps[late], t[late]) for d in (one, other)]
    torch.testing.assert_close(*bounds, rtol=rtol, atol=rtol)
    for sampler in (Ancestral(process, variance), DDIM(process), DDIM(process, 0.7)):
        steps = [sampler.step(x_t, d, t, t - 1) for d in (one, other)]
        torch.testing.assert_close(steps[0].mean, steps[1].mean, rtol=rtol, atol=rtol)
        assert bool((steps[0].var == steps[1].var).all())


@schedules_at_30
def test_the_mean_row_is_the_posteriors_mean(name: str) -> None:
    """DDPM (7) for the target; DDPM (11) for the conversion from ε̂; and the network's output is the step's mean."""
    process, t, x_0, eps, x_t = noised(name)
    schedule = process.schedule
    target = Mean(schedule).target(x_0, eps, t)
    torch.testing.assert_close(target, process.posterior(x_0, x_t, t).mean, rtol=0, atol=1e-13)

    eps_hat = gaussians(len(t), 4, seed=2)
    denoised = Epsilon(schedule).denoised(eps_hat, x_t, t)
    mean = Mean(schedule).target(denoised.x_0, denoised.eps, t)
    alpha, beta = schedule.alpha[t, None], schedule.beta[t, None]
    noise_var = 1 - schedule.alpha.cumprod(0)[t, None]
    of_eps = (x_t - beta / noise_var.sqrt() * eps_hat) / alpha.sqrt()
    # x̂_0 is of size 1/√ᾱ_t, and the mean is a difference of such numbers.
    torch.testing.assert_close(mean, of_eps, rtol=0, atol=1e-14 / float(schedule.signal_rate[-1]))

    output = gaussians(len(t), 4, seed=3)
    step = Ancestral(process, "beta").step(x_t, Mean(schedule).denoised(output, x_t, t), t, t - 1)
    torch.testing.assert_close(step.mean, output, rtol=0, atol=1e-11)
    at_1 = Mean(schedule).target(x_0, eps, torch.ones_like(t))
    torch.testing.assert_close(at_1, x_0, rtol=0, atol=0)


@schedules_at_30
def test_v_is_its_papers_formula(name: str) -> None:
    """v = α_φ ε − σ_φ x, x̂ = α_φ x_t − σ_φ v, ε̂ = σ_φ x_t + α_φ v (Salimans & Ho 2022, appendix D)."""
    process, t, x_0, eps, x_t = noised(name)
    angle = np.arctan2(process.schedule.noise_rate.numpy(), process.schedule.signal_rate.numpy())[1:, None]
    cos, sin = np.cos(angle), np.sin(angle)
    v = Velocity(process.schedule)
    np.testing.assert_allclose(v.target(x_0, eps, t).numpy(), cos * eps.numpy() - sin * x_0.numpy(), atol=1e-14)
    output = gaussians(len(t), 4, seed=2)
    denoised = v.denoised(output, x_t, t)
    np.testing.assert_allclose(denoised.x_0.numpy(), cos * x_t.numpy() - sin * output.numpy(), atol=1e-14)
    np.testing.assert_allclose(denoised.eps.numpy(), sin * x_t.numpy() + cos * output.numpy(), atol=1e-14)


@schedules_at_30
@every_kind
def test_the_determinant_is_that_of_the_two_equations(kind: type[Parameterization], name: str) -> None:
    schedule = schedule_of(name, 30)
    a, b, d = (table[1:] for table in kind(schedule).row)
    signal, noise = schedule.signal_rate[1:], schedule.noise_rate[1:]
    size = (a * noise).abs() + (b * signal).abs()
    assert bool(((a * noise - b * signal - d).abs() <= 16 * 30 * EPS * size).all())


def test_names_are_the_keys() -> None:
    assert {name: kind.name for name, kind in PARAMETERIZATIONS.items()} == {name: name for name in PARAMETERIZATIONS}
