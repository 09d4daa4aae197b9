"""Learned reverse variances, and weights that are not the bound's."""

from __future__ import annotations

import math

import pytest
import torch
from math_helpers import gaussians, schedule_of
from nelbo.bounds import VARIANCES, WEIGHTS, FixedVariance, LearnedVariance, diffusion_term
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from nelbo.diffusion import PARAMETERIZATIONS, Denoised, Process
from nelbo.diffusion.samplers import Ancestral
from nelbo.models.ddpm import DDPM, VARIANCE_WEIGHT, DDPMOptions
from nelbo.rng import Draws, Stream

T = 30


@pytest.fixture(params=["linear", "cosine", "sigmoid"])
def process(request: pytest.FixtureRequest) -> Process:
    return Process(schedule_of(request.param, T))


# The reverse variance


def test_the_ends_of_the_interpolation_are_the_fixed_variances(process: Process) -> None:
    """v = 1 is β and v = 0 is β̃, for single steps and for jumps; at s = 0 nothing is added."""
    t = torch.arange(1, T + 1)
    for s in (t - 1, (t - 4).clamp(min=0)):
        x_t = gaussians(T, 3)
        for v, name in ((1.0, "beta"), (0.0, "beta_tilde")):
            denoised = Denoised(x_t * 0.3, x_t, torch.full_like(x_t, v))
            learned = LearnedVariance().step(process, denoised, x_t, t, s)
            fixed = FixedVariance(name).step(process, denoised, x_t, t, s)
            torch.testing.assert_close(learned.mean, fixed.mean)
            torch.testing.assert_close(learned.var, fixed.var.expand_as(learned.var), rtol=1e-10, atol=0)


def test_between_them_it_is_geometric(process: Process) -> None:
    t, schedule = torch.arange(2, T + 1), process.schedule
    fraction = torch.rand(T - 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    var = LearnedVariance().var(process, fraction, t, t - 1)
    expected = schedule.beta[t, None] ** fraction * schedule.beta_tilde[t, None] ** (1 - fraction)
    torch.testing.assert_close(var, expected, rtol=1e-10, atol=0)


def test_its_term_is_the_divergence(process: Process) -> None:
    """KL(q(x_{t−1}|x_t,x_0) ‖ p_θ) by torch.distributions, a variance for each pixel, and v also outside [0, 1]."""
    t = torch.arange(2, T + 1)
    x_0, eps, x_0_hat, fraction = (gaussians(T - 1, 4, seed=seed) for seed in range(4))
    x_t = process.diffuse(x_0, t, eps)
    signal, noise = process.schedule.signal_rate[t, None], process.schedule.noise_rate[t, None]
    denoised = Denoised(x_0_hat, (x_t - signal * x_0_hat) / noise, fraction)
    q, p = process.posterior(x_0, x_t, t), LearnedVariance().step(process, denoised, x_t, t)
    direct = kl_divergence(Normal(q.mean, q.var.sqrt().expand_as(q.mean)), Normal(p.mean, p.var.sqrt())).sum(1)
    found = LearnedVariance().diffusion_term(process, denoised, eps, t)
    torch.testing.assert_close(found, direct, rtol=1e-9, atol=1e-9)


def test_the_samplers_step_is_the_bounds(process: Process) -> None:
    t = torch.arange(2, T + 1)
    x_t, x_0, fraction = (gaussians(T - 1, 4, seed=seed) for seed in range(3))
    denoised = Denoised(x_0, x_t, fraction)
    for name, variance in VARIANCES.items():
        ours, theirs = Ancestral(process, name).step(x_t, denoised, t, t - 1), variance.step(process, denoised, x_t, t)
        torch.testing.assert_close(ours.mean, theirs.mean)
        torch.testing.assert_close(ours.var, theirs.var)


def test_the_best_variance_is_the_mean_square() -> None:
    """With x̂_0 fixed, gradient descent on the term finds σ² = β̃ + E(μ̃ − μ_θ)² (Bao et al. 2022), where it lies inside.

    At t = 2 of the cosine schedule with an x̂_0 off by 0.05: to 2%, the error of 20,000 draws.
    """
    process, n = Process(schedule_of("cosine", T)), 20_000
    t, x_0 = torch.full((n,), 2), torch.zeros(n, 1, dtype=torch.float64)
    eps, wrong = gaussians(n, 1), 0.05 * gaussians(n, 1, seed=1)
    x_t = process.diffuse(x_0, t, eps)
    signal, noise = process.schedule.signal_rate[2], process.schedule.noise_rate[2]
    v = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([v], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        denoised = Denoised(wrong, (x_t - signal * wrong) / noise, v.expand(n, 1))
        loss = LearnedVariance().diffusion_term(process, denoised, eps, t).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    best = LearnedVariance().var(process, v.detach(), torch.tensor([2]), torch.tensor([1]))
    gap = process.posterior(wrong, x_t, t).mean - process.posterior(x_0, x_t, t).mean
    expected = process.schedule.beta_tilde[2] + gap.square().mean()
    assert 0 < float(v.detach()) < 1
    assert float(best) == pytest.approx(float(expected), rel=0.02)


# Weights


@pytest.mark.parametrize("name", list(WEIGHTS))
@pytest.mark.parametrize("predict", ["eps", "v", "x0"])
def test_the_three_views_of_a_weighted_loss_are_one(name: str, predict: str, process: Process) -> None:
    """w ‖x_0 − x̂_0‖² = w/SNR ‖ε − ε̂‖² = w/(SNR + 1) ‖v − v̂‖², for whatever a network of each kind says."""
    schedule, t = process.schedule, torch.arange(1, T + 1)
    w, snr = WEIGHTS[name](schedule)[t], schedule.snr[t]
    x_0, eps, output = (gaussians(T, 5, seed=seed) for seed in range(3))
    said = PARAMETERIZATIONS[predict](schedule).denoised(output, process.diffuse(x_0, t, eps), t)
    velocity = PARAMETERIZATIONS["v"](schedule)
    v, v_hat = velocity.target(x_0, eps, t), velocity.target(said.x_0, said.eps, t)
    of_image = w * (x_0 - said.x_0).square().sum(1)
    torch.testing.assert_close(w / snr * (eps - said.eps).square().sum(1), of_image, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(w / (snr + 1) * (v - v_hat).square().sum(1), of_image, rtol=1e-6, atol=1e-9)


def test_the_weights_are_the_papers(process: Process) -> None:
    snr = process.schedule.snr[1:]
    for name, expected in {
        "simple": snr,
        "min_snr": torch.minimum(snr, torch.tensor(5.0)),
        "max_snr": torch.maximum(snr, torch.tensor(1.0)),
    }.items():
        torch.testing.assert_close(WEIGHTS[name](process.schedule)[1:], expected.double())


def test_the_sigmoid_weight_is_an_integral_over_log_snr() -> None:
    """The mean over t of w_t/SNR_t tends to ½ ∫ sigmoid(2 − λ) dλ = ½ [softplus(2 − λ)], whatever the schedule.

    At T = 4,000, to 2%: a right-hand sum of a monotone integrand, and the double step at t = 1.
    """
    for name in ("cosine", "sigmoid"):
        schedule = schedule_of(name, 4000)
        found = float((WEIGHTS["sigmoid"](schedule) / schedule.snr)[1:].mean())
        ends = [math.log1p(math.exp(2 - float(schedule.snr[t].log()))) for t in (4000, 1)]
        assert found == pytest.approx(0.5 * (ends[0] - ends[1]), rel=0.02)


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


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_a_weighted_objective_is_its_closed_form(name: str) -> None:
    """E_t w_t ‖x_0 − x̂_0‖²/D from the loss's own noise and t; to float32."""
    made, (x, draws) = model(objective=name), batch(64)
    found = made.loss(x, draws)
    t = 1 + (draws.spread(Stream.TRAIN_TIME) * 12).long().clamp(max=11)
    x_0, eps = x.float() / 2 - 1, draws.normal(Stream.TRAIN_NOISE, (1, 3, 2))
    x_0_hat = made.denoise(made.process.diffuse(x_0, t, eps), t).x_0
    weight = WEIGHTS[name](made.process.schedule)[t]
    torch.testing.assert_close(
        found.double(), weight * (x_0 - x_0_hat).double().square().flatten(1).mean(1), rtol=1e-4, atol=1e-6
    )


def test_in_l_hybrid_the_bound_trains_the_variance_alone() -> None:
    """L_simple + λ L_vlb: the gradient of the mean's outputs is L_simple's, that of v's outputs λ times the bound's."""
    made, (x, draws) = model(objective="simple", reverse_variance="learned"), batch(64)
    outputs: list[Tensor] = []
    forward = made.network.forward
    made.network.forward = lambda x_t, t: outputs.append(forward(x_t, t)) or outputs[-1].retain_grad() or outputs[-1]
    made.loss(x, draws).sum().backward()
    grad = outputs[0].grad
    assert grad is not None
    t = 1 + (draws.spread(Stream.TRAIN_TIME) * 12).long().clamp(max=11)
    x_0, eps = x.float() / 2 - 1, draws.normal(Stream.TRAIN_NOISE, (1, 3, 2))
    x_t = made.process.diffuse(x_0, t, eps)
    leaf = outputs[0].detach().requires_grad_()
    made.network.forward = lambda *_: leaf
    said = made.denoise(x_t, t)
    simple = (eps - said.eps).square().flatten(1).mean(1).sum()
    (of_simple,) = torch.autograd.grad(simple, leaf, retain_graph=True)
    later = t > 1
    term = LearnedVariance().diffusion_term(made.process, said, eps, t.clamp(min=2))
    (of_bound,) = torch.autograd.grad((VARIANCE_WEIGHT * 12 / 6 * term[later]).sum(), leaf)
    torch.testing.assert_close(grad[:, :1], of_simple[:, :1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(grad[:, 1:], of_bound[:, 1:], rtol=1e-4, atol=1e-7)
    assert float(of_bound[:, :1].abs().max()) > 0  # held back, not absent


def test_at_its_ends_the_term_is_that_of_a_fixed_variance(process: Process) -> None:
    """Where v = 0 the term is that of β̃, where v = 1 that of β, for any error of the network."""
    t, eps = torch.arange(2, T + 1), gaussians(T - 1, 4)
    eps_hat = eps + 0.2 * gaussians(T - 1, 4, seed=1)
    for v, table in ((0.0, process.schedule.beta_tilde), (1.0, process.schedule.beta)):
        denoised = Denoised(eps, eps_hat, torch.full_like(eps, v))
        torch.testing.assert_close(
            LearnedVariance().diffusion_term(process, denoised, eps, t),
            diffusion_term(process, table, eps, eps_hat, t),
            rtol=1e-9,
            atol=1e-9,
        )
