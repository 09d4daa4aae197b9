"""Each term of the bound, against the divergence that it is."""

from __future__ import annotations

import pytest
import torch
from math_helpers import EPS, every_schedule, gammas_of, gaussians, schedules_at_30, table_of
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from nelbo.diffusion.denoiser import Denoised, Epsilon
from nelbo.diffusion.process import diffuse, posterior, prior_term
from nelbo.diffusion.variances import VARIANCES, step_weight
from nelbo.theory.bound import Bound

every_variance = pytest.mark.parametrize("variance", ["beta", "beta_tilde"])


def says(eps: Tensor, fraction: Tensor | None = None) -> Denoised:
    """A denoiser that says ε̂; of x̂_0 the terms need the shape alone."""
    return Denoised(torch.zeros_like(eps), eps, fraction)


def weight_of(variance: str, before: Tensor, gamma: Tensor) -> Tensor:
    """What ‖ε − ε̂‖² counts in the term of each step, from an error so large that the rest is nothing beside it."""
    eps = torch.full((len(gamma), 1), 1e6, dtype=torch.float64)
    wrong, right = (VARIANCES[variance].diffusion_term(says(hat), eps, before, gamma) for hat in (0 * eps, eps))
    return (wrong - right) / 1e12


@every_schedule
@every_variance
def test_weight_is_the_papers(name: str, T: int, variance: str) -> None:
    """DDPM (12): β²/(2σ²α(1−ᾱ)), at t ≥ 2, with ᾱ a product of the table's 1 − β."""
    gammas, table = gammas_of(name, T), table_of(name, T)
    weight = weight_of(variance, gammas[1:-1], gammas[2:])
    assert weight.dtype == torch.float64
    beta, alpha_bar = table.beta, (1 - table.beta).cumprod(0)
    sigma_2 = beta if variance == "beta" else beta * (1 - alpha_bar.roll(1)) / (1 - alpha_bar)
    expected = beta**2 / (2 * sigma_2 * (1 - beta) * (1 - alpha_bar))
    # The product loses ε/(1 − ᾱ_1) at the image, and 1 − β as much where the cap leaves it a thousandth.
    rtol = 16 * len(gammas) * EPS / float(torch.minimum(table.noise_var[1], 1 - beta[1:].max()))
    torch.testing.assert_close(weight, expected[2:], rtol=rtol, atol=0)


@every_schedule
def test_weight_for_beta_tilde_is_half_the_growth_of_snr(name: str, T: int) -> None:
    """½ (SNR(t−1)/SNR(t) − 1), VDM (14), computed from Δγ, as SNR(t−1)/SNR(t) = e^{Δγ}."""
    gammas, snr = gammas_of(name, T), table_of(name, T).snr
    weight = step_weight(gammas[1:-1], gammas[2:])
    torch.testing.assert_close(weight_of("beta_tilde", gammas[1:-1], gammas[2:]), weight, rtol=4 * EPS, atol=0)
    ratio = snr[1:-1] / snr[2:]
    # The subtraction of 1 leaves an absolute error of a few T·ε of the ratio.
    error = (weight - 0.5 * (ratio - 1)).abs()
    assert bool((error <= 32 * T * EPS * ratio).all())


@schedules_at_30
@every_variance
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_diffusion_term_is_the_divergence_it_stands_for(name: str, variance: str, shape: tuple[int, ...]) -> None:
    """KL(N(μ̃(x_0, x_t), β̃_t) ‖ N(μ̃(x̂_0, x_t), σ_t²)) by torch.distributions, at every t, to 1e-10 of its size."""
    gammas, table = gammas_of(name, 30), table_of(name, 30)
    before, gamma = gammas[1:-1], gammas[2:]
    x_0, eps, eps_hat = (gaussians(len(gamma), *shape, seed=seed) for seed in range(3))
    x_t = diffuse(x_0, gamma, eps)
    denoised = Epsilon().denoised(eps_hat, x_t, gamma)
    sigma_2, tilde = getattr(table, variance)[2:], table.beta_tilde[2:]
    q = posterior(x_0, x_t, before, gamma)
    p = Normal(posterior(denoised.x_0, x_t, before, gamma).mean, sigma_2.sqrt().reshape(q.var.shape))
    direct = kl_divergence(Normal(q.mean, q.var.sqrt()), p).flatten(1).sum(1)
    term = VARIANCES[variance].diffusion_term(denoised, eps, before, gamma)
    assert term.shape == (len(gamma),)
    torch.testing.assert_close(term, direct, rtol=1e-10, atol=1e-10)
    perfect = VARIANCES[variance].diffusion_term(says(eps), eps, before, gamma)
    dims = x_0[0].numel()
    of_variances = 0.5 * dims * (tilde / sigma_2 - 1 + (sigma_2 / tilde).log())
    torch.testing.assert_close(perfect, of_variances, rtol=1e-10, atol=1e-12)
    assert bool((perfect > 0).all()) == (variance == "beta")


@schedules_at_30
def test_a_learned_variance_is_each_of_the_two_and_between_them_a_divergence_too(name: str) -> None:
    """v = 1 is β, v = 0 is β̃; and with another v in each pixel the term is the KL to N(μ, σ²), by torch."""
    gammas, table = gammas_of(name, 30), table_of(name, 30)
    before, gamma = gammas[1:-1], gammas[2:]
    x_0, eps, eps_hat = (gaussians(len(gamma), 5, seed=seed) for seed in range(3))
    for v, fixed in ((1.0, "beta"), (0.0, "beta_tilde")):
        found = VARIANCES["learned"].diffusion_term(says(eps_hat, torch.full_like(eps, v)), eps, before, gamma)
        expected = VARIANCES[fixed].diffusion_term(says(eps_hat), eps, before, gamma)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    v = torch.sigmoid(gaussians(len(gamma), 5, seed=3))
    x_t = diffuse(x_0, gamma, eps)
    denoised = Epsilon().denoised(eps_hat, x_t, gamma)._replace(fraction=v)
    q, beta, tilde = posterior(x_0, x_t, before, gamma), table.beta[2:, None], table.beta_tilde[2:, None]
    mean = posterior(denoised.x_0, x_t, before, gamma).mean
    direct = kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(mean, (beta**v * tilde ** (1 - v)).sqrt())).sum(1)
    found = VARIANCES["learned"].diffusion_term(denoised, eps, before, gamma)
    torch.testing.assert_close(found, direct, rtol=1e-10, atol=1e-10)


@every_schedule
def test_prior_term_is_the_divergence_from_the_prior(name: str, T: int) -> None:
    x_0, last = gaussians(4, 2, 3, 3), gammas_of(name, T)[-1]
    alpha_bar = (1 - table_of(name, T).beta).prod()
    q = Normal(alpha_bar.sqrt() * x_0, (1 - alpha_bar).sqrt())
    direct = kl_divergence(q, Normal(torch.zeros_like(x_0), torch.ones_like(x_0))).flatten(1).sum(1)
    term = prior_term(x_0, last)
    assert term.shape == (4,)
    # torch.distributions subtracts numbers of size 1, D times.
    torch.testing.assert_close(term, direct, rtol=1e-10, atol=50 * EPS * x_0[0].numel())


def test_prior_term_of_float32_images_is_computed_in_float64() -> None:
    """At T = 1000 it is 4e-5 ‖x_0‖²/2 less 1e-9 D: gone if 1 − ᾱ_T were rounded to float32 first."""
    x_0, last = gaussians(4, 3, 8, 8).float(), gammas_of("linear", 1000)[-1]
    term = prior_term(x_0, last)
    assert term.dtype == torch.float32
    torch.testing.assert_close(term.double(), prior_term(x_0.double(), last), rtol=1e-6, atol=0)
    assert bool((prior_term(torch.zeros(1, 3, 8, 8), last) > 0).all())


@every_variance
def test_prior_is_paid_and_scale_is_nats(variance: str) -> None:
    """Two copies of an image side by side cost twice: terms add over dimensions."""
    gammas, t = gammas_of("cosine", 30), torch.tensor([2, 17, 30])
    x_0, eps, eps_hat = (gaussians(3, 4, seed=seed) for seed in range(3))
    twice = [torch.cat([x, x], dim=1) for x in (x_0, eps, eps_hat)]
    torch.testing.assert_close(prior_term(twice[0], gammas[-1]), 2 * prior_term(x_0, gammas[-1]))
    term = VARIANCES[variance].diffusion_term
    torch.testing.assert_close(
        term(says(twice[2]), twice[1], gammas[t - 1], gammas[t]),
        2 * term(says(eps_hat), eps, gammas[t - 1], gammas[t]),
    )


def test_total_is_the_sum_of_the_terms() -> None:
    terms = {"reconstruction": gaussians(3), "diffusion": gaussians(3, seed=1), "prior": gaussians(3, seed=2)}
    total = Bound(terms).total
    assert total.tolist() == pytest.approx([sum(float(term[i]) for term in terms.values()) for i in range(3)])
