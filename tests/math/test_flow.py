"""The probability flow, against closed forms for Gaussian data, and an enumerable model of one pixel."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gaussians, random_cov
from scipy.stats import kstest
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from nelbo.diffusion.bound import ContinuousBound
from nelbo.diffusion.denoiser import Denoised, Velocity, denoiser_of, from_x_0
from nelbo.diffusion.flow import (
    ExactDivergence,
    HutchinsonDivergence,
    ProbabilityFlow,
    noise_dequantised,
    signs,
    standard_normal,
    uniform_dequantised,
    velocity,
)
from nelbo.diffusion.ode import FlowLikelihood
from nelbo.diffusion.process import diffuse, rates
from nelbo.diffusion.schedules import LinearGamma
from nelbo.diffusion.timesteps import LossProfile
from nelbo.errors import InputError
from nelbo.metrics import LikelihoodScore
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.rng import Draws, Stream, uniform
from nelbo.theory.bound import SOLVER
from nelbo.theory.exact import GaussianData
from nelbo.theory.hierarchy import Decoder

LOW, HIGH = -7.0, 4.0
CPU = torch.device("cpu")
exact = ExactDivergence()


def at(gamma: float) -> Tensor:
    return torch.tensor([gamma], dtype=torch.float64)


def every_sign(dims: int) -> Tensor:
    """All 2^D probes, whose mean is the expectation over probes exactly, shape (2^D, D)."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=dims)), dtype=torch.float64)


# Divergences


def test_signs_are_even() -> None:
    assert signs(torch.tensor([0.0, 0.25, 0.499, 0.5, 0.75, 0.999])).tolist() == [-1, -1, -1, 1, 1, 1]


def test_divergences_of_a_network_are_the_jacobians_trace() -> None:
    """A random network over images of 2 × 1 × 2: the trace by torch.func, and ηᵀJη of each probe."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4), nn.Unflatten(1, (2, 1, 2)))
    network.double().requires_grad_(False)
    z, probe = gaussians(16, 2, 1, 2), every_sign(4).reshape(16, 2, 1, 2)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: network(z[None])[0]))(z).reshape(16, 4, 4)
    flat = probe.flatten(1)
    with torch.no_grad():
        value, trace = exact(network, z)
        again, estimate = HutchinsonDivergence(probe)(network, z)
    assert torch.equal(value, network(z))
    assert torch.equal(again, value)
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(estimate, torch.einsum("bi,bij,bj->b", flat, jacobian, flat), rtol=1e-11, atol=1e-13)


# Gaussian data: the flow stretches each eigenvector of Σ by √(ᾱ λ + 1 − ᾱ), from one γ to the other


def gaussian_data(dims: int) -> GaussianData:
    return GaussianData(gaussians(dims, seed=dims), random_cov(dims, seed=dims))


def marginal(data: GaussianData, gamma: float) -> MultivariateNormal:
    """The law of z at γ: N(√ᾱ m, ᾱ Σ + (1 − ᾱ) I)."""
    alpha_bar = 1 / (1 + math.exp(gamma))
    return MultivariateNormal(
        alpha_bar**0.5 * data.mean, alpha_bar * data.cov + (1 - alpha_bar) * torch.eye(len(data.mean))
    )


def gaussian_flow(data: GaussianData, tol: float = 1e-6) -> ProbabilityFlow:
    """The flow whose law is the data's at every γ."""
    return ProbabilityFlow(denoiser_of(data.denoise), LOW, HIGH, marginal(data, HIGH).log_prob, tol, tol)


def test_the_velocity_is_the_slope_of_the_exact_path() -> None:
    """√ᾱ m + c √(ᾱ λ + 1 − ᾱ) along each eigenvector, differentiated in γ by autograd."""
    data, c = gaussian_data(3), gaussians(5, 3)
    gamma = torch.linspace(-13, 6, 5, dtype=torch.float64)

    def path(gamma: Tensor) -> Tensor:
        alpha_bar = torch.sigmoid(-gamma)[:, None]
        scale = (alpha_bar * data.eigenvalues + torch.sigmoid(gamma)[:, None]).sqrt()
        return alpha_bar.sqrt() * data.mean + (scale * c) @ data.basis.T

    z, slope = torch.autograd.functional.jvp(path, gamma, torch.ones_like(gamma))
    denoise = denoiser_of(data.denoise)
    ours = torch.cat([velocity(denoise(z[k : k + 1], gamma[k : k + 1]), gamma[k : k + 1]) for k in range(5)])
    # Round-off of 1e-16 over the √(1 − ᾱ) ≥ 1e-3 of ε̂; β of one step carries some 1e-12.
    torch.testing.assert_close(ours, slope, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_the_likelihood_of_gaussian_data_is_exact(dims: int) -> None:
    data = gaussian_data(dims)
    z = 2 * marginal(data, LOW).mean + 1.5 * gaussians(12, dims, seed=1)  # likely and unlikely places
    density = gaussian_flow(data, 1e-7).log_prob(z, exact)
    # Tens of steps of 1e-7 each, of densities down to e^-100.
    torch.testing.assert_close(density.log_prob, marginal(data, LOW).log_prob(z), rtol=0, atol=1e-4)
    stretch = (marginal(data, HIGH).log_prob(density.latent) - density.log_prob).mean()
    assert abs(float(stretch)) > 0.1  # the divergence has something to say


def test_standard_normal_data_do_not_move() -> None:
    """v̂ = 0 where ᾱ Σ + 1 − ᾱ = I, and the terminal law is N(0, I) by default."""
    data, z = GaussianData(torch.zeros(3), torch.eye(3)), gaussians(6, 3)
    density = ProbabilityFlow(denoiser_of(data.denoise), LOW, HIGH).log_prob(z, exact)
    truth = MultivariateNormal(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)).log_prob(z)
    torch.testing.assert_close(density.latent, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(density.log_prob, truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(standard_normal(z.reshape(6, 3, 1, 1)), truth, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dims", [2, 4])
def test_one_probe_gives_its_own_integral_of_the_divergence(dims: int) -> None:
    """Hutchinson's estimate with one η held along the path: Σ (basisᵀη)² ½ ln of what each eigenvector is stretched.

    Any other η on the way would give another number.
    """
    data, probe = gaussian_data(dims), every_sign(dims)
    z = gaussians(len(probe), dims)
    density = gaussian_flow(data).log_prob(z, HutchinsonDivergence(probe))
    ends = [torch.linalg.eigvalsh(marginal(data, gamma).covariance_matrix) for gamma in (LOW, HIGH)]
    gain = (probe @ data.basis).square() @ (0.5 * (ends[1] / ends[0]).log())
    truth = marginal(data, HIGH).log_prob(density.latent) + gain
    torch.testing.assert_close(density.log_prob, truth, rtol=0, atol=1e-4)
    assert float(gain.std()) > 0.1


def test_the_mean_over_probes_is_the_exact_divergence() -> None:
    """Over all 2^D probes to the solver's tolerance, and over random ones within 4 standard errors."""
    data = gaussian_data(4)
    flow, z = gaussian_flow(data), gaussians(1, 4)
    truth = flow.log_prob(z, exact).log_prob
    every = flow.log_prob(z.expand(16, 4), HutchinsonDivergence(every_sign(4))).log_prob
    assert float(every.mean()) == pytest.approx(float(truth), abs=1e-4)
    probe = signs(uniform(0, Stream.SCORE_NOISE, 0, range(1000), (4,)))
    some = flow.log_prob(z.expand(1000, 4), HutchinsonDivergence(probe)).log_prob
    assert_mean(some, truth, 4)
    assert float(some.std()) > 0.1


def test_samples_of_the_flow_have_the_law_of_the_data() -> None:
    """Means and second moments of 4,000, within 4 s.e. (12 comparisons)."""
    data = gaussian_data(3)
    here, there = marginal(data, LOW), marginal(data, HIGH)
    noise = gaussians(4000, 3, seed=2)
    z = gaussian_flow(data).sample(there.mean + noise @ torch.linalg.cholesky(there.covariance_matrix).T)
    assert_mean(z, here.mean, 4)
    centred = z - here.mean
    assert_mean((centred[:, :, None] * centred[:, None, :]).flatten(1), here.covariance_matrix.flatten(), 4)


# One pixel of few levels: a denoiser with corners, and a flow that is monotone


P = torch.tensor([0.5, 0.03, 0.2, 0.07, 0.2], dtype=torch.float64)
X = torch.linspace(-1, 1, 5, dtype=torch.float64)


def log_joint(z: Tensor, gamma: Tensor) -> Tensor:
    """ln P(k) + ln N(z; √ᾱ x_k, 1 − ᾱ) for each pixel on its own, shape (B, …, 5)."""
    signal, noise = (rate[..., None] for rate in rates(gamma, z))
    return (P / (2 * math.pi) ** 0.5).log() - noise.log() - 0.5 * ((z[..., None] - signal * X) / noise).square()


def levels_denoiser(z: Tensor, gamma: Tensor) -> Denoised:
    """E[x|z] where the pixels are independent with law P."""
    return from_x_0(log_joint(z, gamma).softmax(-1) @ X, z, gamma)


def levels_log_prob(z: Tensor, gamma: float) -> Tensor:
    return log_joint(z, at(gamma)).logsumexp(-1).flatten(1).sum(1)


def levels_cdf(z: Tensor, gamma: float) -> Tensor:
    """P(z' ≤ z at γ) of one pixel."""
    signal, noise = rates(at(gamma), z[..., None])
    return torch.special.ndtr((z[..., None] - signal * X) / noise) @ P


def levels_flow(low: float, tol: float = 1e-5) -> ProbabilityFlow:
    """The flow whose law is that of the pixels at every γ."""
    return ProbabilityFlow(levels_denoiser, low, HIGH, lambda z: levels_log_prob(z, HIGH), tol, tol)


def levels_decoder(level: Tensor, low: float) -> Decoder:
    """−ln P(k|z) at γ_min."""

    def decode(z: Tensor) -> Tensor:
        log_p = log_joint(z, at(low)).log_softmax(-1)
        return -log_p.gather(-1, level[..., None]).flatten(1).sum(1)

    return decode


def images(n: int) -> Tensor:
    """Levels 0 … 4 of n images of 1 × 2 × 2 pixels."""
    return torch.from_numpy(np.random.default_rng(3).integers(0, 5, (n, 1, 2, 2)))


@pytest.mark.parametrize("low", [-13.3, -9.0, -5.0, -2.0])
def test_the_default_tolerance_is_good_to_a_thousandth_of_a_nat_per_pixel(low: float) -> None:
    level = images(20)
    z = diffuse(X[level], at(low), gaussians(*level.shape))
    density = levels_flow(low).log_prob(z, exact)
    torch.testing.assert_close(density.log_prob / 4, levels_log_prob(z, low) / 4, rtol=0, atol=1e-3)


def test_errors_fall_with_the_tolerance() -> None:
    z = diffuse(X[:, None].repeat(4, 1), at(LOW), gaussians(20, 1))
    truth, errors, evaluations = levels_log_prob(z, LOW), [], []
    for tol in (1e-3, 1e-5, 1e-7, 1e-9):
        density = levels_flow(LOW, tol).log_prob(z, exact)
        errors.append(float((density.log_prob - truth).abs().max()))
        evaluations.append(density.evaluations)
    assert all(after < before / 3 for before, after in itertools.pairwise(errors))
    assert errors[-1] < 1e-6
    assert all(after > before for before, after in itertools.pairwise(evaluations))


def test_the_density_integrates_to_one() -> None:
    """Of the flow from N(0, 1), which is not the data's law: by the trapezium rule, spectral for a smooth density."""
    z = torch.linspace(-5, 5, 1001, dtype=torch.float64)[:, None]
    density = ProbabilityFlow(levels_denoiser, -4.0, HIGH, rtol=1e-7, atol=1e-7).log_prob(z, exact)
    assert float(density.log_prob.exp().sum() * 0.01) == pytest.approx(1.0, abs=1e-5)


def test_samples_of_the_flow_have_the_law_of_the_levels() -> None:
    """In one dimension the flow maps quantiles onto quantiles; and a Kolmogorov–Smirnov test of 2,000 samples."""
    latent = 2 * gaussians(2000, 1, seed=4)
    z = levels_flow(-4.0, 1e-7).sample(latent)
    # A density of at most 1 at γ = −4 times an error of z of a few steps of 1e-7.
    torch.testing.assert_close(levels_cdf(z, -4.0), levels_cdf(latent, HIGH), rtol=0, atol=1e-5)
    level = torch.multinomial(P, 2000, replacement=True, generator=torch.Generator().manual_seed(0))
    drawn = levels_flow(-4.0).sample(diffuse(X[level, None], at(HIGH), gaussians(2000, 1, seed=5)))
    assert kstest(drawn.flatten().numpy(), lambda z: levels_cdf(torch.from_numpy(z), -4.0).numpy()).pvalue > 1e-3


def test_a_probe_is_exact_where_pixels_are_independent() -> None:
    """η_i² = 1: a diagonal Jacobian has ηᵀJη = tr J for every η."""
    level = images(16)
    z = diffuse(X[level], at(LOW), gaussians(*level.shape))
    probe = every_sign(4).reshape(16, 1, 2, 2)
    estimate = levels_flow(LOW).log_prob(z, HutchinsonDivergence(probe))
    truth = levels_flow(LOW).log_prob(z, exact)
    torch.testing.assert_close(estimate.log_prob, truth.log_prob, rtol=0, atol=1e-9)
    assert estimate.evaluations == truth.evaluations


def test_company_changes_an_answer_within_the_tolerance_only() -> None:
    """A hard example among 300 easy ones: 2e-3 nats off alone or not; a norm that averages over the batch, 9e-2."""
    hard = torch.tensor([[0.24]], dtype=torch.float64)  # in a valley between two levels
    crowd = diffuse(torch.zeros(300, 1, dtype=torch.float64), at(-5.0), 0.1 * gaussians(300, 1))
    flow = levels_flow(-5.0, 1e-4)
    alone = flow.log_prob(hard, exact).log_prob
    together = flow.log_prob(torch.cat([crowd, hard]), exact).log_prob[-1:]
    for answer in (alone, together):
        torch.testing.assert_close(answer, levels_log_prob(hard, -5.0), rtol=0, atol=3e-3)
    torch.testing.assert_close(together, alone, rtol=0, atol=3e-3)


@pytest.mark.parametrize("down", [False, True])
def test_the_denoiser_is_asked_as_often_as_is_said_and_never_outside(down: bool) -> None:
    asked = []

    def spy(z: Tensor, gamma: Tensor) -> Denoised:
        assert z.dtype == gamma.dtype == torch.float64
        assert gamma.shape == (3,)
        asked.append(float(gamma[0]))
        return levels_denoiser(z, gamma)

    flow = ProbabilityFlow(spy, LOW, HIGH)
    if down:
        flow.sample(gaussians(3, 1))
    else:
        assert flow.log_prob(diffuse(X[1:4, None], at(LOW), gaussians(3, 1)), exact).evaluations == len(asked)
    assert asked[0] == (HIGH if down else LOW)
    assert min(asked) >= LOW
    assert max(asked) <= HIGH
    assert max(asked) - min(asked) > 0.99 * (HIGH - LOW)


def test_a_frozen_float32_network_is_a_flow_like_any_other() -> None:
    """Its density integrates to one, under no_grad and not, and no gradient is left anywhere."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))

    def denoise(z: Tensor, gamma: Tensor) -> Denoised:
        v = network(torch.cat([z, gamma[:, None] / 10], 1).float())
        return Velocity().denoised(v, z, gamma)

    z = torch.linspace(-8, 8, 321, dtype=torch.float64)[:, None]
    flow = ProbabilityFlow(denoise, LOW, HIGH)
    free = flow.log_prob(z, exact).log_prob
    assert all(weight.grad is None for weight in network.parameters())
    network.requires_grad_(False)
    with torch.no_grad():
        frozen = flow.log_prob(z, exact).log_prob
    assert torch.equal(free, frozen)
    assert not free.requires_grad
    assert float((frozen - standard_normal(z)).abs().max()) > 0.1  # it is not the law at the end
    # The local tolerance is 1e-5; float32's 1e-7 is lost in it.
    assert float(frozen.exp().sum() * 0.05) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("roughness", [math.nan, math.inf, 1e9])
def test_a_path_that_cannot_be_followed_is_given_up(roughness: float) -> None:
    def denoise(z: Tensor, gamma: Tensor) -> Denoised:
        return Velocity().denoised((roughness * (z + gamma[:, None])).sin(), z, gamma)

    with pytest.raises(ArithmeticError, match="cannot be solved"):
        ProbabilityFlow(denoise, LOW, HIGH).log_prob(gaussians(3, 1), exact)


# From densities to levels


def test_uniform_dequantisation_is_the_density_of_x_times_the_volume() -> None:
    """x = x_0 + Δ(u − ½) has the density N(m, Σ + e^γ I) where z has N(√ᾱ m, ᾱ Σ + (1 − ᾱ) I)."""
    data, L = gaussian_data(3), 9
    x_0 = torch.from_numpy(np.random.default_rng(0).integers(0, L, (8, 3))) * (2 / (L - 1)) - 1
    u = torch.from_numpy(np.random.default_rng(1).random((8, 3)))
    estimate = uniform_dequantised(gaussian_flow(data), x_0, L, u, exact)
    law = MultivariateNormal(data.mean, data.cov + math.exp(LOW) * torch.eye(3))
    truth = -law.log_prob(x_0 + 0.25 * (u - 0.5)) - 3 * math.log(0.25)
    assert list(estimate.terms) == ["flow", "dequantisation"]
    torch.testing.assert_close(sum(estimate.terms.values()), truth, rtol=0, atol=1e-4)


def test_uniformly_dequantised_levels_have_the_mass_of_their_bins() -> None:
    """Quadrature over u against differences of Φ at the images of the bins' edges: the flow is monotone in one pixel.

    E_u[exp(−cost)] is P(k), which sum to one less the tails; exp(−E_u[cost]) is no more, level by level.
    """
    flow = ProbabilityFlow(levels_denoiser, -3.0, HIGH, rtol=1e-7, atol=1e-7)
    nodes, weights = (torch.from_numpy(part / 2) for part in np.polynomial.legendre.leggauss(24))
    x_0, u = X.repeat_interleave(24)[:, None], (nodes + 0.5).repeat(5)[:, None]
    estimate = uniform_dequantised(flow, x_0, 5, u, exact)
    cost = sum(estimate.terms.values()).reshape(5, 24)
    mass, bound = (-cost).exp() @ weights, (-(cost @ weights)).exp()
    signal, _ = rates(at(-3.0), X[:, None])
    edges = signal * torch.linspace(-1.25, 1.25, 6, dtype=torch.float64)[:, None]
    below = torch.special.ndtr(flow.log_prob(edges, exact).latent[:, 0])
    torch.testing.assert_close(mass, below.diff(), rtol=0, atol=1e-6)
    tails = below[0] + 1 - below[-1]
    assert float(mass.sum()) == pytest.approx(1 - float(tails), abs=1e-6)
    assert float(tails) > 1e-3
    assert bool((bound <= mass).all())
    assert 0.5 < float(bound.sum()) < float(mass.sum())


@pytest.mark.parametrize("low", [-9.0, -3.0])
def test_the_first_noise_gives_the_law_of_the_levels_at_every_z(low: float) -> None:
    """p(z) p(x|z)/q(z|x) = P(x) by Bayes' rule, whatever ε, for the right denoiser, decoder and terminal law."""
    level = images(12)
    flow = levels_flow(low, 1e-6)
    estimate = noise_dequantised(flow, X[level], gaussians(*level.shape), exact, levels_decoder(level, low))
    assert list(estimate.terms) == ["flow", "dequantisation", "reconstruction"]
    truth = -P.log()[level].flatten(1).sum(1)
    torch.testing.assert_close(sum(estimate.terms.values()), truth, rtol=0, atol=4e-4)
    spread = estimate.terms["dequantisation"].std()
    assert float(spread) > 0.5  # the terms vary with ε; their sum does not


def test_the_first_noises_dequantisation_is_its_negative_entropy_on_average() -> None:
    """E[ln q(z|x)] = −(D/2) ln(2πe (1 − ᾱ)), within 4 s.e."""
    data = gaussian_data(2)
    x_0 = torch.zeros(1000, 2, dtype=torch.float64)
    flow = gaussian_flow(data, 1e-3)
    weight = nn.Parameter(torch.ones(1))
    estimate = noise_dequantised(flow, x_0, gaussians(1000, 2), exact, lambda z: weight * z[:, 0])
    assert not any(term.requires_grad for term in estimate.terms.values())
    entropy = math.log(2 * math.pi * math.e / (1 + math.exp(-LOW)))
    assert_mean(estimate.terms["dequantisation"], -entropy, 4)


def test_the_evaluations_of_an_estimate_are_those_of_its_path() -> None:
    flow, x_0 = levels_flow(LOW), X[:, None]
    half = torch.full_like(x_0, 0.5)
    middle = flow.log_prob(rates(at(LOW), x_0)[0] * x_0, exact).evaluations
    assert uniform_dequantised(flow, x_0, 5, half, exact).evaluations == middle
    decoder = levels_decoder(torch.arange(5)[:, None], LOW)
    assert noise_dequantised(flow, x_0, 0 * half, exact, decoder).evaluations == middle


# How far a solution is off, and where its number says nothing


def by_runge_kutta(flow: ProbabilityFlow, z: Tensor, steps: int) -> Tensor:
    """ln p(z at γ_min) by the classical method of fourth order in equal steps, with the exact divergence."""
    gamma = torch.linspace(flow.gamma_min, flow.gamma_max, steps + 1, dtype=torch.float64)
    gain = torch.zeros(len(z), dtype=torch.float64)
    for here, there in itertools.pairwise(gamma):
        h, middle = there - here, (here + there) / 2
        k_1 = exact(flow.field(here), z)
        k_2 = exact(flow.field(middle), z + h / 2 * k_1[0])
        k_3 = exact(flow.field(middle), z + h / 2 * k_2[0])
        k_4 = exact(flow.field(there), z + h * k_3[0])
        z = z + h / 6 * (k_1[0] + 2 * k_2[0] + 2 * k_3[0] + k_4[0])
        gain = gain + h / 6 * (k_1[1] + 2 * k_2[1] + 2 * k_3[1] + k_4[1])
    return flow.terminal(z) + gain


class SilentDecoder:
    """A decoder that says nothing."""

    extras: tuple[str, ...] = ()
    rare_crossings = learned = False

    def nll(self, x: Tensor, denoised: Denoised, z: Tensor, gamma: Tensor) -> Tensor:
        return torch.zeros(x.shape)


def test_the_solvers_error_stands_beside_an_estimate_and_covers_it() -> None:
    """Gaussian data: where the flow ends is known, and so the number without the solver."""
    data, n = gaussian_data(4), 20

    def denoise(z: Tensor, gamma: Tensor) -> Denoised:
        return from_x_0(data.denoise(z.double().flatten(1), gamma).reshape(z.shape), z.double(), gamma)

    bound = ContinuousBound(denoise, SilentDecoder(), LinearGamma(LOW, HIGH), LossProfile(16), 9, (1, 2, 2), CPU)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (n, 1, 2, 2), dtype=np.uint8))
    draws = Draws(0, 0, range(n), n, torch.device("cpu"))
    found = FlowLikelihood(bound).by_noise(x, draws)
    eps = draws.normal(Stream.SCORE_NOISE, (1, 2, 2)).double()
    z = diffuse(x.double() / 4 - 1, at(LOW), eps).flatten(1)
    # Along each eigenvector the flow stretches by the ratio of the marginals' standard deviations.
    ends = [marginal(data, gamma) for gamma in (LOW, HIGH)]
    scale = [(data.basis.T @ end.covariance_matrix @ data.basis).diagonal().sqrt() for end in ends]
    latent = ends[1].mean + ((z - ends[0].mean) @ data.basis * scale[1] / scale[0]) @ data.basis.T
    truth = standard_normal(latent) + (scale[1] / scale[0]).log().sum()
    error = found.terms["flow"] + truth
    score = LikelihoodScore(
        {name: term[:, None].expand(n, 2) for name, term in found.terms.items()},
        4,
        1,
        {SOLVER: found.extras[SOLVER][:, None].expand(n, 2)},
    )
    assert 0 < abs(float(error.mean())) <= 2 * score.solver_error()
    assert score.solver_error() < 1e-2
    assert score.stderr_mc("flow") == pytest.approx(score.solver_error() / (4 * math.log(2)))
    assert score.stderr_mc() == score.stderr_mc("flow") <= score.stderr()
    assert score.stderr_mc("reconstruction") == 0
    assert score.minus(score).stderr_mc() > score.stderr_mc()


def test_a_trained_vdms_flow_is_runge_kuttas_within_its_error() -> None:
    """A small network with a law over levels after 40 steps: our own method in 160 equal steps, and in 80."""
    torch.manual_seed(0)
    shape, levels, n = (1, 1, 2), 5, 4
    options = VDMOptions(widths=(8,), attention=(), gamma_min=-8.0, gamma_max=4.0)
    model = VDM.from_options(options.resolved(shape), shape, levels)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (64, 1, 1, 1), dtype=np.uint8) * 3).expand(64, *shape)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(40):
        adam.zero_grad()
        model.loss(x, Draws(0, step, range(64), 64, torch.device("cpu"))).mean().backward()
        adam.step()
    model.eval()
    draws = Draws(0, 0, range(n), n, torch.device("cpu"))
    likelihood = FlowLikelihood(bound_of(model))
    found, flow = likelihood.by_noise(x[:n], draws), likelihood.flow
    z = diffuse(x[:n].double() / 2 - 1, flow.first_gamma(x[:n]), draws.normal(Stream.SCORE_NOISE, shape).double())
    fine, coarse = (by_runge_kutta(flow, z, steps) for steps in (160, 80))
    own = found.terms["flow"] + fine
    change = found.extras[SOLVER].square().mean().sqrt() + (fine - coarse).square().mean().sqrt()
    assert float(own.square().mean().sqrt()) <= 2 * float(change)
    assert float(change) < 0.05 * 2


def test_between_levels_there_is_only_the_distance_to_them() -> None:
    """Levels a = 18 standard deviations from the middle between two: uniformly, −ln p has a²/6 = 56 nats of distance.

    The adaptive solver finds the exact density, and 100 equal steps of fourth order step over the spikes.
    """
    low, level = -10.0, torch.linspace(-1, 1, 9, dtype=torch.float64)
    noise = math.exp(0.5 * low)
    a = 0.125 / noise

    def log_law(z: Tensor, gamma: Tensor) -> Tensor:
        signal, noise = (rate[..., None] for rate in rates(gamma, z))
        return (
            -math.log(9 * (2 * math.pi) ** 0.5) - noise.log() - 0.5 * ((z[..., None] - signal * level) / noise).square()
        )

    def log_prob(z: Tensor, gamma: float) -> Tensor:
        return log_law(z, at(gamma)).logsumexp(-1).flatten(1).sum(1)

    flow = ProbabilityFlow(
        lambda z, gamma: from_x_0(log_law(z, gamma).softmax(-1) @ level, z, gamma),
        low,
        HIGH,
        lambda z: log_prob(z, HIGH),
    )
    u = (torch.arange(8, dtype=torch.float64)[:, None] + 0.5) / 8 - 0.5
    z = rates(at(low), u)[0] * 0.25 * u
    truth = log_prob(z, low)
    at_a_level = log_prob(0 * z[:1], low)
    assert float((at_a_level - truth).mean()) == pytest.approx(a**2 / 6, rel=0.05)
    torch.testing.assert_close(flow.log_prob(z, exact).log_prob, truth, rtol=0, atol=0.05)
    assert float(by_runge_kutta(flow, z, 100).mean() - truth.mean()) > 10


@pytest.mark.parametrize(("levels", "has"), [(17, False), (256, True)])
def test_a_law_over_few_levels_has_no_uniform_form_and_says_why(levels: int, has: bool) -> None:
    model = VDM.from_options(VDMOptions(widths=(8,)).resolved((1, 2, 2)), (1, 2, 2), levels)
    assert ("ode-uniform" in model.forms) == has
    assert "ode" in model.forms
    if not has:
        with pytest.raises(
            InputError, match="up to 48 standard deviations from every level, which costs 389 nats per pixel"
        ):
            model.bound(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), form="ode-uniform")
