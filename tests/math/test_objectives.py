"""Learned reverse variances, and weights other than the bound's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from math_helpers import gammas_of, gaussians, table_of
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from nelbo.diffusion.denoiser import PREDICTIONS, Denoised, LinearPrediction, from_x_0
from nelbo.diffusion.objectives import OBJECTIVES, Objective, as_objective
from nelbo.diffusion.process import diffuse, posterior
from nelbo.diffusion.samplers import Ancestral
from nelbo.diffusion.schedules import SCHEDULES, Between, RectifiedFlow, Schedule
from nelbo.diffusion.variances import VARIANCES, LearnedVariance
from nelbo.errors import InputError
from nelbo.models._diffusion_loss import VARIANCE_WEIGHT
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.diffusion import Diffusion
from nelbo.rng import Draws, Stream
from nelbo.theory.exact import Coefficients

T = 30
WEIGHTED = ("simple", "min_snr", "max_snr", "sigmoid")
"""The objectives of a ddpm that are not the bound's."""


@pytest.fixture(params=["linear", "cosine", "sigmoid"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def steps(name: str, first: int = 1) -> tuple[Tensor, Tensor, Coefficients]:
    """γ_{t−1} and γ_t for t = first … T, and DDPM's tables."""
    gammas = gammas_of(name, T)
    return gammas[first - 1 : -1], gammas[first:], table_of(name, T)


def grid_weight(objective: str, gammas: Tensor) -> tuple[Tensor, Tensor]:
    """½ w(γ_t) γ′, what a chain's loss has on ‖ε − ε̂‖², and SNR_t, for t = 1 … T."""
    slope = T * gammas.diff()
    slope[0] = slope[1]
    return 0.5 * OBJECTIVES[objective]().weight(gammas[1:], slope) * slope, (-gammas[1:]).exp()


# The reverse variance


def test_the_ends_of_the_interpolation_are_the_fixed_variances(name: str) -> None:
    """v = 1 is β and v = 0 is β̃, for single steps and for jumps; at s = 0 nothing is added."""
    gammas, t = gammas_of(name, T), torch.arange(1, T + 1)
    for s in (t - 1, (t - 4).clamp(min=0)):
        x_t = gaussians(T, 3)
        for v, variance in ((1.0, "beta"), (0.0, "beta_tilde")):
            denoised = Denoised(x_t * 0.3, x_t, torch.full_like(x_t, v))
            learned = LearnedVariance().step(denoised, x_t, gammas[s], gammas[t])
            fixed = VARIANCES[variance].step(denoised, x_t, gammas[s], gammas[t])
            torch.testing.assert_close(learned.mean, fixed.mean)
            torch.testing.assert_close(learned.var, fixed.var.expand_as(learned.var), rtol=1e-10, atol=0)


def test_between_them_it_is_geometric(name: str) -> None:
    before, gamma, table = steps(name, 2)
    fraction = torch.rand(T - 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    var = LearnedVariance().var(Denoised(fraction, fraction, fraction), before, gamma)
    expected = table.beta[2:, None] ** fraction * table.beta_tilde[2:, None] ** (1 - fraction)
    torch.testing.assert_close(var, expected, rtol=1e-10, atol=0)


def test_its_term_is_the_divergence(name: str) -> None:
    """KL(q(x_{t−1}|x_t,x_0) ‖ p_θ) by torch.distributions, a variance for each pixel, and v also outside [0, 1]."""
    before, gamma, _ = steps(name, 2)
    x_0, eps, x_0_hat, fraction = (gaussians(T - 1, 4, seed=seed) for seed in range(4))
    x_t = diffuse(x_0, gamma, eps)
    denoised = from_x_0(x_0_hat, x_t, gamma)._replace(fraction=fraction)
    q, p = posterior(x_0, x_t, before, gamma), LearnedVariance().step(denoised, x_t, before, gamma)
    direct = kl_divergence(Normal(q.mean, q.var.sqrt().expand_as(q.mean)), Normal(p.mean, p.var.sqrt())).sum(1)
    found = LearnedVariance().diffusion_term(denoised, eps, before, gamma)
    torch.testing.assert_close(found, direct, rtol=1e-9, atol=1e-9)


def test_the_samplers_step_is_the_bounds(name: str) -> None:
    before, gamma, _ = steps(name, 2)
    x_t, x_0, fraction = (gaussians(T - 1, 4, seed=seed) for seed in range(3))
    denoised = Denoised(x_0, x_t, fraction, var=x_0.square())
    for variance in VARIANCES.values():
        ours, theirs = (
            Ancestral(variance).step(x_t, denoised, gamma, before),
            variance.step(denoised, x_t, before, gamma),
        )
        torch.testing.assert_close(ours.mean, theirs.mean)
        torch.testing.assert_close(ours.var, theirs.var)


def test_the_best_variance_is_the_mean_square() -> None:
    """With x̂_0 fixed, gradient descent on the term finds σ² = β̃ + E(μ̃ − μ_θ)² (Bao et al. 2022), where it lies inside.

    At t = 2 of the cosine schedule with an x̂_0 off by 0.05: to 2%, the error of 20,000 draws.
    """
    n, table, gammas = 20_000, table_of("cosine", T), gammas_of("cosine", T)
    before, gamma, x_0 = gammas[1].expand(n), gammas[2].expand(n), torch.zeros(n, 1, dtype=torch.float64)
    eps, wrong = gaussians(n, 1), 0.05 * gaussians(n, 1, seed=1)
    x_t = diffuse(x_0, gamma, eps)
    v = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([v], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        denoised = from_x_0(wrong, x_t, gamma)._replace(fraction=v.expand(n, 1))
        loss = LearnedVariance().diffusion_term(denoised, eps, before, gamma).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    one = v.detach()
    best = LearnedVariance().var(Denoised(one, one, one), gammas[[1]], gammas[[2]])
    gap = posterior(wrong, x_t, before, gamma).mean - posterior(x_0, x_t, before, gamma).mean
    expected = table.beta_tilde[2] + gap.square().mean()
    assert 0 < float(v.detach()) < 1
    assert float(best) == pytest.approx(float(expected), rel=0.02)


# Weights


@pytest.mark.parametrize("objective", WEIGHTED)
@pytest.mark.parametrize("predict", ["eps", "v", "x0"])
def test_the_three_views_of_a_weighted_loss_are_one(objective: str, predict: str, name: str) -> None:
    """w ‖x_0 − x̂_0‖² = w/SNR ‖ε − ε̂‖² = w/(SNR + 1) ‖v − v̂‖², for whatever a network of each kind says."""
    gammas = gammas_of(name, T)
    gamma, (of_eps, snr) = gammas[1:], grid_weight(objective, gammas)
    x_0, eps, output = (gaussians(T, 5, seed=seed) for seed in range(3))
    said = PREDICTIONS[predict](5, gammas).denoised(output, diffuse(x_0, gamma, eps), gamma)
    velocity = PREDICTIONS["v"](5, gammas)
    assert isinstance(velocity, LinearPrediction)
    v, v_hat = velocity.target(x_0, eps, gamma), velocity.target(said.x_0, said.eps, gamma)
    of_image = of_eps * snr * (x_0 - said.x_0).square().sum(1)
    torch.testing.assert_close(of_eps * (eps - said.eps).square().sum(1), of_image, rtol=1e-6, atol=1e-9)
    of_velocity = of_eps * snr / (snr + 1) * (v - v_hat).square().sum(1)
    torch.testing.assert_close(of_velocity, of_image, rtol=1e-6, atol=1e-9)


def test_the_weights_are_the_papers(name: str) -> None:
    """On ‖x_0 − x̂_0‖², with t uniform on the steps."""
    gammas = gammas_of(name, T)
    snr = (-gammas[1:]).exp()
    for objective, expected in {
        "simple": snr,
        "min_snr": snr.clamp(max=5.0),
        "max_snr": snr.clamp(min=1.0),
    }.items():
        weight, _ = grid_weight(objective, gammas)
        torch.testing.assert_close(weight * snr, expected, rtol=1e-12, atol=0)


# Objectives as integrals over γ, on N(0, s²) data with their exact denoiser: E‖ε − ε̂‖² = s² e^{−γ}/(s² e^{−γ} + 1)

SPREAD = 0.8
"""s."""
LOW, HIGH = -8.0, 6.0


def error(gamma: Tensor) -> Tensor:
    """E‖ε − ε̂‖²."""
    signal = SPREAD**2 * (-gamma).exp()
    return signal / (signal + 1)


def gauss(low: float, high: float, pieces: int = 40) -> tuple[Tensor, Tensor]:
    """Places and weights of Gauss's rule on [low, high], in pieces."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(20))
    edges = torch.linspace(low, high, pieces + 1, dtype=torch.float64)
    half = 0.5 * edges.diff()[:, None]
    return (edges[:-1, None] + half * (1 + nodes)).flatten(), (half * weights).flatten()


def curve_of(name: str) -> Schedule:
    """The part of a schedule with LOW ≤ γ ≤ HIGH, so that every definition is an integral over one range."""
    if name in ("linear_gamma", "learned"):
        return type(SCHEDULES[name]())(LOW, HIGH)
    return Between(SCHEDULES[name](), LOW, HIGH)  # type: ignore[arg-type]


@torch.no_grad()
def weighted(objective: Objective, name: str) -> float:
    """∫ ½ w(γ) γ′(t) E‖ε − ε̂‖² dt, as a model is trained."""
    t, dt = gauss(0.0, 1.0)
    gamma, slope = curve_of(name)(t)
    return float((0.5 * objective.weight(gamma, slope) * slope * error(gamma) * dt).sum())


def of_gamma(integrand: Tensor, gamma_weights: Tensor) -> float:
    return float((integrand * gamma_weights).sum())


every_curve = pytest.mark.parametrize("curve", list(SCHEDULES))


@every_curve
@torch.no_grad()
def test_what_is_a_mean_over_the_schedules_t_is_its_papers_mean(curve: str) -> None:
    """L_simple, min-SNR and max-SNR on ‖x_0 − x̂_0‖², and the bound plus 5 L_simple, written as their papers do."""
    t, dt = gauss(0.0, 1.0)
    gamma, slope = curve_of(curve)(t)
    snr, err = (-gamma).exp(), error(gamma)
    image = err / snr  # E‖x_0 − x̂_0‖²
    papers = {
        "simple": err,
        "min_snr": snr.clamp(max=5.0) * image,
        "max_snr": snr.clamp(min=1.0) * image,
        "hybrid": 0.5 * slope * err + 5.0 * err,
    }
    for name, integrand in papers.items():
        assert weighted(OBJECTIVES[name](), curve) == pytest.approx(float((integrand * dt).sum()), rel=1e-9)


@every_curve
def test_what_is_an_integral_over_gamma_does_not_depend_on_the_schedule(curve: str) -> None:
    """The bound; ½ ∫ sigmoid(2 − λ) E‖ε − ε̂‖² dλ (Kingma & Gao 2023); EDM and flow matching by their own scalings."""
    gamma, dg = gauss(LOW, HIGH)
    papers = {
        "bound": of_gamma(0.5 * error(gamma), dg),
        "sigmoid": of_gamma(0.5 * torch.sigmoid(2 + gamma) * error(gamma), dg),
    }
    # EDM (Karras et al. 2022, table 1): x + σ ε, ln σ ~ N(−1.2, 1.2²), (σ² + ½²)/(σ/2)² on E‖D − x‖² = s²σ²/(s² + σ²).
    log_sigma, dl = gauss(LOW / 2, HIGH / 2)
    sigma, density = log_sigma.exp(), Normal(-1.2, 1.2).log_prob(log_sigma).exp()
    factor = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    papers["edm"] = of_gamma(density * factor * SPREAD**2 * sigma**2 / (SPREAD**2 + sigma**2), dl)
    # Flow matching: x_t = (1 − t) x + t ε, u = ε − x, E‖u − E[u|x_t]‖² = var(u) − cov(u, x_t)²/var(x_t).
    ends = [1 / (1 + math.exp(-end / 2)) for end in (LOW, HIGH)]
    t, dt = gauss(*ends, pieces=400)
    var, cov = (1 - t) ** 2 * SPREAD**2 + t**2, t - (1 - t) * SPREAD**2
    papers["flow_matching"] = of_gamma(1 + SPREAD**2 - cov**2 / var, dt)
    for name, exact in papers.items():
        assert weighted(OBJECTIVES[name](), curve) == pytest.approx(exact, rel=1e-7), name


MONOTONE = {"bound", "sigmoid", "flow_matching"}
"""Whatever the schedule."""


@every_curve
@pytest.mark.parametrize("objective", list(OBJECTIVES))
@torch.no_grad()
def test_which_objectives_are_bounds_of_noised_images(objective: str, curve: str) -> None:
    t = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    gamma, slope = curve_of(curve)(t)
    found = OBJECTIVES[objective]().is_monotone(gamma, slope)
    if objective in MONOTONE:
        assert found
    elif objective == "edm" or (objective == "min_snr" and curve in ("linear", "cosine", "sigmoid", "rectified_flow")):
        assert not found
    elif objective == "max_snr" and curve != "learned":
        assert found
    density = OBJECTIVES["simple"]().is_monotone(gamma, slope)
    if objective in ("simple", "hybrid"):
        assert found == density
    if curve == "linear_gamma":  # whose density is even
        assert found == (objective != "edm")


@pytest.mark.parametrize("objective", sorted(MONOTONE))
def test_a_monotone_objective_is_a_mixture_of_bounds_of_noised_images(objective: str) -> None:
    """L_w = w(γ_0) B(γ_0) + ∫ w′(γ) B(γ) dγ − w(γ_1) B(γ_1), w′ ≥ 0 (Kingma & Gao 2023, theorem 1).

    B(γ), the bound of images with noise up to γ less the entropy of that noise, is E KL(q(z_γ|x) ‖ p(z_γ)): with the
    exact denoiser the information ½ ln(1 + s² e^{−γ}) that z_γ has of x.
    """
    gamma, dg = gauss(LOW, HIGH)
    gamma.requires_grad_()
    w = OBJECTIVES[objective]().weight(gamma, torch.ones_like(gamma))
    slope = torch.autograd.grad(w.sum(), gamma)[0] if w.requires_grad else torch.zeros_like(gamma)
    assert bool((slope >= 0).all())

    def information(at: Tensor) -> Tensor:
        return 0.5 * torch.log1p(SPREAD**2 * (-at).exp())

    ends = torch.tensor([LOW, HIGH], dtype=torch.float64)
    at_ends = OBJECTIVES[objective]().weight(ends, torch.ones_like(ends)) * information(ends)
    mixture = float(at_ends[0] - at_ends[1]) + of_gamma(slope * information(gamma.detach()), dg)
    assert mixture == pytest.approx(weighted(OBJECTIVES[objective](), "linear_gamma"), rel=1e-8)


def test_a_weight_of_ones_own() -> None:
    mine = as_objective(lambda gamma: torch.sigmoid(gamma + 2.0))
    assert weighted(mine, "cosine") == pytest.approx(weighted(OBJECTIVES["sigmoid"](), "cosine"), rel=1e-12)
    assert weighted(as_objective("sigmoid(k=2.0)"), "cosine") == weighted(OBJECTIVES["sigmoid"](), "cosine")
    with pytest.raises(InputError, match="did you mean 'min_snr'"):
        as_objective("minsnr")


def test_flow_matching_is_uniform_on_its_own_path() -> None:
    """On the rectified flow's schedule ½ w γ′ is 1/(1 − t)², that of ‖ε − ε̂‖² in ‖u − û‖²."""
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    gamma, slope = RectifiedFlow()(t)
    found = 0.5 * OBJECTIVES["flow_matching"]().weight(gamma, slope) * slope
    torch.testing.assert_close(found, 1 / (1 - t).square(), rtol=1e-12, atol=0)


# The loss of a model


def model(**settings: object) -> DDPM:
    torch.manual_seed(0)
    chosen = {"timesteps": 12, "widths": (8,), "attention": (), "decoder_variance": "beta_1"}
    chosen |= {"reverse_variance": "beta_tilde"} | settings
    made = DDPM.from_options(DDPMOptions.model_validate(chosen).resolved((1, 3, 2)), (1, 3, 2), 5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return made


def batch(n: int) -> tuple[Tensor, Draws]:
    x = torch.randint(0, 5, (n, 1, 3, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return x, Draws(0, 0, range(n), n, torch.device("cpu"))


@pytest.mark.parametrize("objective", WEIGHTED)
def test_a_weighted_objective_is_its_closed_form(objective: str) -> None:
    """E_t w_t ‖x_0 − x̂_0‖²/D from the loss's own noise and t; to float32."""
    made, (x, draws) = model(objective=objective), batch(64)
    found = made.loss(x, draws)
    t = 1 + (draws.spread(Stream.TRAIN_TIME) * 12).long().clamp(max=11)
    x_0, eps = x.float() / 2 - 1, draws.normal(Stream.TRAIN_NOISE, (1, 3, 2))
    table = Coefficients(made.timeline.chain())
    z = table.alpha_bar[t].sqrt()[:, None, None, None] * x_0 + table.noise_var[t].sqrt()[:, None, None, None] * eps
    x_0_hat = made.denoiser(z.float(), made.timeline.chain()[t]).x_0
    log_snr = table.snr.log()
    step = torch.cat([log_snr[1:2] - log_snr[2:3], log_snr[1:-1] - log_snr[2:]])  # at t = 1 that from 1 to 2
    weight = {
        "simple": table.snr[1:],
        "min_snr": table.snr[1:].clamp(max=5.0),
        "max_snr": table.snr[1:].clamp(min=1.0),
        "sigmoid": 0.5 * table.snr[1:] * torch.sigmoid(2 - log_snr[1:]) * 12 * step,
    }[objective][t - 1]
    torch.testing.assert_close(
        found.double(), weight * (x_0 - x_0_hat).double().square().flatten(1).mean(1), rtol=1e-4, atol=1e-6
    )


class Affine(nn.Module):
    """A network that says something of z and γ."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        return self.gain * z + 0.05 * gamma.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("curve", ["cosine", "rectified_flow", "linear_gamma"])
def test_in_continuous_time_the_loss_is_the_weighted_integrand(objective: str, curve: str) -> None:
    """½ w(γ) γ′(t) ‖ε − ε̂‖²/D at the loss's own t and ε, over the density of t; the decoder has nothing to learn."""
    made = Diffusion(Affine(), (1, 3, 2), 5, schedule=curve, objective=objective).eval()
    x, draws = batch(64)
    found = made.loss(x, draws)
    _, importance, place = made.profile.draw(draws.spread(Stream.TRAIN_TIME))
    t = place / made.profile.T
    gamma, slope = made.schedule(t)
    x_0, eps = x.double() / 2 - 1, draws.normal(Stream.TRAIN_NOISE, (1, 3, 2)).double()
    alpha_bar = (1 / (1 + gamma.exp()))[:, None, None, None]
    z = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps
    v = (0.3 * z + 0.05 * gamma[:, None, None, None]).double()
    eps_hat = (1 - alpha_bar).sqrt() * z + alpha_bar.sqrt() * v
    weight = importance * 0.5 * OBJECTIVES[objective]().weight(gamma, slope) * slope
    expected = weight * (eps - eps_hat).square().flatten(1).mean(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_in_l_hybrid_the_bound_trains_the_variance_alone() -> None:
    """L_simple + λ L_vlb: the gradient of the mean's outputs is L_simple's, that of v's outputs λ times the bound's."""
    made, (x, draws) = model(objective="simple", reverse_variance="learned"), batch(64)
    outputs: list[Tensor] = []
    forward = made.network.forward

    def noted(x_t: Tensor, t: Tensor, **known: Tensor) -> Tensor:
        outputs.append(forward(x_t, t, **known))
        outputs[-1].retain_grad()
        return outputs[-1]

    made.network.forward = noted
    made.loss(x, draws).sum().backward()
    grad = outputs[0].grad
    assert grad is not None
    t = 1 + (draws.spread(Stream.TRAIN_TIME) * 12).long().clamp(max=11)
    x_0, eps = x.float() / 2 - 1, draws.normal(Stream.TRAIN_NOISE, (1, 3, 2))
    gammas = made.timeline.chain()
    x_t = diffuse(x_0, gammas[t], eps)
    leaf = outputs[0].detach().requires_grad_()
    made.network.forward = lambda *_: leaf
    said = made.denoiser(x_t, gammas[t])
    simple = (eps - said.eps).square().flatten(1).mean(1).sum()
    (of_simple,) = torch.autograd.grad(simple, leaf, retain_graph=True)
    later = t > 1
    at = t.clamp(min=2)
    term = LearnedVariance().diffusion_term(
        made.denoiser(x_t, gammas[t])._replace(eps=said.eps), eps, gammas[at - 1], gammas[at]
    )
    (of_bound,) = torch.autograd.grad((VARIANCE_WEIGHT * 12 / 6 * term[later]).sum(), leaf)
    torch.testing.assert_close(grad[:, :1], of_simple[:, :1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(grad[:, 1:], of_bound[:, 1:], rtol=1e-4, atol=1e-7)
    assert float(of_bound[:, :1].abs().max()) > 0  # held back, not absent


def test_at_its_ends_the_term_is_that_of_a_fixed_variance(name: str) -> None:
    """Where v = 0 the term is that of β̃, where v = 1 that of β, for any error of the network."""
    before, gamma, table = steps(name, 2)
    eps = gaussians(T - 1, 4)
    eps_hat = eps + 0.2 * gaussians(T - 1, 4, seed=1)
    alpha, beta, noise_var = table.alpha[2:], table.beta[2:], table.noise_var[2:]
    for v, reverse in ((0.0, table.beta_tilde[2:]), (1.0, beta)):
        denoised = Denoised(eps, eps_hat, torch.full_like(eps, v))
        weight = beta.square() / (2 * reverse * alpha * noise_var)  # DDPM (12)
        ratio = table.beta_tilde[2:] / reverse
        expected = weight * (eps - eps_hat).square().sum(1) + 2 * (ratio - 1 - ratio.log())
        found = LearnedVariance().diffusion_term(denoised, eps, before, gamma)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
