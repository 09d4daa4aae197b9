"""Samplers against exact laws: with Gaussian data every sampler is affine, so its output's law is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import assert_mean, gaussians, random_cov, schedule_of, schedules_at_30
from nelbo.bounds import REVERSE_VARIANCES

from nelbo.diffusion import Denoised, Denoiser, Epsilon, Process
from nelbo.diffusion.samplers import (
    DDIM,
    Ancestral,
    Before,
    DPMSolver,
    Heun,
    Sampler,
    UniPC,
    clipped,
    exponential_weights,
    karras_times,
    times,
    trajectory,
)
from nelbo.diffusion.schedules import Schedule
from nelbo.errors import InputError
from nelbo.theory.exact import GaussianData

D = 3
MEAN, COV = torch.tensor([0.4, -0.7, 1.1], dtype=torch.float64), random_cov(D, seed=1)
MAKERS = {
    "ancestral beta": lambda process: Ancestral(process, "beta"),
    "ancestral beta_tilde": lambda process: Ancestral(process, "beta_tilde"),
    "ddim 0": lambda process: DDIM(process, 0.0),
    "ddim 0.5": lambda process: DDIM(process, 0.5),
    "ddim 1": lambda process: DDIM(process, 1.0),
}
every_sampler = pytest.mark.parametrize("maker", list(MAKERS))


Law = tuple[torch.Tensor, torch.Tensor]


def output_law(sampler: Sampler, denoiser: Denoiser, grid: list[int], start: Law | None = None) -> Law:
    """Mean and covariance of x_0 for x_T ~ N(0, I), or as ``start`` says.

    Each step is x ↦ A x + c plus noise, read off at D + 1 points.
    """
    mean, cov = start or (torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
    points = torch.cat([torch.zeros(1, D), torch.eye(D)]).double()
    for now, then in pairwise(grid):
        t, s = torch.full((D + 1,), now), torch.full((D + 1,), then)
        law = sampler.step(points, denoiser(points, t), t, s)
        offset, matrix = law.mean[0], (law.mean[1:] - law.mean[0]).T
        mean = matrix @ mean + offset
        cov = matrix @ cov @ matrix.T + float(law.var.flatten()[0]) * torch.eye(D)
    return mean, cov


def law_by_the_papers(maker: str, schedule: Schedule, grid: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same law from the papers' formulas in numpy, one eigenvalue of Σ at a time."""
    alpha_bar = np.cumprod(1 - schedule.beta.numpy())
    values, basis = np.linalg.eigh(COV.numpy())
    centre = basis.T @ MEAN.numpy()
    mean, var = np.zeros(D), np.ones(D)
    kind, detail = maker.split()
    for now, then in pairwise(grid):
        a_t, a_s = alpha_bar[now], alpha_bar[then]
        beta = 1 - a_t / a_s
        tilde = beta * (1 - a_s) / (1 - a_t)
        gain = np.sqrt(a_t) * values / (a_t * values + 1 - a_t)
        if kind == "ancestral":
            c_0, c_t = np.sqrt(a_s) * beta / (1 - a_t), np.sqrt(a_t / a_s) * (1 - a_s) / (1 - a_t)
            sigma_2 = (beta if detail == "beta" else tilde) * (then > 0)
        else:
            sigma_2 = float(detail) ** 2 * tilde
            c_eps = np.sqrt(max(0.0, 1 - a_s - sigma_2))
            c_0, c_t = np.sqrt(a_s) - c_eps * np.sqrt(a_t / (1 - a_t)), c_eps / np.sqrt(1 - a_t)
        slope = c_0 * gain + c_t
        mean = slope * mean + c_0 * (centre - gain * np.sqrt(a_t) * centre)
        var = slope**2 * var + sigma_2
    return basis @ mean, basis @ np.diag(var) @ basis.T


@schedules_at_30
@every_sampler
@pytest.mark.parametrize("steps", [30, 7])
def test_the_law_of_the_output_is_that_of_the_papers(name: str, maker: str, steps: int) -> None:
    """1e-9: the reference computes 1 − ᾱ with cancellation."""
    process = Process(schedule_of(name, 30))
    grid = times(30, steps)
    mean, cov = output_law(MAKERS[maker](process), GaussianData(MEAN, COV).denoiser(process), grid)
    expected_mean, expected_cov = law_by_the_papers(maker, process.schedule, grid)
    np.testing.assert_allclose(mean.numpy(), expected_mean, atol=1e-9)
    np.testing.assert_allclose(cov.numpy(), expected_cov, atol=1e-9)


@every_sampler
def test_trajectory_draws_from_that_law(maker: str) -> None:
    """The loop itself, with noise: 6,000 images of 30 steps. 3 s.e. for the means, 4 for 9 second moments."""
    n, T = 6000, 30
    process = Process(schedule_of("cosine", T))
    sampler, denoiser = MAKERS[maker](process), GaussianData(MEAN, COV).denoiser(process)
    grid = times(T, T)
    *_, last = trajectory(sampler, denoiser, gaussians(n, D, seed=50), grid, lambda k: gaussians(n, D, seed=51 + k))
    assert last.s == 0
    mean, cov = output_law(sampler, denoiser, grid)
    assert_mean(last.x, mean)
    centred = last.x - mean
    assert_mean((centred[:, :, None] * centred[:, None, :]).flatten(1), cov.flatten(), 4)


@every_sampler
def test_the_data_are_recovered_at_first_order_in_steps(maker: str) -> None:
    """The error of mean and covariance falls like 1/T, with all T steps of the linear schedule.

    The start is q(x_T) itself. From N(0, I), the √ᾱ_T m that is missing at T adds an error that no number of steps
    removes, since ᾱ_T hardly depends on T; the flow to t = 0 stretches it by √λ_max = √3 at most.
    """
    sizes, errors = [125, 250, 500, 1000], []
    for T in sizes:
        process = Process(schedule_of("linear", T))
        sampler, denoiser = MAKERS[maker](process), GaussianData(MEAN, COV).denoiser(process)
        alpha_bar = process.schedule.alpha_bar[T]
        start = alpha_bar.sqrt() * MEAN, alpha_bar * COV + (1 - alpha_bar) * torch.eye(D)
        mean, cov = output_law(sampler, denoiser, times(T, T), start)
        errors.append(max(float((mean - MEAN).abs().max()), float((cov - COV).abs().max())))
        from_prior, _ = output_law(sampler, denoiser, times(T, T))
        assert float((from_prior - mean).norm()) <= 1.01 * 3**0.5 * float(alpha_bar.sqrt() * MEAN.norm())
    assert errors[-1] < 0.02
    order = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert order == pytest.approx(1.0, abs=0.1)


def test_ddim_0_converges_to_the_probability_flow_at_first_order() -> None:
    """For Gaussian data the flow is exact: along an eigenvector of Σ, x_t − √ᾱ_t m scales as √(ᾱ_t λ + 1 − ᾱ_t).

    DDIM with η = 0 is Euler's method in σ̄ = √((1 − ᾱ)/ᾱ): the error's slope in log–log is −1.
    """
    T, counts = 4096, [32, 64, 128, 256, 512]
    process, data = Process(schedule_of("linear", T)), GaussianData(MEAN, COV)
    x_T = gaussians(20, D)
    alpha_bar = process.schedule.alpha_bar[T]
    scale = (data.eigenvalues / (alpha_bar * data.eigenvalues + 1 - alpha_bar)).sqrt()
    exact = data.mean + (scale * ((x_T - alpha_bar.sqrt() * data.mean) @ data.basis)) @ data.basis.T
    errors = []
    for steps in counts:
        *_, last = trajectory(DDIM(process), data.denoiser(process), x_T, times(T, steps), lambda k: x_T)
        errors.append(float((last.x - exact).abs().max()))
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order == pytest.approx(1.0, abs=0.1)


def flow_errors(sampler: Sampler, counts: list[int], data: GaussianData, process: Process) -> list[float]:
    """How far a sampler is from the exact flow at a fixed t > 0, in so many steps, even in t and so uneven in λ."""
    T, end = process.schedule.T, process.schedule.T // 8
    x_T, alpha_bar = gaussians(20, D), process.schedule.alpha_bar
    spread = [(alpha_bar[t] * data.eigenvalues + 1 - alpha_bar[t]).sqrt() for t in (T, end)]
    start = (x_T - alpha_bar[T].sqrt() * data.mean) @ data.basis
    exact = alpha_bar[end].sqrt() * data.mean + (start * spread[1] / spread[0]) @ data.basis.T
    errors = []
    for steps in counts:
        grid = [T - k * (T - end) // steps for k in range(steps + 1)]
        *_, last = trajectory(sampler, data.denoiser(process), x_T, grid, lambda k: x_T)
        errors.append(float((last.x - exact).abs().max()))
    return errors


def test_dpm_solver_converges_to_the_probability_flow_at_second_order() -> None:
    """Down to a fixed t > 0, steps even in t and so uneven in λ: the slope of the error is −2, and DDIM's is −1."""
    counts, orders = [28, 56, 112, 224], {}
    process, data = Process(schedule_of("linear", 4096)), GaussianData(MEAN, COV)
    for name, sampler in (("dpm++", DPMSolver(process)), ("ddim", DDIM(process))):
        errors = flow_errors(sampler, counts, data, process)
        orders[name] = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert orders["dpm++"] == pytest.approx(2.0, abs=0.2)
    assert orders["ddim"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("name", "order"), [("heun", 2.0), ("unipc", 3.0)])
def test_the_declared_order_is_the_measured_one(name: str, order: float) -> None:
    """The slope of the error in log–log, where rounding t to integers no longer shows."""
    process, data = Process(schedule_of("linear", 4096)), GaussianData(MEAN, COV)
    sampler = Heun(process, data.denoiser(process)) if name == "heun" else UniPC(process)
    counts = [28, 56, 112, 224]
    errors = flow_errors(sampler, counts, data, process)
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.25)


def test_weights_integrate_polynomials_against_the_exponential() -> None:
    """For D = λ², through three nodes, ∫ e^{λ−b} λ² dλ = [e^{λ−b}(λ² − 2λ + 2)]; for D = 1 the weights' sum."""
    times_, a, b = torch.tensor([[0.3, 1.1, -0.4]]).double(), torch.tensor([0.3]).double(), torch.tensor([2.9]).double()
    weights = exponential_weights(times_, a, b)

    def primitive(x: torch.Tensor) -> torch.Tensor:
        return (x - b).exp() * (x**2 - 2 * x + 2)

    torch.testing.assert_close((weights * times_**2).sum(1), primitive(b) - primitive(a), rtol=1e-13, atol=0)
    torch.testing.assert_close(weights.sum(1), 1 - (a - b).exp(), rtol=1e-13, atol=0)


@schedules_at_30
def test_unipc_and_heun_begin_and_end_with_ddim(name: str) -> None:
    """A first step of UniPC looks at one x̂_0, as DDIM does; to s = 0 every rule gives x̂_0."""
    process = Process(schedule_of(name, 30))
    x_t, denoised, t = arbitrary(30, process)
    half = slice(1, 30)
    said = Denoised(denoised.x_0[half], denoised.eps[half])
    ours = UniPC(process).step(x_t[half], said, t[half], t[half] - 1)
    theirs = DDIM(process, 0.0).step(x_t[half], said, t[half], t[half] - 1)
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-8, atol=1e-8)
    zero = torch.zeros_like(t)
    for sampler in (UniPC(process), Heun(process, lambda x, t: denoised)):
        torch.testing.assert_close(sampler.step(x_t, denoised, t, zero).mean, denoised.x_0, rtol=1e-9, atol=1e-10)


def test_karras_times_are_even_in_the_root_of_sigma() -> None:
    """On a fine grid, σ^{1/7} of the chosen t is even to the grid's spacing; from T to 1, then 0; none comes twice."""
    gamma = schedule_of("linear", 4096).gamma[1:]
    grid = karras_times(gamma, 12)
    assert (grid[0], grid[-2], grid[-1], len(grid)) == (4096, 1, 0, 13)
    roots = (gamma[torch.tensor(grid[:-1]) - 1] / 14).exp()
    steps = roots.diff()
    assert float(steps.std() / steps.mean().abs()) < 0.02
    for count in (1, 2, 29, 30):
        few = karras_times(schedule_of("cosine", 30).gamma[1:], count)
        assert few[0] == 30
        assert few[-1] == 0
        assert all(a > b for a, b in pairwise(few))
    with pytest.raises(InputError, match="--steps"):
        karras_times(gamma[:10], 11)


@schedules_at_30
def test_dpm_solver_is_ddim_where_it_cannot_look_back(name: str) -> None:
    """At its first step; and at the last, where x_0 is x̂_0, it does not."""
    process = Process(schedule_of(name, 30))
    x_t, denoised, t = arbitrary(30, process)
    for s in (t - 1, (t - 5).clamp(min=0)):
        ours, ddim = DPMSolver(process).step(x_t, denoised, t, s), DDIM(process, 0.0).step(x_t, denoised, t, s)
        torch.testing.assert_close(ours.mean, ddim.mean, rtol=1e-9, atol=1e-9)
        assert not bool(ours.var.any())
    half = slice(0, 29)
    said, then = Denoised(denoised.x_0[half], denoised.eps[half]), Denoised(denoised.x_0[1:], denoised.eps[1:])
    last = DPMSolver(process).step(x_t[half], said, t[half], 0 * t[half], Before(t[1:], then))
    torch.testing.assert_close(last.mean, said.x_0)


def arbitrary(T: int, process: Process, seed: int = 0) -> tuple[torch.Tensor, Denoised, torch.Tensor]:
    """One x_t at each t, and what some network might say of it."""
    t, x_t = torch.arange(1, T + 1), gaussians(T, 2, 3, seed=seed)
    return x_t, Epsilon(process.schedule).denoised(gaussians(T, 2, 3, seed=seed + 1), x_t, t), t


@schedules_at_30
def test_ddim_1_is_ancestral_with_beta_tilde(name: str) -> None:
    """Mean and variance, for any denoiser, at every step and over jumps. Round-off of x̂_0 of size 1/√ᾱ_t."""
    process = Process(schedule_of(name, 30))
    x_t, denoised, t = arbitrary(30, process)
    for s in (t - 1, t // 2, torch.zeros_like(t)):
        ddim = DDIM(process, 1.0).step(x_t, denoised, t, s)
        ancestral = Ancestral(process, "beta_tilde").step(x_t, denoised, t, s)
        size = 1 / process.schedule.signal_rate[t].reshape(-1, 1, 1)
        assert bool(((ddim.mean - ancestral.mean).abs() <= 1e-13 * size * x_t.abs().max()).all())
        torch.testing.assert_close(ddim.var, ancestral.var, rtol=1e-12, atol=0)


@schedules_at_30
@pytest.mark.parametrize("variance", list(REVERSE_VARIANCES))
def test_ancestral_is_the_posterior_with_the_models_variance(name: str, variance: str) -> None:
    """Over single steps: the model whose bound is scored, σ_t² from the same table as the bound's."""
    process = Process(schedule_of(name, 30))
    x_t, denoised, t = arbitrary(30, process)
    law = Ancestral(process, variance).step(x_t, denoised, t, t - 1)
    assert torch.equal(law.mean, process.posterior(denoised.x_0, x_t, t).mean)
    table = REVERSE_VARIANCES[variance](process.schedule)
    torch.testing.assert_close(law.var.flatten()[1:], table[2:], rtol=1e-12, atol=0)


@schedules_at_30
@pytest.mark.parametrize("variance", list(REVERSE_VARIANCES))
@given(grid=st.lists(st.integers(1, 29), min_size=1, max_size=8, unique=True).map(sorted))
def test_respaced_ancestral_is_ancestral_on_the_coarser_chain(name: str, variance: str, grid: list[int]) -> None:
    """The chain with β' = 1 − ᾱ_t/ᾱ_s between the kept steps is a chain in its own right."""
    fine = Process(schedule_of(name, 30))
    kept = torch.tensor([0, *grid, 30])
    alpha_bar = fine.schedule.alpha_bar[kept]
    coarse = Process(Schedule(1 - alpha_bar[1:] / alpha_bar[:-1]))
    K = len(kept) - 1
    x_t, x_0 = gaussians(K, 4), gaussians(K, 4, seed=1)
    denoised, k = Denoised(x_0, x_0), torch.arange(1, K + 1)
    here = Ancestral(fine, variance).step(x_t, denoised, kept[1:], kept[:-1])
    there = Ancestral(coarse, variance).step(x_t, denoised, k, k - 1)
    # 1 − ᾱ_t/ᾱ_s above cancels: an absolute error of ε in β', against 1 − ᾱ_1 ≥ 1e-3.
    torch.testing.assert_close(here.mean, there.mean, rtol=0, atol=1e-11)
    torch.testing.assert_close(here.var, there.var, rtol=1e-9, atol=1e-13)


@schedules_at_30
@every_sampler
def test_no_noise_at_the_last_step(name: str, maker: str) -> None:
    process = Process(schedule_of(name, 30))
    x_t, denoised, t = arbitrary(30, process)
    law = MAKERS[maker](process).step(x_t, denoised, t, torch.zeros_like(t))
    assert bool((law.var == 0).all())
    torch.testing.assert_close(law.mean, denoised.x_0, rtol=1e-12, atol=1e-13)


@every_sampler
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_trajectory_asks_for_noise_only_where_it_is_added(maker: str, steps: int) -> None:
    process = Process(schedule_of("linear", 30))
    asked: list[int] = []

    def noise(k: int) -> torch.Tensor:
        asked.append(k)
        return torch.zeros(2, D, dtype=torch.float64)

    denoiser, grid = GaussianData(MEAN, COV).denoiser(process), times(30, steps)
    states = list(trajectory(MAKERS[maker](process), denoiser, gaussians(2, D), grid, noise))
    assert [state.s for state in states] == grid[1:]
    assert asked == ([] if maker == "ddim 0" else list(range(steps - 1)))


@schedules_at_30
def test_clipping_keeps_x_t(name: str) -> None:
    process = Process(schedule_of(name, 30))
    x_t, denoised, t = arbitrary(30, process)
    held = clipped(process, denoised, x_t, t)
    assert bool((held.x_0.abs() <= 1).all())
    assert bool((held.x_0 == denoised.x_0.clamp(-1, 1)).all())
    assert bool((denoised.x_0.abs() > 1).any())
    torch.testing.assert_close(process.diffuse(held.x_0, t, held.eps), x_t, rtol=0, atol=1e-14 * 10)
    inside = Denoised(denoised.x_0.clamp(-0.9, 0.9), denoised.eps)
    assert torch.equal(clipped(process, inside, x_t, t).x_0, inside.x_0)


def test_trajectory_clips_only_if_told() -> None:
    process, x_T = Process(schedule_of("cosine", 30)), 3 * gaussians(8, D)
    denoiser = GaussianData(3 * MEAN, COV).denoiser(process)
    free = list(trajectory(DDIM(process), denoiser, x_T, times(30, 30), lambda k: x_T))
    held = list(trajectory(DDIM(process), denoiser, x_T, times(30, 30), lambda k: x_T, clip=process))
    assert max(float(state.denoised.x_0.abs().max()) for state in free) > 1
    assert max(float(state.denoised.x_0.abs().max()) for state in held) <= 1
    assert bool((held[-1].x.abs() <= 1 + 1e-12).all())


@given(st.integers(1, 5000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_times_go_down_from_T_to_0_evenly(case: tuple[int, int]) -> None:  # noqa: N802
    T, steps = case
    grid = times(T, steps)
    assert len(grid) == steps + 1
    assert grid[0] == T
    assert grid[-1] == 0
    assert all(now > then for now, then in pairwise(grid))
    assert all(abs(t - T * (steps - k) / steps) <= 0.5 for k, t in enumerate(grid))
    if T % steps == 0:
        assert grid == list(range(T, -1, -T // steps))


@pytest.mark.parametrize(("T", "steps"), [(10, 0), (10, 11), (10, -1), (1, 2)])
def test_times_refuses_what_is_not_there(T: int, steps: int) -> None:
    with pytest.raises(InputError) as refused:
        times(T, steps)
    assert refused.value.where == "--steps"


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_ddim_refuses_other_etas(eta: float) -> None:
    with pytest.raises(InputError):
        DDIM(Process(schedule_of("linear", 30)), eta)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@schedules_at_30
def test_ddim_keeps_the_marginals(name: str, eta: float) -> None:
    """With the true x_0 for a denoiser, x_s has q(x_s | x_0) for any η (Song et al. 2021, lemma 1)."""
    process = Process(schedule_of(name, 30))
    t = torch.arange(2, 31)
    for s in (t - 1, t // 2):
        x_0 = gaussians(29, 2)
        laws = []
        for eps in (torch.zeros_like(x_0), torch.ones_like(x_0)):
            x_t = process.diffuse(x_0, t, eps)
            laws.append(DDIM(process, eta).step(x_t, Denoised(x_0, eps), t, s))
        slope = laws[1].mean - laws[0].mean
        marginal = process.jump(x_0, s)
        torch.testing.assert_close(laws[0].mean, marginal.mean, rtol=0, atol=1e-14)
        var = slope.square() + laws[0].var
        torch.testing.assert_close(var, marginal.var.expand_as(var), rtol=1e-11, atol=0)
