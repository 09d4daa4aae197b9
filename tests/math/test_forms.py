"""One number, several ways: the forms of the bound agree on the Gaussian oracle and on a network.

The decoder of the oracle is p(x_0|x_1) = N(x̂_0(x_1), β_1 I), and its denoiser is exact, so that every expectation of
the denoising and of the consistency form is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from math_helpers import EPS, assert_mean, every_schedule, gaussians, random_cov, schedule_of, schedules_at_30
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from nelbo.analytic import GaussianData
from nelbo.bounds import (
    REVERSE_VARIANCES,
    VARIANCES,
    consistency_log_ratio,
    consistency_prior_term,
    consistency_term,
    diffusion_term,
    entropy_difference,
    entropy_terms,
    neighbours,
    prior_term,
    trajectory_terms,
)
from nelbo.diffusion import Gaussian, Process
from nelbo.metrics import score_likelihood
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.rng import Draws, Stream
from nelbo.schedules import Schedule

D = 3
every_variance = pytest.mark.parametrize("variance", list(REVERSE_VARIANCES))
BOUNDS = ("denoising", "consistency", "trajectory")


@pytest.fixture
def data() -> GaussianData:
    return GaussianData(gaussians(D, seed=9), random_cov(D))


def noise_for(like: Tensor, seed: int = 0) -> Iterator[Tensor]:
    rng = np.random.default_rng(seed)
    while True:
        yield torch.from_numpy(rng.standard_normal(tuple(like.shape)))


def oracle_decoder(data: GaussianData, process: Process, x_0: Tensor) -> Callable[[Tensor], Tensor]:
    """−ln N(x_0; x̂_0(x_1), β_1 I), by torch.distributions."""
    denoise, std = data.denoiser(process), process.schedule.beta[1].sqrt()

    def decode(x_1: Tensor) -> Tensor:
        mean = denoise(x_1, torch.ones(len(x_1), dtype=torch.long)).x_0
        return -Normal(mean, std).log_prob(x_0).sum(1)

    return decode


def trajectories(data: GaussianData, process: Process, reverse_var: Tensor, x_0: Tensor) -> dict[str, Tensor]:
    """The terms of one trajectory per row of x_0."""
    decode = oracle_decoder(data, process, x_0)
    denoise = data.denoiser(process)

    def reverse(x_t: Tensor, t: Tensor) -> Gaussian:
        return reverse_step(process, reverse_var, denoise(x_t, t).x_0, x_t, t)

    return trajectory_terms(process, reverse, decode, x_0, noise_for(x_0))


def reverse_step(process: Process, reverse_var: Tensor, x_0_hat: Tensor, x_t: Tensor, t: Tensor) -> Gaussian:
    """p_θ(x_{t−1}|x_t) = N(μ̃(x̂_0, x_t), σ_t² I)  [DDPM (1), with the mean of (7)], from a table of σ_t²."""
    return Gaussian(process.posterior(x_0_hat, x_t, t).mean, reverse_var[t].reshape(-1, *[1] * (x_t.ndim - 1)))


# Trajectory


@schedules_at_30
@every_variance
def test_the_trajectory_forms_mean_is_the_exact_bound(data: GaussianData, name: str, variance: str) -> None:
    """Terms too: reconstruction is the same; prior is more, and diffusion less, by H_q(X_T|X_0)."""
    process, n = Process(schedule_of(name, 30)), 6000
    reverse_var = REVERSE_VARIANCES[variance](process.schedule)
    x_0 = data.sample(gaussians(1, D, seed=4))
    exact = {key: float(value) for key, value in data.bound(process, reverse_var, x_0).items()}
    terms = trajectories(data, process, reverse_var, x_0.expand(n, D))
    assert list(terms) == ["reconstruction", "diffusion", "prior"]
    assert all(value.dtype == torch.float64 and value.shape == (n,) for value in terms.values())
    assert_mean(sum(terms.values()), sum(exact.values()))
    entropy = D * float(Normal(0.0, process.schedule.noise_rate[-1]).entropy())
    assert_mean(terms["reconstruction"], exact["reconstruction"])
    assert_mean(terms["diffusion"], exact["diffusion"] - entropy)
    assert_mean(terms["prior"], exact["prior"] + entropy)


def test_every_trajectory_of_standard_normal_data_gives_the_likelihood() -> None:
    """For N(0, I) data and σ² = β both joints are one law, so ln q(x_{1:T}|x_0) − ln p_θ(x_{0:T}) = −ln p(x_0): no
    variance at all. 2000 densities of size up to 20, whose residues (x − μ)/σ have lost 1/√β_1 = 100: 1e-9.
    """
    process, x_0 = Process(schedule_of("linear", 1000)), 1.5 * gaussians(20, D)
    data = GaussianData(torch.zeros(D), torch.eye(D))
    total = sum(trajectories(data, process, process.schedule.beta, x_0).values())
    torch.testing.assert_close(total, -data.log_prob(x_0), rtol=0, atol=1e-9)
    tilde = sum(trajectories(data, process, process.schedule.beta_tilde, x_0).values())
    assert float((tilde + data.log_prob(x_0)).abs().min()) > 1e-3  # with another variance it does vary


@pytest.mark.parametrize("T", [1, 2])
def test_short_trajectories_are_their_densities(T: int) -> None:
    """Written out by torch.distributions for T = 1 and 2."""
    process, data = Process(Schedule(torch.tensor([0.3, 0.6][:T]))), GaussianData(gaussians(D), random_cov(D))
    x_0, beta = data.sample(gaussians(5, D, seed=1)), process.schedule.beta
    noise = noise_for(x_0)
    x_1 = (1 - beta[1]).sqrt() * x_0 + beta[1].sqrt() * next(noise)
    expected = Normal((1 - beta[1]).sqrt() * x_0, beta[1].sqrt()).log_prob(x_1).sum(1)
    expected += oracle_decoder(data, process, x_0)(x_1)
    last = x_1
    if T == 2:
        last = (1 - beta[2]).sqrt() * x_1 + beta[2].sqrt() * next(noise)
        two = torch.full((5,), 2)
        back = process.posterior(data.denoiser(process)(last, two).x_0, last, two)
        expected += Normal((1 - beta[2]).sqrt() * x_1, beta[2].sqrt()).log_prob(last).sum(1)
        expected -= Normal(back.mean, beta[2].sqrt()).log_prob(x_1).sum(1)
    expected -= Normal(0.0, 1.0).log_prob(last).sum(1)
    total = sum(trajectories(data, process, beta, x_0).values())
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)


# Consistency


@every_schedule
def test_bridge_is_bayes_rule(name: str, T: int) -> None:
    """q(x_t|x_{t−1},x_{t+1}) ∝ q(x_t|x_{t−1}) q(x_{t+1}|x_t): the logarithms differ by a constant in x_t, and the law
    is normalised, both at three points. At t = 1 it is the posterior with x_0, of the next step.
    """
    if T < 2:
        return
    process = Process(schedule_of(name, T))
    t = torch.arange(1, T)
    x_prev, x_next = gaussians(T - 1, 1), gaussians(T - 1, 1, seed=1)
    bridge = process.bridge(x_prev, x_next, t)

    def joint(x: Tensor) -> Tensor:
        return process.step(x_prev, t).log_prob(x) + process.step(x, t + 1).log_prob(x_next)

    rest = [joint(x) - bridge.log_prob(x) for x in (bridge.mean + k * bridge.var.sqrt() for k in (-1.5, 0.2, 2.0))]
    for other in rest[1:]:
        torch.testing.assert_close(other, rest[0], rtol=1e-9, atol=1e-9)
    one, two = torch.tensor([1]), torch.tensor([2])
    posterior = process.posterior(x_prev[:1], x_next[:1], two)
    torch.testing.assert_close(process.bridge(x_prev[:1], x_next[:1], one).mean, posterior.mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(bridge.var[:1], posterior.var, rtol=1e-9, atol=0)


def test_log_prob_of_a_gaussian_is_torchs() -> None:
    law, x = Process(schedule_of("linear", 50)).step(gaussians(49, 2), torch.arange(1, 50)), gaussians(49, 2, seed=1)
    torch.testing.assert_close(law.log_prob(x), Normal(law.mean, law.var.sqrt()).log_prob(x), rtol=1e-12, atol=1e-12)


@schedules_at_30
def test_neighbours_have_the_law_of_the_chain(name: str) -> None:
    """Means √ᾱ x_0 and covariances √(ᾱ_t/ᾱ_s)(1 − ᾱ_s) of x_{t−1}, x_t, x_{t+1}: 4 s.e. each, and x_0 itself at 0."""
    process, n = Process(schedule_of(name, 30)), 20_000
    x_0 = torch.full((n, 1), 0.7, dtype=torch.float64)
    for t in (1, 2, 17, 29):
        triple = neighbours(
            process, x_0, torch.full((n,), t), (gaussians(n, 1), gaussians(n, 1, seed=1), gaussians(n, 1, seed=2))
        )
        found = torch.cat(triple, dim=1)
        alpha_bar = process.schedule.alpha_bar[t - 1 : t + 2]
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
    process = Process(schedule_of(name, 30))
    reverse_var, t = REVERSE_VARIANCES[variance](process.schedule), torch.arange(1, 30)
    x_prev, zero = gaussians(29, 1), torch.zeros(29, dtype=torch.float64)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(4))
    mean, term = zero, zero
    for outer, w in zip(nodes, weights / weights.sum(), strict=True):
        x_t = process.step(x_prev, t).sample(outer)
        for inner, v in zip(nodes, weights / weights.sum(), strict=True):
            x_next = process.step(x_t, t + 1).sample(inner)
            reverse = reverse_step(process, reverse_var, 0.4 * x_next - 0.2, x_next, t + 1)
            mean = mean + w * v * consistency_log_ratio(process, reverse, x_prev, x_t, t)
            term = term + w * v * consistency_term(process, reverse, x_prev, x_next, t)
    assert term.shape == (29,)
    torch.testing.assert_close(term, mean, rtol=1e-9, atol=1e-9)


Summand = Callable[[Process, Gaussian, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(process, p_θ(x_t|x_{t+1}), x_{t−1}, x_t, x_{t+1}, t) → nats of one summand."""


def sampled(process: Process, reverse: Gaussian, x_prev: Tensor, x_t: Tensor, _: Tensor, t: Tensor) -> Tensor:
    return consistency_log_ratio(process, reverse, x_prev, x_t, t)


def integrated(process: Process, reverse: Gaussian, x_prev: Tensor, _: Tensor, x_next: Tensor, t: Tensor) -> Tensor:
    return consistency_term(process, reverse, x_prev, x_next, t)


def notes(process: Process, reverse: Gaussian, x_prev: Tensor, _: Tensor, __: Tensor, t: Tensor) -> Tensor:
    """The wrong summand, KL(q(x_t|x_{t−1}) ‖ p_θ(x_t|x_{t+1}))."""
    q, p = process.step(x_prev, t), reverse
    return kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(p.mean, p.var.sqrt())).sum(1)


def sampled_sum(data: GaussianData, process: Process, reverse_var: Tensor, x_0: Tensor, summand: Summand) -> Tensor:
    """The sum over t, one sample of the neighbours at each, with the exact denoiser; shape (n,) for x_0 of (n, D)."""
    denoise, noise = data.denoiser(process), noise_for(x_0)
    total = torch.zeros(len(x_0), dtype=torch.float64)
    for step in range(1, process.schedule.T):
        t = torch.full((len(x_0),), step)
        x_prev, x_t, x_next = neighbours(process, x_0, t, (next(noise), next(noise), next(noise)))
        reverse = reverse_step(process, reverse_var, denoise(x_next, t + 1).x_0, x_next, t + 1)
        total += summand(process, reverse, x_prev, x_t, x_next, t)
    return total


@schedules_at_30
@every_variance
@pytest.mark.parametrize("summand", [sampled, integrated], ids=["sampled", "integrated"])
def test_the_consistency_forms_mean_is_the_exact_bound(
    data: GaussianData, name: str, variance: str, summand: Summand
) -> None:
    process, n = Process(schedule_of(name, 30)), 3000
    reverse_var = REVERSE_VARIANCES[variance](process.schedule)
    x_0 = data.sample(gaussians(1, D, seed=4))
    bound = data.bound(process, reverse_var, x_0)
    rest = float(bound["reconstruction"] + consistency_prior_term(process, x_0))
    total = sampled_sum(data, process, reverse_var, x_0.expand(n, D), summand) + rest
    assert_mean(total, float(sum(bound.values())))


@every_variance
def test_the_notes_summand_fails_the_same_comparison(data: GaussianData, variance: str) -> None:
    """A mutation: with it the mean is off by tens of standard errors, so the test above would see it."""
    process, n = Process(schedule_of("linear", 30)), 3000
    reverse_var = REVERSE_VARIANCES[variance](process.schedule)
    x_0 = data.sample(gaussians(1, D, seed=4))
    bound = data.bound(process, reverse_var, x_0)
    rest = float(bound["reconstruction"] + consistency_prior_term(process, x_0))
    wrong = sampled_sum(data, process, reverse_var, x_0.expand(n, D), notes) + rest
    assert float((wrong.mean() - sum(bound.values())) / (wrong.std() / n**0.5)) > 30


@every_schedule
@every_variance
def test_both_forms_have_one_expectation(data: GaussianData, name: str, T: int, variance: str) -> None:
    """In closed form, at every T: sums of up to 1000 terms of either sign."""
    process = Process(schedule_of(name, T))
    reverse_var = REVERSE_VARIANCES[variance](process.schedule)
    x_0 = data.sample(gaussians(5, D, seed=4))
    denoising, consistency = data.bound(process, reverse_var, x_0), data.consistency(process, reverse_var, x_0)
    assert list(denoising) == list(consistency)
    torch.testing.assert_close(sum(consistency.values()), sum(denoising.values()), rtol=1e-10, atol=1e-8)


@schedules_at_30
@every_variance
def test_the_exact_consistency_terms_match_monte_carlo(data: GaussianData, name: str, variance: str) -> None:
    process = Process(schedule_of(name, 30))
    reverse_var = REVERSE_VARIANCES[variance](process.schedule)
    x_0 = data.sample(gaussians(1, D, seed=4))
    exact = data.consistency(process, reverse_var, x_0)
    assert_mean(sampled_sum(data, process, reverse_var, x_0.expand(3000, D), integrated), float(exact["diffusion"]))


@every_schedule
def test_the_consistency_prior_is_its_expectation(name: str, T: int) -> None:
    """KL(q(x_T|x_{T−1}) ‖ N(0, I)) by torch.distributions, integrated over x_{T−1} by Gauss–Hermite (exact)."""
    process, x_0 = Process(schedule_of(name, T)), gaussians(4, 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    last = torch.full((4,), T)
    expected = torch.zeros(4, dtype=torch.float64)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        q = process.step(process.diffuse(x_0, last - 1, torch.full_like(x_0, float(node))), last)
        expected += float(weight) * kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(consistency_prior_term(process, x_0), expected, rtol=1e-11, atol=1e-12)
    twice = torch.cat([x_0, x_0], dim=1)
    torch.testing.assert_close(consistency_prior_term(process, twice), 2 * consistency_prior_term(process, x_0))


def exact_notes(data: GaussianData, process: Process, reverse_var: Tensor, x_0: float) -> float:
    """The notes' form in exact expectation for one-dimensional data of mean 0: both means are linear in x_{t−1} and
    x_{t+1}, whose moments are those of the chain.
    """
    table, lam = process.schedule, data.eigenvalues[0]
    total = float(data.reconstruction(process, torch.tensor([[x_0]]))) + float(
        consistency_prior_term(process, torch.tensor([[x_0]], dtype=torch.float64))
    )
    for t in range(1, table.T):
        at_next = torch.tensor([t + 1])
        unit = torch.ones(1, 1, dtype=torch.float64)
        k = table.alpha_bar[t + 1].sqrt() * lam / (table.alpha_bar[t + 1] * lam + table.noise_var[t + 1])
        b = -float(process.posterior(k * unit, unit, at_next).mean)  # the reverse mean is linear in x_{t+1}
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
    data, process = GaussianData(torch.zeros(1), torch.eye(1)), Process(schedule_of("linear", 1000))
    x_0, beta = torch.tensor([[0.7]], dtype=torch.float64), process.schedule.beta
    truth = 0.5 * math.log(2 * math.pi) + 0.245
    assert truth == pytest.approx(1.1639, abs=5e-5)
    assert float(-data.log_prob(x_0)) == pytest.approx(truth, abs=1e-12)
    assert float(sum(data.bound(process, beta, x_0).values())) == pytest.approx(truth, abs=1e-9)
    assert float(sum(data.consistency(process, beta, x_0).values())) == pytest.approx(truth, abs=1e-9)
    wrong = exact_notes(data, process, beta, 0.7)
    assert wrong == pytest.approx(984.93, abs=5e-3)
    n = 30  # and the exact expectation of the wrong form is that of its samples
    rest = data.reconstruction(process, x_0) + consistency_prior_term(process, x_0)
    assert_mean(sampled_sum(data, process, beta, x_0.expand(n, 1), notes) + rest, wrong)


# Entropy


def edge_reconstruction(process: Process, x_0: Tensor) -> Tensor:
    """E_{q(x_1|x_0)}[−ln N(x_0; √α_1 x_1, β_1 I)] in closed form: x_0 − √α_1 x_1 = β_1 x_0 − √(α_1 β_1) ε."""
    beta, dims = process.schedule.beta[1], x_0.shape[1]
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
        x_0, process = cloud(scaled), Process(schedule_of(name, T))
        assert float(x_0.square().sum(1).mean()) == pytest.approx(factor**2 * D, rel=1e-12)
        diffusion = scaled.bound(process, REVERSE_VARIANCES[variance](process.schedule), x_0)["diffusion"]
        reconstruction = edge_reconstruction(process, x_0)
        denoising = diffusion + reconstruction + prior_term(process, x_0)
        entropy = diffusion + sum(entropy_terms(process, x_0).values())
        delta = entropy_difference(process, x_0, reconstruction)
        torch.testing.assert_close(entropy + delta, denoising, rtol=1e-12, atol=1e-12 * D)
        gap = float((denoising - entropy).mean())
        # ½ (β_1 + ᾱ_T)(E‖x_0‖² − D), by hand.
        by_hand = 0.5 * float(process.schedule.beta[1] + process.schedule.alpha_bar[-1]) * (factor**2 - 1) * D
        assert gap == pytest.approx(by_hand, rel=1e-6, abs=1e-10)
        assert (abs(gap) < 1e-9) == holds


@every_schedule
def test_the_entropies_are_those_of_the_process(name: str, T: int) -> None:
    process, x_0 = Process(schedule_of(name, T)), gaussians(4, 2, 3)
    terms = entropy_terms(process, x_0)
    one = Normal(0.0, process.schedule.beta[1].sqrt()).entropy()
    end = Normal(torch.zeros(()).double(), 1.0).entropy() - Normal(0.0, process.schedule.noise_rate[-1]).entropy()
    assert terms["edge"].tolist() == pytest.approx([6 * float(one)] * 4, rel=1e-12)
    assert terms["prior"].tolist() == pytest.approx([6 * float(end)] * 4, rel=1e-9, abs=100 * EPS)


# The network


def network(**settings: object) -> DDPM:
    """Random weights everywhere: the last convolution is zero at first."""
    torch.manual_seed(0)
    chosen = {"timesteps": 12, "schedule": "cosine", "objective": "simple", "widths": (8,), "attention": ()}
    chosen |= {"reverse_variance": "beta_tilde"} | settings
    model = DDPM(DDPMOptions.model_validate(chosen).resolved((1, 3, 2)), (1, 3, 2), 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


IMAGES = torch.tensor([0, 4, 2, 2, 1, 3], dtype=torch.uint8).reshape(1, 1, 3, 2)


def estimated(model: DDPM, form: str, n: int, timesteps: int, seed: int) -> dict[str, Tensor]:
    draws = Draws(seed, 0, range(n), n, torch.device("cpu"))
    with torch.no_grad():
        found = model.forms[form].estimate(IMAGES.expand(n, 1, 3, 2), draws, timesteps)
    return {**found.terms, **found.beside, "total": found.total}


@pytest.mark.parametrize("variance", list(VARIANCES))
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
    monkeypatch.setattr(model.network, "forward", lambda x, t: asked.append(len(x)) or forward(x, t))
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


def test_the_diffusion_term_is_the_divergence_from_the_reverse_step() -> None:
    """One reverse step for all forms: the denoising form's term is the KL to it."""
    process = Process(schedule_of("cosine", 30))
    t, reverse_var = torch.arange(2, 31), process.schedule.beta
    x_0, eps, x_0_hat = (gaussians(29, 2, seed=seed) for seed in range(3))
    x_t = process.diffuse(x_0, t, eps)
    table = process.schedule
    eps_hat = (x_t - table.signal_rate[t, None] * x_0_hat) / table.noise_rate[t, None]
    q, p = process.posterior(x_0, x_t, t), reverse_step(process, reverse_var, x_0_hat, x_t, t)
    direct = kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(p.mean, p.var.sqrt())).sum(1)
    torch.testing.assert_close(diffusion_term(process, reverse_var, eps, eps_hat, t), direct, rtol=1e-9, atol=1e-9)
