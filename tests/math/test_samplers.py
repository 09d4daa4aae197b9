"""Samplers, against exact distributions: on Gaussian data every sampler is affine, so its output is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import assert_mean, gammas_of, gaussians, random_cov, schedules_at_30, table_of

from nelbo.diffusion.denoiser import Denoised, Denoiser, Epsilon, clipped, denoiser_of
from nelbo.diffusion.process import CLEAN, diffuse, marginal, posterior
from nelbo.diffusion.samplers import (
    DDIM,
    Ancestral,
    Before,
    DPMSolver,
    Heun,
    Sampler,
    UniPC,
    exponential_weights,
    trajectory,
)
from nelbo.diffusion.schedules import SCHEDULES, FixedSchedule, chain_of, gamma_of_betas
from nelbo.diffusion.spacing import descending, even_steps, karras_steps, nearest_steps
from nelbo.diffusion.variances import VARIANCES
from nelbo.errors import InputError
from nelbo.models.diffusion import Diffusion
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.theory.exact import Coefficients, GaussianData
from nelbo.theory.normal import Gaussian

D = 3
MEAN, COV = torch.tensor([0.4, -0.7, 1.1], dtype=torch.float64), random_cov(D, seed=1)
DATA = GaussianData(MEAN, COV)
EXACT = denoiser_of(DATA.denoise)
MAKERS = {
    "ancestral beta": Ancestral(VARIANCES["beta"]),
    "ancestral beta_tilde": Ancestral(VARIANCES["beta_tilde"]),
    "ddim 0": DDIM(0.0),
    "ddim 0.5": DDIM(0.5),
    "ddim 1": DDIM(1.0),
}
every_sampler = pytest.mark.parametrize("maker", list(MAKERS))
every_variance = pytest.mark.parametrize("variance", ["beta", "beta_tilde"])


Law = tuple[torch.Tensor, torch.Tensor]


def output_law(sampler: Sampler, denoiser: Denoiser, grid: torch.Tensor, start: Law | None = None) -> Law:
    """Mean and covariance of x_0 for x_T ~ N(0, I), or as ``start`` says.

    Each step is x ↦ A x + c plus noise, read off at D + 1 points.
    """
    mean, cov = start or (torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
    points = torch.cat([torch.zeros(1, D), torch.eye(D)]).double()
    for now, then in pairwise(grid):
        t, s = now.expand(D + 1), then.expand(D + 1)
        law = sampler.step(points, denoiser(points, t), t, s)
        offset, matrix = law.mean[0], (law.mean[1:] - law.mean[0]).T
        mean = matrix @ mean + offset
        cov = matrix @ cov @ matrix.T + float(law.var.flatten()[0]) * torch.eye(D)
    return mean, cov


def law_by_the_papers(maker: str, table: Coefficients, grid: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same law from the papers' formulas in numpy, one eigenvalue of Σ at a time."""
    alpha_bar = np.cumprod(table.alpha.numpy())
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
    gammas = gammas_of(name, 30)
    grid = even_steps(len(gammas) - 1, steps)
    mean, cov = output_law(MAKERS[maker], EXACT, gammas[grid])
    expected_mean, expected_cov = law_by_the_papers(maker, table_of(name, 30), grid)
    np.testing.assert_allclose(mean.numpy(), expected_mean, atol=1e-9)
    np.testing.assert_allclose(cov.numpy(), expected_cov, atol=1e-9)


@every_sampler
def test_trajectory_draws_from_that_law(maker: str) -> None:
    """The loop itself, with noise: 6,000 images of 30 steps. 3 s.e. for the means, 4 for 9 second moments."""
    n, sampler, grid = 6000, MAKERS[maker], descending(gammas_of("cosine", 30))
    *_, last = trajectory(sampler, EXACT, gaussians(n, D, seed=50), grid, lambda k: gaussians(n, D, seed=51 + k))
    assert last.gamma == CLEAN
    mean, cov = output_law(sampler, EXACT, grid)
    assert_mean(last.z, mean)
    centred = last.z - mean
    assert_mean((centred[:, :, None] * centred[:, None, :]).flatten(1), cov.flatten(), 4)


@every_sampler
def test_the_data_are_recovered_at_first_order_in_steps(maker: str) -> None:
    """The error of mean and covariance falls like 1/T, with all T steps of the linear schedule.

    The start is q(x_T) itself. From N(0, I), the √ᾱ_T m that is missing at T adds an error that no number of steps
    removes, since ᾱ_T hardly depends on T; the flow to t = 0 stretches it by √λ_max = √3 at most.
    """
    sizes, errors = [125, 250, 500, 1000], []
    for T in sizes:
        sampler, grid = MAKERS[maker], descending(gammas_of("linear", T))
        alpha_bar = table_of("linear", T).alpha_bar[T]
        start = alpha_bar.sqrt() * MEAN, alpha_bar * COV + (1 - alpha_bar) * torch.eye(D)
        mean, cov = output_law(sampler, EXACT, grid, start)
        errors.append(max(float((mean - MEAN).abs().max()), float((cov - COV).abs().max())))
        from_prior, _ = output_law(sampler, EXACT, grid)
        assert float((from_prior - mean).norm()) <= 1.01 * 3**0.5 * float(alpha_bar.sqrt() * MEAN.norm())
    assert errors[-1] < 0.02
    order = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert order == pytest.approx(1.0, abs=0.1)


def test_ddim_0_converges_to_the_probability_flow_at_first_order() -> None:
    """For Gaussian data the flow is exact: along an eigenvector of Σ, x_t − √ᾱ_t m scales as √(ᾱ_t λ + 1 − ᾱ_t).

    DDIM with η = 0 is Euler's method in σ̄ = √((1 − ᾱ)/ᾱ): the error's slope in log–log is −1.
    """
    T, counts = 4096, [32, 64, 128, 256, 512]
    gammas, data, x_T = gammas_of("linear", T), DATA, gaussians(20, D)
    alpha_bar = table_of("linear", T).alpha_bar[T]
    scale = (data.eigenvalues / (alpha_bar * data.eigenvalues + 1 - alpha_bar)).sqrt()
    exact = data.mean + (scale * ((x_T - alpha_bar.sqrt() * data.mean) @ data.basis)) @ data.basis.T
    errors = []
    for steps in counts:
        *_, last = trajectory(DDIM(), EXACT, x_T, descending(gammas, steps), lambda k: x_T)
        errors.append(float((last.z - exact).abs().max()))
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order == pytest.approx(1.0, abs=0.1)


def flow_errors(sampler: Sampler, counts: list[int], name: str) -> list[float]:
    """How far a sampler is from the exact flow at a fixed t > 0, in so many steps, even in t and so uneven in λ.

    From t = 1 to 1/8; of rectified flow, which has no signal at all at t = 1, from 0.97.
    """
    schedule, z = SCHEDULES[name](), gaussians(20, D)
    assert isinstance(schedule, FixedSchedule)
    ends = torch.tensor([0.97 if name == "rectified_flow" else 1.0, 0.125], dtype=torch.float64)
    alpha_bar = 1 / (1 + schedule.gamma(ends).exp())
    spread = (alpha_bar[:, None] * DATA.eigenvalues + 1 - alpha_bar[:, None]).sqrt()
    start = (z - alpha_bar[0].sqrt() * MEAN) @ DATA.basis
    exact = alpha_bar[1].sqrt() * MEAN + (start * spread[1] / spread[0]) @ DATA.basis.T
    errors = []
    for steps in counts:
        grid = schedule.gamma(torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64))
        *_, last = trajectory(sampler, EXACT, z, grid, lambda k: z)
        errors.append(float((last.z - exact).abs().max()))
    return errors


FLOWS = {"ddim": (DDIM(), 1.0, 0.1), "dpm++": (DPMSolver(), 2.0, 0.2), "heun": (Heun(EXACT), 2.0, 0.25)}
FLOWS["unipc"] = (UniPC(), 3.0, 0.25)


@pytest.mark.parametrize("schedule", ["linear", "rectified_flow", "karras"])
@pytest.mark.parametrize("name", list(FLOWS))
def test_the_declared_order_is_the_measured_one(name: str, schedule: str) -> None:
    """The slope of the error against the exact flow in log–log, down to a fixed t > 0."""
    sampler, order, within = FLOWS[name]
    counts = [28, 56, 112, 224]
    errors = flow_errors(sampler, counts, schedule)
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=within)


def test_weights_integrate_polynomials_against_the_exponential() -> None:
    """For D = λ², through three nodes, ∫ e^{λ−b} λ² dλ = [e^{λ−b}(λ² − 2λ + 2)]; for D = 1 the weights' sum."""
    times_, a, b = torch.tensor([[0.3, 1.1, -0.4]]).double(), torch.tensor([0.3]).double(), torch.tensor([2.9]).double()
    weights = exponential_weights(times_, a, b)

    def primitive(x: torch.Tensor) -> torch.Tensor:
        return (x - b).exp() * (x**2 - 2 * x + 2)

    torch.testing.assert_close((weights * times_**2).sum(1), primitive(b) - primitive(a), rtol=1e-13, atol=0)
    torch.testing.assert_close(weights.sum(1), 1 - (a - b).exp(), rtol=1e-13, atol=0)


def arbitrary(name: str, seed: int = 0) -> tuple[torch.Tensor, Denoised, torch.Tensor]:
    """One z at each latent of the chain in 30 steps, what some network might say of it, and the chain."""
    gammas = gammas_of(name, 30)
    z, output = gaussians(len(gammas) - 1, 2, 3, seed=seed), gaussians(len(gammas) - 1, 2, 3, seed=seed + 1)
    return z, Epsilon().denoised(output, z, gammas[1:]), gammas


def part(denoised: Denoised, which: slice) -> Denoised:
    """What is said of some of the images."""
    return Denoised(denoised.x_0[which], denoised.eps[which])


@schedules_at_30
def test_unipc_and_heun_begin_and_end_with_ddim(name: str) -> None:
    """A first step of UniPC looks at one x̂_0, as DDIM does; to the image every rule gives x̂_0."""
    z, denoised, gammas = arbitrary(name)
    step = z[1:], part(denoised, slice(1, None)), gammas[2:], gammas[1:-1]
    torch.testing.assert_close(UniPC().step(*step).mean, DDIM().step(*step).mean, rtol=1e-8, atol=1e-8)
    image = torch.full_like(gammas[1:], CLEAN)
    for sampler in (UniPC(), Heun(lambda z, gamma: denoised)):
        found = sampler.step(z, denoised, gammas[1:], image).mean
        torch.testing.assert_close(found, denoised.x_0, rtol=1e-9, atol=1e-10)


def test_karras_steps_are_even_in_the_root_of_sigma() -> None:
    """On a fine grid, σ^{1/7} of the chosen γ is even to the grid's spacing; from γ_T to γ_1, the image; none twice."""
    gammas = gammas_of("linear", 4096)
    grid = karras_steps(gammas, 12)
    assert (grid[0], grid[-2], grid[-1], len(grid)) == (gammas[-1], gammas[1], CLEAN, 13)
    steps = (grid[:-1] / 14).exp().diff()
    assert float(steps.std() / steps.mean().abs()) < 0.02
    coarse = gammas_of("cosine", 30)
    for count in (1, 2, 20, 29, 30):
        few = karras_steps(coarse, count)
        assert len(few) == count + 1
        assert few[0] == coarse[-1]
        assert few[-1] == CLEAN
        assert bool((few[1:] < few[:-1]).all())
        assert set(few.tolist()) <= set(coarse.tolist())
    with pytest.raises(InputError, match="steps"):
        karras_steps(gammas[:11], 11)


@given(st.integers(1, 40), st.data())
def test_steps_on_a_chain_are_the_nearest_that_are_free(T: int, data: st.DataObject) -> None:
    """Of all ways to take different steps: each is the nearest, or beside another; and all T of T are the chain."""
    gammas = chain_of(torch.linspace(-6, 6, T, dtype=torch.float64))
    count = data.draw(st.integers(1, T))
    wanted = torch.tensor(data.draw(st.lists(st.floats(-7, 7), min_size=count, max_size=count)), dtype=torch.float64)
    found = nearest_steps(gammas, wanted.sort(descending=True).values)
    places = torch.searchsorted(gammas, found[:-1]).tolist()
    assert (places[0], len(set(places)), places) == (T, count, sorted(places, reverse=True))
    assert found[-1] == CLEAN
    for place, gamma in zip(places[1:], wanted.sort(descending=True).values[1:], strict=True):
        if not {place - 1, place + 1} & set(places):
            assert abs(gammas[place] - gamma) <= (gammas[1:] - gamma).abs().min() + 1e-12


@schedules_at_30
def test_dpm_solver_is_ddim_where_it_cannot_look_back(name: str) -> None:
    """At its first step; and at the last, where z is x̂_0, it does not."""
    z, denoised, gammas = arbitrary(name)
    t = torch.arange(1, len(gammas))
    for s in (t - 1, (t - 5).clamp(min=0)):
        ours, ddim = (sampler.step(z, denoised, gammas[t], gammas[s]) for sampler in (DPMSolver(), DDIM()))
        torch.testing.assert_close(ours.mean, ddim.mean, rtol=1e-9, atol=1e-9)
        assert not bool(ours.var.any())
    said, image = part(denoised, slice(0, -1)), torch.full_like(gammas[1:-1], CLEAN)
    before = Before(gammas[2:], part(denoised, slice(1, None)))
    torch.testing.assert_close(DPMSolver().step(z[:-1], said, gammas[1:-1], image, before).mean, said.x_0)


@schedules_at_30
def test_ddim_1_is_ancestral_with_beta_tilde(name: str) -> None:
    """Mean and variance, for any denoiser, at every step and over jumps. Round-off of x̂_0 of size 1/√ᾱ_t."""
    z, denoised, gammas = arbitrary(name)
    t = torch.arange(1, len(gammas))
    size = 1 / table_of(name, 30).alpha_bar[1:].sqrt().reshape(-1, 1, 1)
    for s in (t - 1, t // 2, torch.zeros_like(t)):
        step = z, denoised, gammas[t], gammas[s]
        ddim, ancestral = DDIM(1.0).step(*step), Ancestral(VARIANCES["beta_tilde"]).step(*step)
        assert bool(((ddim.mean - ancestral.mean).abs() <= 1e-13 * size * z.abs().max()).all())
        torch.testing.assert_close(ddim.var, ancestral.var, rtol=1e-12, atol=0)


def variances(table: Coefficients, name: str) -> torch.Tensor:
    """σ² of every step in DDPM's own tables."""
    return {"beta": table.beta, "beta_tilde": table.beta_tilde}[name]


@schedules_at_30
@every_variance
def test_ancestral_is_the_posterior_with_the_models_variance(name: str, variance: str) -> None:
    """Over single steps: the model whose bound is scored, σ_t² from the same table as the bound's."""
    z, denoised, gammas = arbitrary(name)
    law = Ancestral(VARIANCES[variance]).step(z, denoised, gammas[1:], gammas[:-1])
    assert torch.equal(law.mean, posterior(denoised.x_0, z, gammas[:-1], gammas[1:]).mean)
    table = variances(table_of(name, 30), variance)
    torch.testing.assert_close(law.var.flatten()[1:], table[2:], rtol=1e-12, atol=0)


@schedules_at_30
@every_variance
@given(grid=st.lists(st.integers(1, 29), min_size=1, max_size=8, unique=True).map(sorted))
def test_respaced_ancestral_is_ancestral_on_the_coarser_chain(name: str, variance: str, grid: list[int]) -> None:
    """The chain with β' = 1 − ᾱ_t/ᾱ_s between the kept steps is a chain in its own right."""
    fine, table = gammas_of(name, 30), table_of(name, 30)
    kept = torch.tensor([0, *grid, len(fine) - 1])
    log_alpha_bar = torch.log1p(-table.beta).cumsum(0)[kept]
    coarse = chain_of(gamma_of_betas(-torch.expm1(log_alpha_bar.diff())))
    z, x_0 = gaussians(len(kept) - 1, 4), gaussians(len(kept) - 1, 4, seed=1)
    sampler, denoised = Ancestral(VARIANCES[variance]), Denoised(x_0, x_0)
    here = sampler.step(z, denoised, fine[kept[1:]], fine[kept[:-1]])
    there = sampler.step(z, denoised, coarse[1:], coarse[:-1])
    torch.testing.assert_close(here.mean, there.mean, rtol=0, atol=1e-11)
    torch.testing.assert_close(here.var, there.var, rtol=1e-9, atol=1e-13)


@schedules_at_30
@every_sampler
def test_no_noise_at_the_last_step(name: str, maker: str) -> None:
    z, denoised, gammas = arbitrary(name)
    law = MAKERS[maker].step(z, denoised, gammas[1:], torch.full_like(gammas[1:], CLEAN))
    assert bool((law.var == 0).all())
    torch.testing.assert_close(law.mean, denoised.x_0, rtol=1e-12, atol=1e-13)


@every_sampler
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_trajectory_asks_for_noise_only_where_it_is_added(maker: str, steps: int) -> None:
    asked: list[int] = []

    def noise(k: int) -> torch.Tensor:
        asked.append(k)
        return torch.zeros(2, D, dtype=torch.float64)

    grid = descending(gammas_of("linear", 30), steps)
    states = list(trajectory(MAKERS[maker], EXACT, gaussians(2, D), grid, noise))
    assert [state.gamma for state in states] == grid[1:].tolist()
    assert asked == ([] if maker == "ddim 0" else list(range(steps - 1)))


@schedules_at_30
def test_clipping_keeps_z(name: str) -> None:
    z, denoised, gammas = arbitrary(name)
    clamped = clipped(denoised, z, gammas[1:])
    assert bool((clamped.x_0.abs() <= 1).all())
    assert bool((clamped.x_0 == denoised.x_0.clamp(-1, 1)).all())
    assert bool((denoised.x_0.abs() > 1).any())
    torch.testing.assert_close(diffuse(clamped.x_0, gammas[1:], clamped.eps), z, rtol=0, atol=1e-14 * 10)
    inside = Denoised(denoised.x_0.clamp(-0.9, 0.9), denoised.eps)
    assert torch.equal(clipped(inside, z, gammas[1:]).x_0, inside.x_0)


def test_trajectory_clips_only_if_told() -> None:
    z, grid = 3 * gaussians(8, D), descending(gammas_of("cosine", 30))
    denoiser = denoiser_of(GaussianData(3 * MEAN, COV).denoise)
    free = list(trajectory(DDIM(), denoiser, z, grid, lambda k: z))
    clamped = list(trajectory(DDIM(), denoiser, z, grid, lambda k: z, clip=True))
    assert max(float(state.denoised.x_0.abs().max()) for state in free) > 1
    assert max(float(state.denoised.x_0.abs().max()) for state in clamped) <= 1
    assert bool((clamped[-1].z.abs() <= 1 + 1e-12).all())


@given(st.integers(1, 5000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_steps_go_down_from_T_to_0_evenly(case: tuple[int, int]) -> None:  # noqa: N802
    T, steps = case
    grid = even_steps(T, steps)
    assert len(grid) == steps + 1
    assert grid[0] == T
    assert grid[-1] == 0
    assert all(now > then for now, then in pairwise(grid))
    assert all(abs(t - T * (steps - k) / steps) <= 0.5 for k, t in enumerate(grid))
    if T % steps == 0:
        assert grid == list(range(T, -1, -T // steps))


@pytest.mark.parametrize(("T", "steps"), [(10, 0), (10, 11), (10, -1), (1, 2)])
def test_steps_that_are_not_there_are_refused(T: int, steps: int) -> None:
    with pytest.raises(InputError) as refused:
        even_steps(T, steps)
    assert refused.value.where == "steps"


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_ddim_refuses_other_etas(eta: float) -> None:
    with pytest.raises(InputError):
        DDIM(eta)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@schedules_at_30
def test_ddim_keeps_the_marginals(name: str, eta: float) -> None:
    """With the true x_0 for a denoiser, x_s has q(x_s | x_0) for any η (Song et al. 2021, lemma 1)."""
    gammas = gammas_of(name, 30)
    t = torch.arange(2, len(gammas))
    x_0 = gaussians(len(t), 2)
    for s in (t - 1, t // 2):
        laws = []
        for eps in (torch.zeros_like(x_0), torch.ones_like(x_0)):
            z = diffuse(x_0, gammas[t], eps)
            laws.append(DDIM(eta).step(z, Denoised(x_0, eps), gammas[t], gammas[s]))
        slope, truth = laws[1].mean - laws[0].mean, marginal(x_0, gammas[s])
        torch.testing.assert_close(laws[0].mean, truth.mean, rtol=0, atol=1e-14)
        var = slope.square() + laws[0].var
        torch.testing.assert_close(var, truth.var.expand_as(var), rtol=1e-11, atol=0)


# A sampler of one's own


class MySampler(Sampler):
    """DDIM with η = 0, as one would write it after the paper."""

    def step(
        self,
        z_t: torch.Tensor,
        denoised: Denoised,
        gamma_t: torch.Tensor,
        gamma_s: torch.Tensor,
        before: Before | None = None,
    ) -> Gaussian:
        signal, noise = (torch.sigmoid(sign * gamma_s).sqrt().to(z_t).reshape(-1, 1, 1, 1) for sign in (-1, 1))
        return Gaussian(signal * denoised.x_0 + noise * denoised.eps, torch.zeros_like(signal))


def some_model(timesteps: int | None) -> Diffusion:
    """A U-Net with random weights."""
    torch.manual_seed(0)
    network = VDM.from_options(VDMOptions(widths=(8,), attention=(), head="v").resolved((1, 4, 4)), (1, 4, 4), 17)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    if timesteps is None:
        return network.eval()
    unet = network.network
    return Diffusion(unet, (1, 4, 4), 17, timesteps=timesteps, condition=network.denoiser.condition).eval()


@pytest.mark.parametrize("timesteps", [None, 40])
@pytest.mark.parametrize("clip", [True, False])
def test_a_sampler_of_ones_own_draws_what_the_rule_that_it_copies_does(timesteps: int | None, clip: bool) -> None:
    model = some_model(timesteps)
    theirs = model.sample(8, sampler=MySampler(), steps=10, clip=clip)
    ours = model.sample(8, sampler="ddim", eta=0.0, steps=10, clip=clip)
    assert torch.equal(theirs, ours)
    assert not torch.equal(ours, model.sample(8, sampler="ddim", eta=1.0, steps=10, clip=clip))
    assert torch.equal(theirs[3:5], model.sample(2, start=3, batch=1, sampler=MySampler(), steps=10, clip=clip))
