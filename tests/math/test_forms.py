"""The forms of the bound agree for the exact denoiser of Gaussian data and for a network.

The decoder is p(x_0|x_1) = N(x̂_0(x_1), β_1 I) and the denoiser is exact, so every expectation of the denoising and of
the consistency form is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from math_helpers import (
    EPS,
    assert_mean,
    every_schedule,
    gammas_of,
    gaussians,
    random_cov,
    schedules_at_30,
    table_of,
)
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from nelbo.diffusion.consistency import (
    Three,
    consistency_log_ratio,
    consistency_prior_term,
    consistency_term,
    neighbours,
)
from nelbo.diffusion.denoiser import from_x_0
from nelbo.diffusion.entropy import entropy_difference, entropy_terms
from nelbo.diffusion.process import bridge, diffuse, posterior, prior_term, transition
from nelbo.diffusion.schedules import chain_of, gamma_of_betas
from nelbo.diffusion.trajectory import trajectory_terms
from nelbo.diffusion.variances import VARIANCES
from nelbo.metrics import score_likelihood
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.rng import Draws, Stream
from nelbo.theory.exact import Coefficients, GaussianData
from nelbo.theory.normal import Gaussian

D = 3
every_variance = pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
BOUNDS = ("denoising", "consistency", "trajectory")


@pytest.fixture
def data() -> GaussianData:
    return GaussianData(gaussians(D, seed=9), random_cov(D))


def noise_for(like: Tensor, seed: int = 0) -> Iterator[Tensor]:
    rng = np.random.default_rng(seed)
    while True:
        yield torch.from_numpy(rng.standard_normal(tuple(like.shape)))


def var_of(gammas: Tensor, variance: str) -> Tensor:
    """σ_t² of every t, shape (T + 1,): β or β̃ of DDPM's table."""
    found = getattr(Coefficients(gammas), variance)
    assert isinstance(found, Tensor)
    return found


def oracle_decoder(data: GaussianData, gammas: Tensor, x_0: Tensor) -> Callable[[Tensor], Tensor]:
    """−ln N(x_0; x̂_0(x_1), β_1 I), by torch.distributions."""
    std = Coefficients(gammas).beta[1].sqrt()

    def decode(x_1: Tensor) -> Tensor:
        mean = data.denoise(x_1, gammas[1].expand(len(x_1)))
        return -Normal(mean, std).log_prob(x_0).sum(1)

    return decode


def trajectories(data: GaussianData, gammas: Tensor, variance: str, x_0: Tensor) -> dict[str, Tensor]:
    """The terms of one trajectory per row of x_0."""
    decode = oracle_decoder(data, gammas, x_0)

    def reverse(x_t: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Gaussian:
        return reverse_step(variance, data.denoise(x_t, gamma_t), x_t, gamma_s, gamma_t)

    return trajectory_terms(gammas, reverse, decode, x_0, noise_for(x_0))


def reverse_step(variance: str, x_0_hat: Tensor, x_t: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Gaussian:
    """p_θ(x_{t−1}|x_t) = N(μ̃(x̂_0, x_t), σ_t² I)  [DDPM (1), with the mean of (7)]."""
    return VARIANCES[variance].step(from_x_0(x_0_hat, x_t, gamma_t), x_t, gamma_s, gamma_t)


def three(gammas: Tensor, t: Tensor) -> Three:
    """γ_{t−1}, γ_t and γ_{t+1}."""
    return Three(gammas[t - 1], gammas[t], gammas[t + 1])


# Trajectory


@schedules_at_30
@every_variance
def test_the_trajectory_forms_mean_is_the_exact_bound(data: GaussianData, name: str, variance: str) -> None:
    """Terms too: reconstruction is the same; prior is more, and diffusion less, by H_q(X_T|X_0)."""
    gammas, n = gammas_of(name, 30), 6000
    x_0 = data.sample(gaussians(1, D, seed=4))
    exact = {key: float(value) for key, value in data.bound(gammas, var_of(gammas, variance), x_0).items()}
    terms = trajectories(data, gammas, variance, x_0.expand(n, D))
    assert list(terms) == ["reconstruction", "diffusion", "prior"]
    assert all(value.dtype == torch.float64 and value.shape == (n,) for value in terms.values())
    assert_mean(sum(terms.values()), sum(exact.values()))
    entropy = D * float(Normal(0.0, table_of(name, 30).noise_var[-1].sqrt()).entropy())
    assert_mean(terms["reconstruction"], exact["reconstruction"])
    assert_mean(terms["diffusion"], exact["diffusion"] - entropy)
    assert_mean(terms["prior"], exact["prior"] + entropy)


def test_every_trajectory_of_standard_normal_data_gives_the_likelihood() -> None:
    """For N(0, I) data and σ² = β both joints are one law, so ln q(x_{1:T}|x_0) − ln p_θ(x_{0:T}) = −ln p(x_0): no
    variance at all. 2000 densities of size up to 20, whose residues (x − μ)/σ have lost 1/√β_1 = 100: 1e-9.
    """
    gammas, x_0 = gammas_of("linear", 1000), 1.5 * gaussians(20, D)
    data = GaussianData(torch.zeros(D), torch.eye(D))
    total = sum(trajectories(data, gammas, "beta", x_0).values())
    torch.testing.assert_close(total, -data.log_prob(x_0), rtol=0, atol=1e-9)
    tilde = sum(trajectories(data, gammas, "beta_tilde", x_0).values())
    assert float((tilde + data.log_prob(x_0)).abs().min()) > 1e-3  # with another variance it does vary


@pytest.mark.parametrize("T", [1, 2])
def test_short_trajectories_are_their_densities(T: int) -> None:
    """Written out by torch.distributions for T = 1 and 2."""
    beta = torch.tensor([0.0, 0.3, 0.6][: T + 1], dtype=torch.float64)
    gammas, data = chain_of(gamma_of_betas(beta[1:])), GaussianData(gaussians(D), random_cov(D))
    x_0 = data.sample(gaussians(5, D, seed=1))
    noise = noise_for(x_0)
    x_1 = (1 - beta[1]).sqrt() * x_0 + beta[1].sqrt() * next(noise)
    expected = Normal((1 - beta[1]).sqrt() * x_0, beta[1].sqrt()).log_prob(x_1).sum(1)
    expected += oracle_decoder(data, gammas, x_0)(x_1)
    last = x_1
    if T == 2:
        last = (1 - beta[2]).sqrt() * x_1 + beta[2].sqrt() * next(noise)
        one, two = gammas[1].expand(5), gammas[2].expand(5)
        back = posterior(data.denoise(last, two), last, one, two)
        expected += Normal((1 - beta[2]).sqrt() * x_1, beta[2].sqrt()).log_prob(last).sum(1)
        expected -= Normal(back.mean, beta[2].sqrt()).log_prob(x_1).sum(1)
    expected -= Normal(0.0, 1.0).log_prob(last).sum(1)
    total = sum(trajectories(data, gammas, "beta", x_0).values())
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)


# Consistency


@every_schedule
def test_bridge_is_bayes_rule(name: str, T: int) -> None:
    """q(x_t|x_{t−1},x_{t+1}) ∝ q(x_t|x_{t−1}) q(x_{t+1}|x_t): the logarithms differ by a constant in x_t, and the law
    is normalised, both at three points. At t = 1 it is the posterior with x_0, of the next step.
    """
    if T < 2:
        return
    gammas = gammas_of(name, T)
    gamma = three(gammas, torch.arange(1, len(gammas) - 1))
    x_prev, x_next = gaussians(len(gamma.here), 1), gaussians(len(gamma.here), 1, seed=1)
    law = bridge(x_prev, x_next, *gamma)

    def joint(x: Tensor) -> Tensor:
        after = transition(x, gamma.here, gamma.next).log_prob(x_next)
        return transition(x_prev, gamma.prev, gamma.here).log_prob(x) + after

    rest = [joint(x) - law.log_prob(x) for x in (law.mean + k * law.var.sqrt() for k in (-1.5, 0.2, 2.0))]
    for other in rest[1:]:
        torch.testing.assert_close(other, rest[0], rtol=1e-9, atol=1e-9)
    first = posterior(x_prev[:1], x_next[:1], gammas[1:2], gammas[2:3])
    torch.testing.assert_close(law.mean[:1], first.mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(law.var[:1], first.var, rtol=1e-9, atol=0)


def test_log_prob_of_a_gaussian_is_torchs() -> None:
    gammas, x = gammas_of("linear", 50), gaussians(49, 2, seed=1)
    law = transition(gaussians(49, 2), gammas[:49], gammas[1:50])
    torch.testing.assert_close(law.log_prob(x), Normal(law.mean, law.var.sqrt()).log_prob(x), rtol=1e-12, atol=1e-12)


@schedules_at_30
def test_neighbours_have_the_law_of_the_chain(name: str) -> None:
    """Means √ᾱ x_0 and covariances √(ᾱ_t/ᾱ_s)(1 − ᾱ_s) of x_{t−1}, x_t, x_{t+1}: 4 s.e. each, and x_0 itself at 0."""
    gammas, n = gammas_of(name, 30), 20_000
    x_0 = torch.full((n, 1), 0.7, dtype=torch.float64)
    for t in (1, 2, 17, 29):
        gamma = three(gammas, torch.full((n,), t))
        triple = neighbours(x_0, gamma, (gaussians(n, 1), gaussians(n, 1, seed=1), gaussians(n, 1, seed=2)))
        found = torch.cat(triple, dim=1)
        alpha_bar = table_of(name, 30).alpha_bar[t - 1 : t + 2]
        centred = found - 0.7 * alpha_bar.sqrt()
        assert_mean(centred, 0.0, 4, bias=1e-12)
        for i in range(3):
            for j in range(i, 3):
                cov = (alpha_bar[j] / alpha_bar[i]).sqrt() * (1 - alpha_bar[i])
                assert_mean(centred[:, i] * centred[:, j], cov, 4, bias=1e-12)


@schedules_at_30
@every_variance
def test_the_summand_integrates_the_log_ratio(data: GaussianData, name: str, variance: str) -> None:
    """Over x_t and x_{t+1} given x_{t−1}, for a wrong linear denoiser, at every t, by Gauss–Hermite: it is exact, for
    everything is quadratic in both.
    """
    gammas = gammas_of(name, 30)
    n = len(gammas) - 2
    gamma = three(gammas, torch.arange(1, n + 1))
    x_prev, zero = gaussians(n, 1), torch.zeros(n, dtype=torch.float64)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(4))
    mean, term = zero, zero
    for outer, w in zip(nodes, weights / weights.sum(), strict=True):
        x_t = transition(x_prev, gamma.prev, gamma.here).sample(outer)
        for inner, v in zip(nodes, weights / weights.sum(), strict=True):
            x_next = transition(x_t, gamma.here, gamma.next).sample(inner)
            reverse = reverse_step(variance, 0.4 * x_next - 0.2, x_next, gamma.here, gamma.next)
            mean = mean + w * v * consistency_log_ratio(reverse, x_prev, x_t, gamma)
            term = term + w * v * consistency_term(reverse, x_prev, x_next, gamma)
    assert term.shape == (n,)
    torch.testing.assert_close(term, mean, rtol=1e-9, atol=1e-9)


Summand = Callable[[Gaussian, Tensor, Tensor, Tensor, Three], Tensor]
"""(p_θ(x_t|x_{t+1}), x_{t−1}, x_t, x_{t+1}, γ of the three) → nats of one summand."""


def sampled(reverse: Gaussian, x_prev: Tensor, x_t: Tensor, _: Tensor, gamma: Three) -> Tensor:
    return consistency_log_ratio(reverse, x_prev, x_t, gamma)


def integrated(reverse: Gaussian, x_prev: Tensor, _: Tensor, x_next: Tensor, gamma: Three) -> Tensor:
    return consistency_term(reverse, x_prev, x_next, gamma)


def notes(reverse: Gaussian, x_prev: Tensor, _: Tensor, __: Tensor, gamma: Three) -> Tensor:
    """The wrong summand, KL(q(x_t|x_{t−1}) ‖ p_θ(x_t|x_{t+1}))."""
    q, p = transition(x_prev, gamma.prev, gamma.here), reverse
    return kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(p.mean, p.var.sqrt())).sum(1)


def sampled_sum(data: GaussianData, gammas: Tensor, variance: str, x_0: Tensor, summand: Summand) -> Tensor:
    """The sum over t, one sample of the neighbours at each, with the exact denoiser; shape (n,) for x_0 of (n, D)."""
    noise, total = noise_for(x_0), torch.zeros(len(x_0), dtype=torch.float64)
    for t in range(1, len(gammas) - 1):
        gamma = three(gammas, torch.full((len(x_0),), t))
        x_prev, x_t, x_next = neighbours(x_0, gamma, (next(noise), next(noise), next(noise)))
        reverse = reverse_step(variance, data.denoise(x_next, gamma.next), x_next, gamma.here, gamma.next)
        total += summand(reverse, x_prev, x_t, x_next, gamma)
    return total


@schedules_at_30
@every_variance
@pytest.mark.parametrize("summand", [sampled, integrated], ids=["sampled", "integrated"])
def test_the_consistency_forms_mean_is_the_exact_bound(
    data: GaussianData, name: str, variance: str, summand: Summand
) -> None:
    gammas, n = gammas_of(name, 30), 3000
    x_0 = data.sample(gaussians(1, D, seed=4))
    bound = data.bound(gammas, var_of(gammas, variance), x_0)
    rest = float(bound["reconstruction"] + consistency_prior_term(gammas, x_0))
    total = sampled_sum(data, gammas, variance, x_0.expand(n, D), summand) + rest
    assert_mean(total, float(sum(bound.values())))


@every_variance
def test_the_notes_summand_fails_the_same_comparison(data: GaussianData, variance: str) -> None:
    """A mutation: with it the mean is off by tens of standard errors, so the test above would see it."""
    gammas, n = gammas_of("linear", 30), 3000
    x_0 = data.sample(gaussians(1, D, seed=4))
    bound = data.bound(gammas, var_of(gammas, variance), x_0)
    rest = float(bound["reconstruction"] + consistency_prior_term(gammas, x_0))
    wrong = sampled_sum(data, gammas, variance, x_0.expand(n, D), notes) + rest
    assert float((wrong.mean() - sum(bound.values())) / (wrong.std() / n**0.5)) > 30


@every_schedule
@every_variance
def test_both_forms_have_one_expectation(data: GaussianData, name: str, T: int, variance: str) -> None:
    """In closed form, at every T: sums of up to 1000 terms of either sign."""
    gammas = gammas_of(name, T)
    reverse_var = var_of(gammas, variance)
    x_0 = data.sample(gaussians(5, D, seed=4))
    denoising, consistency = data.bound(gammas, reverse_var, x_0), data.consistency(gammas, reverse_var, x_0)
    assert list(denoising) == list(consistency)
    torch.testing.assert_close(sum(consistency.values()), sum(denoising.values()), rtol=1e-10, atol=1e-8)


@schedules_at_30
@every_variance
def test_the_exact_consistency_terms_match_monte_carlo(data: GaussianData, name: str, variance: str) -> None:
    gammas = gammas_of(name, 30)
    x_0 = data.sample(gaussians(1, D, seed=4))
    exact = data.consistency(gammas, var_of(gammas, variance), x_0)
    assert_mean(sampled_sum(data, gammas, variance, x_0.expand(3000, D), integrated), float(exact["diffusion"]))


@every_schedule
def test_the_consistency_prior_is_its_expectation(name: str, T: int) -> None:
    """KL(q(x_T|x_{T−1}) ‖ N(0, I)) by torch.distributions, integrated over x_{T−1} by Gauss–Hermite (exact)."""
    gammas, x_0 = gammas_of(name, T), gaussians(4, 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    before, last = gammas[-2].expand(4), gammas[-1].expand(4)
    expected = torch.zeros(4, dtype=torch.float64)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        q = transition(diffuse(x_0, before, torch.full_like(x_0, float(node))), before, last)
        expected += float(weight) * kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(consistency_prior_term(gammas, x_0), expected, rtol=1e-11, atol=1e-12)
    twice = torch.cat([x_0, x_0], dim=1)
    torch.testing.assert_close(consistency_prior_term(gammas, twice), 2 * consistency_prior_term(gammas, x_0))


def exact_notes(data: GaussianData, gammas: Tensor, reverse_var: Tensor, x_0: float) -> float:
    """The notes' form in exact expectation for one-dimensional data of mean 0: both means are linear in x_{t−1} and
    x_{t+1}, whose moments are those of the chain.
    """
    table, lam = Coefficients(gammas), data.eigenvalues[0]
    total = float(data.reconstruction(gammas, torch.tensor([[x_0]]))) + float(
        consistency_prior_term(gammas, torch.tensor([[x_0]], dtype=torch.float64))
    )
    for t in range(1, len(gammas) - 1):
        unit = torch.ones(1, 1, dtype=torch.float64)
        k = table.alpha_bar[t + 1].sqrt() * lam / (table.alpha_bar[t + 1] * lam + table.noise_var[t + 1])
        b = -float(
            posterior(k * unit, unit, gammas[t : t + 1], gammas[t + 1 : t + 2]).mean
        )  # the reverse mean is linear in x_{t+1}
        a = float(table.alpha[t].sqrt())
        before, after = table.alpha_bar[t - 1], table.alpha_bar[t + 1]
        mean = (a * before.sqrt() + b * after.sqrt()) * x_0
        covariance = (after / before).sqrt() * table.noise_var[t - 1]
        var = a * a * table.noise_var[t - 1] + b * b * table.noise_var[t + 1] + 2 * a * b * covariance
        ratio = table.beta[t] / reverse_var[t + 1]
        total += 0.5 * float((mean**2 + var) / reverse_var[t + 1] + ratio - 1 - ratio.log())
    return total


def test_the_notes_form_is_985_nats_where_the_truth_is_1_164() -> None:
    """x_0 = 0.7 of N(0, 1) data, linear β, T = 1000, the exact reverse process: the bound is tight, the notes' is not
    even near. The means of q(x_t|x_{t−1}) and p(x_t|x_{t+1}) lie √(2β) apart, which costs 999 summands a nat each.
    """
    data, gammas = GaussianData(torch.zeros(1), torch.eye(1)), gammas_of("linear", 1000)
    x_0, beta = torch.tensor([[0.7]], dtype=torch.float64), table_of("linear", 1000).beta
    truth = 0.5 * math.log(2 * math.pi) + 0.245
    assert truth == pytest.approx(1.1639, abs=5e-5)
    assert float(-data.log_prob(x_0)) == pytest.approx(truth, abs=1e-12)
    assert float(sum(data.bound(gammas, beta, x_0).values())) == pytest.approx(truth, abs=1e-9)
    assert float(sum(data.consistency(gammas, beta, x_0).values())) == pytest.approx(truth, abs=1e-9)
    wrong = exact_notes(data, gammas, beta, 0.7)
    assert wrong == pytest.approx(984.93, abs=5e-3)
    n = 30  # and the exact expectation of the wrong form is that of its samples
    rest = data.reconstruction(gammas, x_0) + consistency_prior_term(gammas, x_0)
    assert_mean(sampled_sum(data, gammas, "beta", x_0.expand(n, 1), notes) + rest, wrong)


# Entropy


def edge_reconstruction(table: Coefficients, x_0: Tensor) -> Tensor:
    """E_{q(x_1|x_0)}[−ln N(x_0; √α_1 x_1, β_1 I)] in closed form: x_0 − √α_1 x_1 = β_1 x_0 − √(α_1 β_1) ε."""
    beta, dims = table.beta[1], x_0.shape[1]
    return 0.5 * dims * (2 * math.pi * beta).log() + 0.5 * (beta * x_0.square().sum(1) + (1 - beta) * dims)


def cloud(data: GaussianData) -> Tensor:
    """2D points m ± √(Dλ_i) e_i over which quadratics average as over the data."""
    offsets = (D * data.eigenvalues).sqrt() * data.basis
    return torch.cat([data.mean + offsets.T, data.mean - offsets.T])


@every_schedule
@every_variance
def test_the_entropy_form_is_the_denoising_form_at_its_edge_condition(
    data: GaussianData, name: str, T: int, variance: str
) -> None:
    """Averaged over data with E‖x_0‖² = D, the decoder being N(√α_1 x_1, β_1 I); and nowhere else."""
    scale = (D / (data.mean.square().sum() + data.eigenvalues.sum())).sqrt()
    for factor, holds in ((1.0, True), (1.3, False)):
        scaled = GaussianData(factor * scale * data.mean, (factor * scale) ** 2 * data.cov)
        x_0, gammas, table = cloud(scaled), gammas_of(name, T), table_of(name, T)
        assert float(x_0.square().sum(1).mean()) == pytest.approx(factor**2 * D, rel=1e-12)
        diffusion = scaled.bound(gammas, var_of(gammas, variance), x_0)["diffusion"]
        reconstruction = edge_reconstruction(table, x_0)
        denoising = diffusion + reconstruction + prior_term(x_0, gammas[-1])
        entropy = diffusion + sum(entropy_terms(gammas, x_0).values())
        delta = entropy_difference(gammas, x_0, reconstruction)
        torch.testing.assert_close(entropy + delta, denoising, rtol=1e-12, atol=1e-12 * D)
        gap = float((denoising - entropy).mean())
        # ½ (β_1 + ᾱ_T)(E‖x_0‖² − D), by hand.
        by_hand = 0.5 * float(table.beta[1] + table.alpha_bar[-1]) * (factor**2 - 1) * D
        assert gap == pytest.approx(by_hand, rel=1e-6, abs=1e-10)
        assert (abs(gap) < 1e-9) == holds


@every_schedule
def test_the_entropies_are_those_of_the_process(name: str, T: int) -> None:
    gammas, table, x_0 = gammas_of(name, T), table_of(name, T), gaussians(4, 2, 3)
    terms = entropy_terms(gammas, x_0)
    one = Normal(0.0, table.beta[1].sqrt()).entropy()
    end = Normal(torch.zeros(()).double(), 1.0).entropy() - Normal(0.0, table.noise_var[-1].sqrt()).entropy()
    assert terms["edge"].tolist() == pytest.approx([6 * float(one)] * 4, rel=1e-12)
    assert terms["prior"].tolist() == pytest.approx([6 * float(end)] * 4, rel=1e-9, abs=100 * EPS)


# The network


def network(**settings: object) -> DDPM:
    """Random weights everywhere: the last convolution is zero at first."""
    torch.manual_seed(0)
    chosen = {"timesteps": 12, "schedule": "cosine", "objective": "simple", "widths": (8,), "attention": ()}
    chosen |= {"reverse_variance": "beta_tilde"} | settings
    model = DDPM.from_options(DDPMOptions.model_validate(chosen).resolved((1, 3, 2)), (1, 3, 2), 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


IMAGES = torch.tensor([0, 4, 2, 2, 1, 3], dtype=torch.uint8).reshape(1, 1, 3, 2)


def estimated(model: DDPM, form: str, n: int, timesteps: int, seed: int) -> dict[str, Tensor]:
    draws = Draws(seed, 0, range(n), n, torch.device("cpu"))
    with torch.no_grad():
        found = model.forms[form].estimate(IMAGES.expand(n, 1, 3, 2), draws, timesteps)
    return {**found.terms, **found.extras, "total": found.total}


@pytest.mark.parametrize("variance", get_args(DDPMOptions.model_fields["reverse_variance"].annotation))
@pytest.mark.parametrize("decoder", ["beta_1", "learned"])
@pytest.mark.parametrize("predict", ["v", "eps"])
def test_the_forms_of_a_network_agree(variance: str, decoder: str, predict: str) -> None:
    """Independent seeds for each form, all t or a few, on one image: pairwise within 3 combined standard errors."""
    model = network(reverse_variance=variance, decoder_variance=decoder, predict=predict)
    n, means, variances = 3000, [], []
    for seed, (form, timesteps) in enumerate((f, k) for f in BOUNDS for k in (11, 3) if f != "trajectory" or k == 11):
        total = estimated(model, form, n, timesteps, seed)["total"].double()
        means.append(float(total.mean()))
        variances.append(float(total.var()) / n)
    for i in range(len(means)):
        for j in range(i):
            assert abs(means[i] - means[j]) <= 3 * (variances[i] + variances[j]) ** 0.5


def test_the_consistency_form_pays_for_a_narrow_end() -> None:
    """At β_T = ½ its prior is larger than that of the denoising form by (D/2) ln 2 = 2 nats, and the bound is the same.

    By differences with the same noise, so that the 2 nats are ten standard errors or more.
    """
    model, n = network(schedule="linear", timesteps=40, reverse_variance="beta"), 1000
    one, two = (estimated(model, form, n, 39, 0) for form in ("denoising", "consistency"))
    difference = two["total"] - one["total"]
    assert_mean(difference, 0.0)
    narrow = float((two["prior"] - one["prior"]).mean())
    assert narrow == pytest.approx(3 * math.log(2), rel=1e-3)
    assert narrow > 10 * float(difference.std()) / n**0.5


def test_the_entropy_form_and_its_difference_are_the_bound() -> None:
    """Image by image with the same noise, to float32."""
    model = network()
    entropy, denoising = (estimated(model, form, 50, 4, 0) for form in ("entropy", "denoising"))
    torch.testing.assert_close(
        entropy["total"] + entropy["difference"], denoising["total"].double(), rtol=1e-5, atol=1e-5
    )
    assert float(entropy["difference"].abs().mean()) > 0.1


@pytest.mark.parametrize("T", [1, 2, 3])
@pytest.mark.parametrize("form", [*BOUNDS, "entropy"])
def test_few_steps_have_every_form(form: str, T: int) -> None:
    score = score_likelihood(network(timesteps=T), IMAGES.repeat(3, 1, 1, 1), form=form)
    assert bool(score.estimates().isfinite().all())
    assert score.evaluations == 2 * T


@pytest.mark.parametrize("form", [*BOUNDS, "entropy"])
def test_the_evaluations_of_a_form_are_counted(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is claimed is how often the network is asked, in images."""
    model, asked = network(), []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda x, t, **known: asked.append(len(x)) or forward(x, t, **known))
    score = score_likelihood(model, IMAGES.repeat(4, 1, 1, 1), form=form, timesteps=5)
    assert sum(asked) == 4 * score.evaluations


def test_a_form_gives_an_image_the_same_noise_in_any_batch() -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (6, 1, 3, 2), dtype=np.uint8))
    for form in BOUNDS:
        whole = score_likelihood(network(), x, form=form)
        for batch in (1, 4):
            again = score_likelihood(network(), x, form=form, batch=batch)
            torch.testing.assert_close(again.estimates(), whole.estimates(), rtol=1e-4, atol=1e-4)


def test_noise_comes_row_by_row_as_it_would_at_once() -> None:
    draws = Draws(3, 1, [4, 0, 7], 9, torch.device("cpu"))
    at_once, rows = draws.normal(Stream.SCORE_NOISE, (5, 3, 1)), draws.normal_iter(Stream.SCORE_NOISE, (3, 1))
    for k in range(5):
        assert torch.equal(next(rows), at_once[:, k])


@every_variance
def test_the_diffusion_term_is_the_divergence_from_the_reverse_step(variance: str) -> None:
    """One reverse step for all forms: the denoising form's term is the KL to it."""
    gammas = gammas_of("cosine", 30)
    before, gamma = gammas[1:-1], gammas[2:]
    x_0, eps, x_0_hat = (gaussians(29, 2, seed=seed) for seed in range(3))
    x_t = diffuse(x_0, gamma, eps)
    q, p = posterior(x_0, x_t, before, gamma), reverse_step(variance, x_0_hat, x_t, before, gamma)
    direct = kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(p.mean, p.var.sqrt())).sum(1)
    term = VARIANCES[variance].diffusion_term(from_x_0(x_0_hat, x_t, gamma), eps, before, gamma)
    torch.testing.assert_close(term, direct, rtol=1e-9, atol=1e-9)
