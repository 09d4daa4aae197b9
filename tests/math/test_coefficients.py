"""Every coefficient at T = 100,000, against its formula with 40 digits: float64 throughout, and no t in float32."""

from __future__ import annotations

import functools

import mpmath
import pytest
import torch
from mpmath import mpf
from nelbo.bounds import REVERSE_VARIANCES, VARIANCES, WEIGHTS, consistency_prior_term, denoising_weight, prior_term
from nelbo.bounds.continuous import latent_prior_term
from nelbo.diffusion.continuous import on_grid, rates
from torch import Tensor

from nelbo.diffusion import PARAMETERIZATIONS, Denoised, Process
from nelbo.diffusion.samplers import DDIM, DPMSolver, exponential_weights, karras_times, times
from nelbo.diffusion.schedules import SCHEDULES, LearnedGamma, LinearGamma, Schedule
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.theory.normal import kl_of_variances

mpmath.mp.dps = 40
T = 100_000
PLACES = (2, 3, 10, 1000, 31_623, 77_777, 99_990)
CLOSE = 2e-9
"""β_t is a difference of numbers near 1 and falls to 4e-7: it keeps 16 − 6.4 digits. A t in float32 keeps 3 of them."""
FIRST, LAST = -13.3, 8.0
names = pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid", "vdm"])


def sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mpmath.exp(-x))


def curve(name: str, t: int) -> mpf:
    """ᾱ(t) by the papers' formulas."""
    u = mpf(t) / T
    if name == "cosine":
        return mpmath.cos((u + mpf("0.008")) / mpf("1.008") * mpmath.pi / 2) ** 2
    if name == "sigmoid":
        return sigmoid(mpf(3)) - sigmoid(6 * u - 3)
    return mpf(1) if t == 0 else sigmoid(-(mpf(FIRST) + (mpf(LAST) - mpf(FIRST)) * mpf(t - 1) / (T - 1)))


@functools.cache
def products() -> list[mpf]:
    """ᾱ_t of the linear schedule, a product of t numbers."""
    found = [mpf(1)]
    for i in range(T):
        found.append(found[-1] * (1 - (mpf("0.1") + mpf("19.9") * i / (T - 1)) / T))
    return found


def exact(name: str, t: int) -> mpf:
    return products()[t] if name == "linear" else curve(name, t) / curve(name, 0)


@functools.cache
def schedule_of(name: str) -> Schedule:
    if name != "vdm":
        return SCHEDULES[name](T)
    return on_grid(torch.linspace(FIRST, LAST, T, dtype=torch.float64))


def same(ours: Tensor | float, truth: mpf, rel: float = CLOSE) -> None:
    if isinstance(ours, Tensor):
        assert ours.dtype == torch.float64
    assert abs(mpf(float(ours)) - truth) <= rel * abs(truth)


@names
@pytest.mark.parametrize("t", PLACES)
def test_tables_weights_posteriors_and_parameterizations(name: str, t: int) -> None:
    table, process = schedule_of(name), Process(schedule_of(name))
    before, here, after = (exact(name, i) for i in (t - 1, t, t + 1))
    alpha, beta, tilde = here / before, 1 - here / before, (1 - here / before) * (1 - before) / (1 - here)
    snr = here / (1 - here)
    for ours, truth in (
        (table.alpha_bar, here),
        (table.noise_var, 1 - here),
        (table.signal_rate, mpmath.sqrt(here)),
        (table.noise_rate, mpmath.sqrt(1 - here)),
        (table.snr, snr),
        (table.alpha, alpha),
        (table.beta, beta),
        (table.beta_tilde, tilde),
        (denoising_weight(table, table.beta), beta / (2 * alpha * (1 - here))),
        (denoising_weight(table, table.beta_tilde), (before / (1 - before) / snr - 1) / 2),
        (WEIGHTS["simple"](table), snr),
        (
            WEIGHTS["sigmoid"](table),
            snr * sigmoid(2 - mpmath.log(snr)) * T * mpmath.log(before / (1 - before) / snr) / 2,
        ),
    ):
        same(ours[t], truth)
    same(table.gamma[t].exp(), 1 / snr)
    delta = (tilde - beta) / beta
    # δ − ln(1 + δ) is near δ²/2, and δ falls to 1e-5.
    same(kl_of_variances(table.beta_tilde, REVERSE_VARIANCES["beta"](table))[t], delta - mpmath.log1p(delta), 1e-5)
    rows = {
        "eps": (mpf(0), mpf(1)),
        "x0": (mpf(1), mpf(0)),
        "mean": (mpmath.sqrt(before), mpmath.sqrt(alpha) * (1 - before) / mpmath.sqrt(1 - here)),
        "v": (-mpmath.sqrt(1 - here), mpmath.sqrt(here)),
    }
    for predicted, (a, b) in rows.items():
        row = PARAMETERIZATIONS[predicted](table).row
        same(row.a[t], a)
        same(row.b[t], b)
        same(row.d[t], a * mpmath.sqrt(1 - here) - b * mpmath.sqrt(here), 1e-5 if predicted == "mean" else CLOSE)
    one, zero, at = torch.ones(1, 1).double(), torch.zeros(1, 1).double(), torch.tensor([t])
    same(process.posterior(one, zero, at).mean, mpmath.sqrt(before) * beta / (1 - here))
    same(process.posterior(zero, one, at).mean, mpmath.sqrt(alpha) * (1 - before) / (1 - here))
    same(process.posterior(zero, one, at).var, tilde)
    next_alpha = after / here
    sum_of_both = (1 - next_alpha) + next_alpha * beta
    same(process.bridge(one, zero, at).mean, mpmath.sqrt(alpha) * (1 - next_alpha) / sum_of_both)
    same(process.bridge(zero, one, at).mean, mpmath.sqrt(next_alpha) * beta / sum_of_both)
    same(process.bridge(zero, one, at).var, beta * (1 - next_alpha) / sum_of_both)
    half = Denoised(one, one, 0.5 * one)
    same(VARIANCES["learned"].step(process, half, one, at).var, mpmath.sqrt(beta * tilde))


@names
def test_the_ends(name: str) -> None:
    table, x = schedule_of(name), torch.tensor([[0.5]]).double()
    before, last = exact(name, T - 1), exact(name, T)
    if name in ("cosine", "sigmoid"):  # β_T is capped
        last = before * mpf("0.001")
    prior = (last / 4 - last - mpmath.log1p(-last)) / 2
    same(prior_term(Process(table), x), prior, 1e-8)
    beta = 1 - last / before
    narrow = ((1 - beta) * (before / 4 + 1 - before) + beta - 1 - mpmath.log(beta)) / 2
    same(consistency_prior_term(Process(table), x), narrow, 1e-8)
    same(latent_prior_term(x, -(table.alpha_bar[-1] / table.noise_var[-1]).log()), prior, 1e-8)


@names
def test_steps_and_grids_of_samplers(name: str) -> None:
    table, process = schedule_of(name), Process(schedule_of(name))
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    for t, s in ((77_777, 77_700), (1000, 990), (10, 3)):
        there, here = exact(name, s), exact(name, t)
        at = (torch.tensor([t]), torch.tensor([s]))
        shrink = mpmath.sqrt((1 - there) / (1 - here))
        gain = mpmath.sqrt(there) - shrink * mpmath.sqrt(here)
        same(DPMSolver(process).step(one, Denoised(zero, zero), *at).mean, shrink)
        same(DPMSolver(process).step(zero, Denoised(one, zero), *at).mean, gain)
        variance = (1 - there) / (1 - here) * (1 - here / there)
        same(DDIM(process, 1.0).step(zero, Denoised(one, zero), *at).mean, mpmath.sqrt(there))
        same(DDIM(process, 1.0).step(zero, Denoised(zero, one), *at).mean, mpmath.sqrt(1 - there - variance))
        same(DDIM(process, 1.0).step(zero, Denoised(zero, one), *at).var, variance)
        start, end = (-table.gamma[[i]] / 2 for i in (t, s))
        low, high = (mpmath.log(value / (1 - value)) / 2 for value in (here, there))
        same(exponential_weights(start[:, None], start, end)[0, 0], 1 - mpmath.exp(low - high))
    assert times(T, 7) == [T, *(round(T * k / 7) for k in range(6, -1, -1))]
    grid = karras_times(table.gamma[1:], 12)
    roots = [mpmath.exp(mpf(float(end)) / 14) for end in (table.gamma[1], table.gamma[-1])]
    for k, t in enumerate(grid[:-1]):
        if len(grid) == 13 and 0 < t < T:  # no γ of the grid is nearer
            wanted = 14 * mpmath.log(roots[1] + (roots[0] - roots[1]) * k / 11)
            distance = [abs(mpf(float(table.gamma[i])) - wanted) for i in (max(1, t - 1), t, t + 1)]
            assert distance[1] == min(distance)


def learned(t: mpf, gamma: LearnedGamma) -> mpf:
    def raw(t: mpf) -> mpf:
        total = t / 5
        for steepness, place, height in zip(
            gamma.steepness.tolist(), gamma.place.tolist(), gamma.height.tolist(), strict=True
        ):
            total += mpmath.exp(10 * mpf(height)) * sigmoid(
                mpmath.log1p(mpmath.exp(steepness)) * (t - 0.5) + mpf(place)
            )
        return total

    return mpf(FIRST) + (mpf(LAST) - mpf(FIRST)) * (raw(t) - raw(mpf(0))) / (raw(mpf(1)) - raw(mpf(0)))


@pytest.mark.parametrize("kind", ["linear", "learned"])
@torch.no_grad()
def test_the_steps_of_a_vdms_bound(kind: str) -> None:
    """t = i/T, γ there, ½ expm1(γ_t − γ_s) and √ᾱ. As (i + 1)/T in float32, weights are 1e-3 off."""
    options = VDMOptions(widths=(8, 8), gamma=kind, gamma_min=FIRST, gamma_max=LAST, timesteps=T).resolved((1, 2, 2))
    model = VDM.from_options(options, (1, 2, 2), 5)
    t, share = model.times(torch.rand(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    gamma, weight = model.weighted(t.flatten())
    signal, noise = rates(gamma, torch.zeros(12, 1, dtype=torch.float64))
    for k, number in enumerate(t.flatten().tolist()):
        at = [mpf(round(number * T) - back) / T for back in (0, 1)]
        same(t.flatten()[k], at[0], 1e-15)
        same(share.flatten()[k], mpf(T) / 4, 1e-11)
        if isinstance(model.gamma, LinearGamma):
            here, before = (mpf(FIRST) + (mpf(LAST) - mpf(FIRST)) * place for place in at)
        else:
            here, before = (learned(place, model.gamma) for place in at)
        same(gamma[k] - FIRST, here - mpf(FIRST), 1e-9)
        same(weight[k], mpmath.expm1(here - before) / 2)
        same(signal[k], mpmath.sqrt(sigmoid(-here)))
        same(noise[k], mpmath.sqrt(sigmoid(here)))
