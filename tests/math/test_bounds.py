"""The pieces of the bound, each against the divergence that it stands for."""

from __future__ import annotations

import pytest
import torch
from math_helpers import EPS, every_schedule, gaussians, schedule_of, schedules_at_30
from nelbo.bounds import REVERSE_VARIANCES, denoising_weight, diffusion_term, prior_term
from torch.distributions import Normal, kl_divergence

from nelbo.diffusion import Epsilon, Process
from nelbo.theory.bound import Bound

every_variance = pytest.mark.parametrize("variance", list(REVERSE_VARIANCES))


@every_schedule
@every_variance
def test_weight_is_the_papers(name: str, T: int, variance: str) -> None:
    """DDPM (12): β²/(2σ²α(1−ᾱ)), zero below t = 2, where there is no such term."""
    schedule = schedule_of(name, T)
    reverse_var = REVERSE_VARIANCES[variance](schedule)
    weight = denoising_weight(schedule, reverse_var)
    assert weight.dtype == torch.float64
    assert weight[:2].tolist() == [0, 0]
    beta, alpha_bar = schedule.beta, (1 - schedule.beta).cumprod(0)
    sigma_2 = beta if variance == "beta" else beta * (1 - alpha_bar.roll(1)) / (1 - alpha_bar)
    expected = beta**2 / (2 * sigma_2 * (1 - beta) * (1 - alpha_bar))
    torch.testing.assert_close(weight[2:], expected[2:], rtol=16 * T * EPS / float(schedule.noise_var[1]), atol=0)


@every_schedule
def test_weight_for_beta_tilde_is_half_the_growth_of_snr(name: str, T: int) -> None:
    """½ (SNR(t−1)/SNR(t) − 1), with the ratio from β itself where it would cancel: SNR(t−1)/SNR(t) = e^{Δγ}."""
    schedule = schedule_of(name, T)
    weight = denoising_weight(schedule, schedule.beta_tilde)
    ratio = schedule.snr[1:-1] / schedule.snr[2:]
    # The subtraction of 1 leaves an absolute error of a few T·ε of the ratio.
    error = (weight[2:] - 0.5 * (ratio - 1)).abs()
    assert bool((error <= 32 * T * EPS * ratio).all())


@schedules_at_30
@every_variance
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_diffusion_term_is_the_divergence_it_stands_for(name: str, variance: str, shape: tuple[int, ...]) -> None:
    """KL(N(μ̃(x_0, x_t), β̃_t) ‖ N(μ̃(x̂_0, x_t), σ_t²)) by torch.distributions, at every t, to 1e-10 of its size."""
    T = 30
    process = Process(schedule_of(name, T))
    schedule = process.schedule
    t = torch.arange(2, T + 1)
    x_0, eps, eps_hat = (gaussians(len(t), *shape, seed=seed) for seed in range(3))
    x_t = process.diffuse(x_0, t, eps)
    x_0_hat = Epsilon(schedule).denoised(eps_hat, x_t, t).x_0
    reverse_var = REVERSE_VARIANCES[variance](schedule)
    q = process.posterior(x_0, x_t, t)
    sigma = reverse_var[t].sqrt().reshape(q.var.shape)
    p = Normal(process.posterior(x_0_hat, x_t, t).mean, sigma)
    direct = kl_divergence(Normal(q.mean, q.var.sqrt()), p).flatten(1).sum(1)
    term = diffusion_term(process, reverse_var, eps, eps_hat, t)
    assert term.shape == (len(t),)
    torch.testing.assert_close(term, direct, rtol=1e-10, atol=1e-10)
    perfect = diffusion_term(process, reverse_var, eps, eps, t)
    sigma_2, tilde = reverse_var[t], schedule.beta_tilde[t]
    dims = x_0[0].numel()
    of_variances = 0.5 * dims * (tilde / sigma_2 - 1 + (sigma_2 / tilde).log())
    torch.testing.assert_close(perfect, of_variances, rtol=1e-10, atol=1e-12)
    assert bool((perfect > 0).all()) == (variance == "beta")


@every_schedule
def test_prior_term_is_the_divergence_from_the_prior(name: str, T: int) -> None:
    process = Process(schedule_of(name, T))
    x_0 = gaussians(4, 2, 3, 3)
    alpha_bar = (1 - process.schedule.beta).prod()
    q = Normal(alpha_bar.sqrt() * x_0, (1 - alpha_bar).sqrt())
    direct = kl_divergence(q, Normal(torch.zeros_like(x_0), torch.ones_like(x_0))).flatten(1).sum(1)
    term = prior_term(process, x_0)
    assert term.shape == (4,)
    # torch.distributions subtracts numbers of size 1, D times.
    torch.testing.assert_close(term, direct, rtol=1e-10, atol=50 * EPS * x_0[0].numel())


def test_prior_term_of_float32_images_is_computed_in_float64() -> None:
    """At T = 1000 it is 4e-5 ‖x_0‖²/2 less 1e-9 D: gone if 1 − ᾱ_T were rounded to float32 first."""
    process = Process(schedule_of("linear", 1000))
    x_0 = gaussians(4, 3, 8, 8).float()
    term = prior_term(process, x_0)
    assert term.dtype == torch.float32
    torch.testing.assert_close(term.double(), prior_term(process, x_0.double()), rtol=1e-6, atol=0)
    assert bool((prior_term(process, torch.zeros(1, 3, 8, 8)) > 0).all())


@every_variance
def test_prior_is_paid_and_scale_is_nats(variance: str) -> None:
    """Two copies of an image side by side cost twice: terms add over dimensions."""
    process = Process(schedule_of("cosine", 30))
    reverse_var = REVERSE_VARIANCES[variance](process.schedule)
    t = torch.tensor([2, 17, 30])
    x_0, eps, eps_hat = (gaussians(3, 4, seed=seed) for seed in range(3))
    twice = [torch.cat([x, x], dim=1) for x in (x_0, eps, eps_hat)]
    torch.testing.assert_close(prior_term(process, twice[0]), 2 * prior_term(process, x_0))
    torch.testing.assert_close(
        diffusion_term(process, reverse_var, twice[1], twice[2], t),
        2 * diffusion_term(process, reverse_var, eps, eps_hat, t),
    )


def test_total_is_the_sum_of_the_terms() -> None:
    terms = {"reconstruction": gaussians(3), "diffusion": gaussians(3, seed=1), "prior": gaussians(3, seed=2)}
    total = Bound(terms).total
    assert total.tolist() == pytest.approx([sum(float(term[i]) for term in terms.values()) for i in range(3)])
