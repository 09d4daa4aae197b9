"""Every coefficient at T = 100,000, against its formula with 40 digits: everything is float64."""

from __future__ import annotations

import functools

import mpmath
import pytest
import torch
from mpmath import mpf
from torch import Tensor

from nelbo.diffusion.bound import ChainBound
from nelbo.diffusion.consistency import consistency_prior_term
from nelbo.diffusion.decoders import CategoricalDecoder
from nelbo.diffusion.denoiser import PREDICTIONS, Denoised, LinearPrediction
from nelbo.diffusion.objectives import OBJECTIVES
from nelbo.diffusion.process import (
    bridge,
    noise_rate,
    noise_var,
    posterior,
    posterior_var,
    prior_term,
    rates,
    signal_rate,
    step_signal,
    step_var,
)
from nelbo.diffusion.samplers import DDIM, DPMSolver, exponential_weights
from nelbo.diffusion.schedules import LearnedGamma, LinearGamma, as_schedule, chain_of
from nelbo.diffusion.spacing import even_steps, karras_steps
from nelbo.diffusion.variances import VARIANCES, step_weight
from nelbo.rng import Draws
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
def gammas_of(name: str) -> Tensor:
    if name != "vdm":
        return chain_of(as_schedule(name).grid(T))
    return chain_of(torch.linspace(FIRST, LAST, T, dtype=torch.float64))


def same(ours: Tensor | float, truth: mpf, rel: float = CLOSE) -> None:
    if isinstance(ours, Tensor):
        assert ours.dtype == torch.float64
    assert abs(mpf(float(ours)) - truth) <= rel * abs(truth)


@names
@pytest.mark.parametrize("t", PLACES)
def test_tables_weights_posteriors_and_predictions(name: str, t: int) -> None:
    gammas = gammas_of(name)
    gamma_s, gamma, gamma_next = (gammas[[i]] for i in (t - 1, t, t + 1))
    before, here, after = (exact(name, i) for i in (t - 1, t, t + 1))
    alpha, beta, tilde = here / before, 1 - here / before, (1 - here / before) * (1 - before) / (1 - here)
    snr = here / (1 - here)
    slope = T * (gamma - gamma_s)
    objective = {name: (0.5 * OBJECTIVES[name]().weight(gamma, slope) * slope)[0] for name in ("simple", "sigmoid")}
    for ours, truth in (
        (signal_rate(gamma)[0] ** 2, here),
        (noise_var(gamma)[0], 1 - here),
        (signal_rate(gamma)[0], mpmath.sqrt(here)),
        (noise_rate(gamma)[0], mpmath.sqrt(1 - here)),
        (step_signal(gamma_s, gamma)[0] ** 2, alpha),
        (step_var(gamma_s, gamma)[0], beta),
        (posterior_var(gamma_s, gamma)[0], tilde),
        (step_weight(gamma_s, gamma)[0], (before / (1 - before) / snr - 1) / 2),
        (objective["simple"], mpf(1)),
        (objective["sigmoid"], sigmoid(2 - mpmath.log(snr)) * T * mpmath.log(before / (1 - before) / snr) / 2),
        (gamma[0].exp(), 1 / snr),
    ):
        same(ours, truth)
    delta = (tilde - beta) / beta
    # δ − ln(1 + δ) is near δ²/2, and δ falls to 1e-5.
    cost = kl_of_variances(posterior_var(gamma_s, gamma), step_var(gamma_s, gamma))[0]
    same(cost, delta - mpmath.log1p(delta), 1e-5)
    rows = {
        "eps": (mpf(0), mpf(1)),
        "x0": (mpf(1), mpf(0)),
        "mean": (mpmath.sqrt(before), mpmath.sqrt(alpha) * (1 - before) / mpmath.sqrt(1 - here)),
        "v": (-mpmath.sqrt(1 - here), mpmath.sqrt(here)),
    }
    for predicted, (a, b) in rows.items():
        prediction = PREDICTIONS[predicted](256, gammas)
        assert isinstance(prediction, LinearPrediction)
        row = prediction.row(gamma)
        same(row.a[0], a)
        same(row.b[0], b)
        same(row.d[0], a * mpmath.sqrt(1 - here) - b * mpmath.sqrt(here), 1e-5 if predicted == "mean" else CLOSE)
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    same(posterior(one, zero, gamma_s, gamma).mean, mpmath.sqrt(before) * beta / (1 - here))
    same(posterior(zero, one, gamma_s, gamma).mean, mpmath.sqrt(alpha) * (1 - before) / (1 - here))
    same(posterior(zero, one, gamma_s, gamma).var, tilde)
    next_alpha = after / here
    sum_of_both = (1 - next_alpha) + next_alpha * beta
    three = (gamma_s, gamma, gamma_next)
    same(bridge(one, zero, *three).mean, mpmath.sqrt(alpha) * (1 - next_alpha) / sum_of_both)
    same(bridge(zero, one, *three).mean, mpmath.sqrt(next_alpha) * beta / sum_of_both)
    same(bridge(zero, one, *three).var, beta * (1 - next_alpha) / sum_of_both)
    half = Denoised(one, one, 0.5 * one)
    same(VARIANCES["learned"].step(half, one, gamma_s, gamma).var, mpmath.sqrt(beta * tilde))


@names
def test_the_ends(name: str) -> None:
    gammas, x = gammas_of(name), torch.tensor([[0.5]]).double()
    before, last = exact(name, T - 1), exact(name, T)
    if name in ("cosine", "sigmoid"):  # β_T is capped
        last = before * mpf("0.001")
    prior = (last / 4 - last - mpmath.log1p(-last)) / 2
    same(prior_term(x, gammas[-1]), prior, 1e-8)
    beta = 1 - last / before
    narrow = ((1 - beta) * (before / 4 + 1 - before) + beta - 1 - mpmath.log(beta)) / 2
    same(consistency_prior_term(gammas, x), narrow, 1e-8)


@names
def test_steps_and_grids_of_samplers(name: str) -> None:
    gammas = gammas_of(name)
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    for t, s in ((77_777, 77_700), (1000, 990), (10, 3)):
        there, here = exact(name, s), exact(name, t)
        at = (gammas[[t]], gammas[[s]])
        shrink = mpmath.sqrt((1 - there) / (1 - here))
        gain = mpmath.sqrt(there) - shrink * mpmath.sqrt(here)
        same(DPMSolver().step(one, Denoised(zero, zero), *at).mean, shrink)
        same(DPMSolver().step(zero, Denoised(one, zero), *at).mean, gain)
        variance = (1 - there) / (1 - here) * (1 - here / there)
        same(DDIM(1.0).step(zero, Denoised(one, zero), *at).mean, mpmath.sqrt(there))
        same(DDIM(1.0).step(zero, Denoised(zero, one), *at).mean, mpmath.sqrt(1 - there - variance))
        same(DDIM(1.0).step(zero, Denoised(zero, one), *at).var, variance)
        start, end = (-gammas[[i]] / 2 for i in (t, s))
        low, high = (mpmath.log(value / (1 - value)) / 2 for value in (here, there))
        same(exponential_weights(start[:, None], start, end)[0, 0], 1 - mpmath.exp(low - high))
    assert even_steps(T, 7) == [T, *(round(T * k / 7) for k in range(6, -1, -1))]
    grid = torch.searchsorted(gammas, karras_steps(gammas, 12)[:-1].contiguous()).tolist()
    assert len(set(grid)) == 12
    roots = [mpmath.exp(mpf(float(end)) / 14) for end in (gammas[1], gammas[-1])]
    for k, t in enumerate(grid):
        if 0 < t < T and not {t - 1, t + 1} & set(grid):  # no γ of the grid is nearer, and none was taken
            wanted = 14 * mpmath.log(roots[1] + (roots[0] - roots[1]) * k / 11)
            distance = [abs(mpf(float(gammas[i])) - wanted) for i in (max(1, t - 1), t, t + 1)]
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
def test_the_steps_of_a_bound_in_continuous_time(kind: str) -> None:
    """t = i/T, γ there, ½ expm1(γ_t − γ_s) and √ᾱ. As (i + 1)/T in float32, weights are 1e-3 off."""
    schedule = (LinearGamma if kind == "linear" else LearnedGamma)(FIRST, LAST)
    variance, decoder = VARIANCES["beta_tilde"], CategoricalDecoder(5)
    gammas, shape = chain_of(schedule.grid(T)), (1, 1, 1)
    chain = ChainBound(lambda z, gamma: Denoised(z, z), decoder, gammas, variance, 5, shape, uniform=True)
    draws = Draws(0, 0, range(3), 3, torch.device("cpu"))
    for t, share in chain.steps(draws, 4):  # of the latents z_0, z_{1/T}, …, the one at i/T is number i + 1
        gamma, before = chain.gamma(t), chain.gamma(t - 1)
        signal, noise = rates(gamma, torch.zeros(3, 1, dtype=torch.float64))
        for k, number in enumerate(t.tolist()):
            places = [mpf(number - 1 - back) / T for back in (0, 1)]
            same(share[k], mpf(T) / 4, 1e-11)
            if isinstance(schedule, LinearGamma):
                here, there = (mpf(FIRST) + (mpf(LAST) - mpf(FIRST)) * place for place in places)
            else:
                here, there = (learned(place, schedule) for place in places)
            same(gamma[k] - FIRST, here - mpf(FIRST), 1e-9)
            same(step_weight(before, gamma)[k], mpmath.expm1(here - there) / 2)
            same(signal[k], mpmath.sqrt(sigmoid(-here)))
            same(noise[k], mpmath.sqrt(sigmoid(here)))
