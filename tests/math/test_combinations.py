"""Any schedule with any prediction and decoder, for chains and in continuous time: every term equals its integral.

For an image of one pixel, the test computes x̂_0, the decoder, the steps' KL and, in continuous time, ½ ∫ E‖ε − ε̂‖² dγ
(equal for all schedules) from the network's output alone, with ε on a grid and γ by Gauss–Legendre.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from math_helpers import assert_mean
from scipy.special import log_ndtr
from torch import Tensor, nn

from nelbo.diffusion.bound import ChainBound
from nelbo.diffusion.levels import LOG_S_0, MU_0, OUTPUTS
from nelbo.diffusion.process import diffuse
from nelbo.diffusion.schedules import (
    SCHEDULES,
    Between,
    Cosine,
    Karras,
    LearnedGamma,
    LinearBeta,
    LinearGamma,
    RectifiedFlow,
    Schedule,
    Sigmoid,
    gamma_range,
)
from nelbo.diffusion.timeline import Timeline
from nelbo.errors import InputError
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.diffusion import Diffusion, in_steps
from nelbo.rng import Draws

CPU = torch.device("cpu")
L = 17
SHAPE = (1, 1, 1)
SOME = [2, 6, 11]
"""The levels whose terms are integrated."""
LOW, HIGH = -5.0, 4.0
VALUES = torch.linspace(-1, 1, L, dtype=torch.float64)
PREDICTIONS = ("eps", "x0", "v", "levels")
DECODERS = ("gaussian", "learned_gaussian", "categorical")

CURVES: dict[str, Callable[[], Schedule]] = {
    "linear": lambda: Between(LinearBeta(), LOW, HIGH),
    "cosine": lambda: Between(Cosine(), LOW, HIGH),
    "sigmoid": lambda: Between(Sigmoid(), LOW, HIGH),
    "linear_gamma": lambda: LinearGamma(LOW, HIGH),
    "learned": lambda: bent(LearnedGamma(LOW, HIGH)),
    "karras": lambda: Karras(math.exp(LOW / 2), math.exp(HIGH / 2)),
    "rectified_flow": lambda: Between(RectifiedFlow(), LOW, HIGH),
}
"""Every schedule from γ = −5 to 4, for continuous time."""


def bent(schedule: LearnedGamma) -> LearnedGamma:
    """No longer near the straight line."""
    with torch.no_grad():
        schedule.height[:20] += 0.3
    return schedule


class Tiny(nn.Module):
    """A smooth function of z and γ, with every weight random; the Gaussians of a law lie within the levels."""

    def __init__(self, outputs: int, law: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(2, 8), nn.Linear(8, outputs)
        if law:
            with torch.no_grad():
                self.outer.weight[:4] *= 0.1
                # μ about 0.2 and −0.2, s about 0.15 and 0.1
                self.outer.bias[:4] = torch.tensor([0.2, -0.2 - 0.98, math.log(0.15) + 1.2, math.log(0.1) + 3.0])

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        at = torch.stack([z.flatten(), 0.2 * gamma], 1)
        output: Tensor = self.outer(torch.tanh(self.inner(at)))
        return output.reshape(len(z), -1, 1, 1)


def tiny(
    schedule: str, predict: str, decoder: str, timesteps: int | None, variance: str = "beta_tilde", whole: bool = False
) -> Diffusion:
    law = predict == "levels"
    outputs = (OUTPUTS if law else 1) + (decoder == "learned_gaussian") + (variance == "learned")
    return Diffusion(
        Tiny(outputs, law),
        SHAPE,
        L,
        schedule=schedule if timesteps or whole else CURVES[schedule](),
        predict=predict,
        decoder=decoder,
        timesteps=timesteps,
        reverse_variance=variance,
    ).eval()


# The truth, by hand


class Seen(NamedTuple):
    """What the network says of z, by hand: x̂_0, ε̂, the numbers behind the prediction, and ln P(k|z) of a law."""

    x_0: Tensor
    eps: Tensor
    rest: Tensor
    log_law: Tensor | None


def seen(model: Diffusion, z: Tensor, gamma: float) -> Seen:
    """Of z, shape (N,), all at one γ."""
    at = torch.full((len(z),), gamma)
    output = model.network(z.float().reshape(-1, 1, 1, 1), at).double().flatten(1)
    signal, noise = math.sqrt(1 / (1 + math.exp(gamma))), math.sqrt(1 / (1 + math.exp(-gamma)))
    first, log_law = output[:, 0], None
    if model.predicts == "levels":
        log_law = law_of(output, z, signal, noise)
        x_0 = log_law.exp() @ VALUES
    else:
        x_0 = {"eps": (z - noise * first) / signal, "x0": first, "v": signal * z - noise * first}[model.predicts]
    return Seen(x_0, (z - signal * x_0) / noise, output[:, OUTPUTS if log_law is not None else 1 :], log_law)


def law_of(output: Tensor, z: Tensor, signal: float, noise: float) -> Tensor:
    """ln P(k|z), P(k|z) ∝ P(k) N(z; √ᾱ x_k, 1 − ᾱ), over every level, shape (N, L)."""
    start = torch.tensor([MU_0, LOG_S_0], dtype=torch.float64).T
    mu, log_s, weight = (output[:, k : k + 2, None] for k in (0, 2, 4))
    mu, s = mu + start[:, :1], (log_s + start[:, 1:]).exp()
    density = (weight.exp() * torch.exp(-0.5 * ((VALUES - mu) / s) ** 2) / (s * math.sqrt(2 * math.pi))).sum(1)
    prior = density.log() + math.log(2 / (L - 1))
    prior = torch.cat([output[:, 6:7], prior[:, 1:-1], output[:, 7:8]], 1)
    return (prior - 0.5 * ((z[:, None] - signal * VALUES) / noise) ** 2).log_softmax(1)


def decoder_nll(model: Diffusion, decoder: str, z: Tensor, gamma: float, level: int) -> Tensor:
    """−ln p(x|z) of one level, shape (N,)."""
    said = seen(model, z, gamma)
    signal, noise = math.sqrt(1 / (1 + math.exp(gamma))), math.sqrt(1 / (1 + math.exp(-gamma)))
    if decoder == "categorical":
        from_z = (-0.5 * ((z[:, None] - signal * VALUES) / noise) ** 2).log_softmax(1)
        return -(from_z if said.log_law is None else said.log_law)[:, level]
    std = noise * said.rest[:, 0].exp() if decoder == "learned_gaussian" else noise + 0 * z
    ends = [-math.inf if level == 0 else level - 0.5, math.inf if level == L - 1 else level + 0.5]
    lower, upper = ((2 * end / (L - 1) - 1 - said.x_0) / std for end in ends)
    flip = lower > 0  # so that both are in the tail that is small
    lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    below, above = (torch.from_numpy(log_ndtr(end.numpy())) for end in (lower, upper))
    return -(above + torch.log1p(-torch.exp(below - above)))


EPS = torch.linspace(-6.5, 6.5, 131, dtype=torch.float64)
DENSITY = torch.exp(-0.5 * EPS.square()) / math.sqrt(2 * math.pi) * (EPS[1] - EPS[0])


def noised(x: float, gamma: float) -> Tensor:
    """z of every ε."""
    return math.sqrt(1 / (1 + math.exp(gamma))) * x + math.sqrt(1 / (1 + math.exp(-gamma))) * EPS


def step_kl(model: Diffusion, x: float, before: float, gamma: float) -> float:
    """E KL(q(z_s|z_t, x) ‖ p_θ(z_s|z_t)), with DDPM's β, β̃ and (7) from ᾱ."""
    said = seen(model, noised(x, gamma), gamma)
    bar_s, bar_t = (1 / (1 + math.exp(at)) for at in (before, gamma))
    beta = 1 - bar_t / bar_s
    tilde = beta * (1 / (1 + math.exp(-before))) / (1 / (1 + math.exp(-gamma)))
    fraction = {"beta": 1.0, "beta_tilde": 0.0, "moments": 0.0}.get(model.reverse_variance)
    v = 0.5 * (said.rest[:, -1] + 1) if fraction is None else torch.full_like(EPS, fraction)
    gain = math.sqrt(bar_s) * beta * (1 + math.exp(-gamma))
    var = beta**v * tilde ** (1 - v)
    if model.reverse_variance == "moments" and said.log_law is not None:
        var = var + gain**2 * (said.log_law.exp() * (VALUES - said.x_0[:, None]).square()).sum(1)
    apart = gain * (x - said.x_0)
    kl = 0.5 * (apart.square() / var + tilde / var - 1 - (tilde / var).log())
    return float(DENSITY @ kl)


def half_errors(model: Diffusion, x: float, low: float, high: float) -> float:
    """½ ∫ E‖ε − ε̂‖² dγ, by 40 nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    total = 0.0
    for node, weight in zip(low + (high - low) * (nodes + 1) / 2, weights / 2 * (high - low), strict=True):
        error = EPS - seen(model, noised(x, node), node).eps
        total += weight * 0.5 * float(DENSITY @ error.square())
    return total


@torch.no_grad()
def integrals(model: Diffusion, decoder: str, gammas: Tensor | None, ends: tuple[float, float]) -> dict[str, Tensor]:
    """Every term for SOME levels: of the chain, or in continuous time between these γ."""
    found: dict[str, list[float]] = {"reconstruction": [], "diffusion": [], "prior": []}
    first, last = ends
    for level in SOME:
        x = float(VALUES[level])
        found["reconstruction"].append(float(DENSITY @ decoder_nll(model, decoder, noised(x, first), first, level)))
        if gammas is None:
            found["diffusion"].append(half_errors(model, x, first, last))
        else:
            steps = zip(gammas[1:-1].tolist(), gammas[2:].tolist(), strict=True)
            found["diffusion"].append(sum(step_kl(model, x, before, gamma) for before, gamma in steps))
        bar, rest = 1 / (1 + math.exp(last)), 1 / (1 + math.exp(-last))
        found["prior"].append(0.5 * (bar * x * x + rest - 1 - math.log(rest)))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


# The model's own terms on the same grid

combinations = pytest.mark.parametrize(
    ("schedule", "predict", "decoder"),
    [
        (name, predict, DECODERS[(i + j) % 3])
        for i, name in enumerate(SCHEDULES)
        for j, predict in enumerate(PREDICTIONS)
    ],
)
"""Every schedule with every prediction; every decoder comes with each of them."""


@torch.no_grad()
def of_the_model(model: Diffusion) -> dict[str, Tensor]:
    """The same integrals of the terms that the model's estimator adds up: over ε, and over its own t."""
    estimator, n = bound_of(model), len(EPS)
    eps = EPS.reshape(-1, 1, 1, 1)
    if isinstance(estimator, ChainBound):
        places = [
            estimator.place(torch.full((n,), t), torch.ones(n, dtype=torch.float64)) for t in range(2, estimator.T + 1)
        ]
    else:
        nodes, weights = np.polynomial.legendre.leggauss(80)
        at = zip((nodes + 1) / 2, weights / 2, strict=True)
        places = [estimator.place(torch.full((n,), t, dtype=torch.float64), weight) for t, weight in at]
    found: dict[str, list[float]] = {"reconstruction": [], "diffusion": []}
    for level in SOME:
        x, x_0 = torch.full((n, *SHAPE), level), VALUES[level].expand(n, *SHAPE)
        z = diffuse(x_0, estimator.at(estimator.first, x), eps)
        found["reconstruction"].append(float(DENSITY @ estimator.decode(x, z)))
        terms = [at.pixels(estimator.denoise(diffuse(x_0, at.gamma, eps), at.gamma), eps) for at in places]
        found["diffusion"].append(sum(float(DENSITY @ term.flatten()) for term in terms))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def ends_of(gammas: Tensor | None) -> tuple[float, float]:
    return (LOW, HIGH) if gammas is None else (float(gammas[1]), float(gammas[-1]))


def assert_integrals(model: Diffusion, decoder: str) -> None:
    """To 2e-4: a float32 network, the quick sums over a law, and its nodes in t."""
    exact = integrals(model, decoder, model.timeline.gammas, ends_of(model.timeline.gammas))
    for name, found in of_the_model(model).items():
        torch.testing.assert_close(found, exact[name], rtol=2e-4, atol=1e-5)


@combinations
def test_in_steps_every_term_is_its_integral(schedule: str, predict: str, decoder: str) -> None:
    if schedule == "learned":
        with pytest.raises(InputError, match="continuous time"):
            tiny(schedule, predict, decoder, 6)
        return
    T = 25 if schedule == "linear" else 6  # a straight β needs more than 20
    assert_integrals(tiny(schedule, predict, decoder, T), decoder)


@combinations
def test_in_continuous_time_every_term_is_its_integral(schedule: str, predict: str, decoder: str) -> None:
    """The same integral over γ for every schedule."""
    assert_integrals(tiny(schedule, predict, decoder, None), decoder)


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("variance", ["beta", "learned"])
@pytest.mark.parametrize("decoder", ["gaussian", "learned_gaussian"])
def test_with_another_reverse_variance_too(predict: str, variance: str, decoder: str) -> None:
    """The network's numbers stand in one order: the prediction, ln σ of the decoder, v of the variance."""
    assert_integrals(tiny("sigmoid", predict, decoder, 6, variance), decoder)


def test_by_moments_too() -> None:
    """β̃ + c² Var(x|z), with Var by the sum over the levels of a law that is computed by hand."""
    assert_integrals(tiny("sigmoid", "levels", "categorical", 6, "moments"), "categorical")


@torch.no_grad()
def test_by_moments_every_form_has_their_sum_as_its_mean() -> None:
    """Of a model in continuous time, in 3 steps: few, so that c² Var(x|z) is as large as β̃."""
    n, model = 1000, in_steps(tiny("cosine", "levels", "categorical", None), 3, reverse_variance="moments")
    gammas = model.timeline.chain()
    exact = sum(integrals(model, "categorical", gammas, ends_of(gammas)).values(), torch.zeros(len(SOME)))
    for seed, form in enumerate(("denoising", "consistency", "trajectory")):
        x, draws = images(n)
        draws = Draws(seed, 0, draws.indices, len(x), CPU)
        found = model.forms[form].estimate(x, draws, model.forms.all_timesteps or 1)
        assert_close(found.total, exact, n)
    narrow = in_steps(tiny("cosine", "levels", "categorical", None), 3)
    worse = sum(integrals(narrow, "categorical", gammas, ends_of(gammas)).values(), torch.zeros(len(SOME)))
    assert float((worse - exact).mean()) > 0.05


# What is estimated by chance

every_pair = pytest.mark.parametrize(("predict", "decoder"), [(p, d) for p in PREDICTIONS for d in DECODERS])


def images(n: int) -> tuple[Tensor, Draws]:
    """n copies of SOME levels and numbers for them, in an order of its own, for t may be spread evenly over them."""
    x = torch.tensor(SOME, dtype=torch.uint8).repeat(n).reshape(-1, 1, 1, 1)
    return x, Draws(0, 0, np.random.default_rng(0).permutation(len(x)).tolist(), len(x), CPU)


def assert_close(found: Tensor, exact: Tensor, n: int) -> None:
    """Within four standard errors, and these a tenth of it or less; 2e-4 as above."""
    rows = found.double().reshape(n, len(SOME))
    assert_mean(rows, exact, 4, bias=2e-4 * float(exact.abs().max()) + 1e-5)
    assert bool((rows.std(0) / n**0.5 <= 0.1 * exact.abs() + 1e-5).all())


@torch.no_grad()
@every_pair
def test_in_continuous_time_the_estimate_has_these_means(predict: str, decoder: str) -> None:
    model, n = tiny("cosine", predict, decoder, None), 1000
    x, draws = images(n)
    found, exact = model.forms["denoising"].estimate(x, draws, 8).terms, integrals(model, decoder, None, (LOW, HIGH))
    for name in ("reconstruction", "diffusion", "prior"):
        assert_close(found[name], exact[name], n)


@torch.no_grad()
@every_pair
@pytest.mark.parametrize("continuous", [False, True], ids=["steps", "in_steps"])
def test_every_form_of_a_chain_has_their_sum_as_its_mean(predict: str, decoder: str, continuous: bool) -> None:
    """Of a model in 6 steps, and of one in continuous time that is scored in 6."""
    n = 500
    model = in_steps(tiny("cosine", predict, decoder, None), 6) if continuous else tiny("cosine", predict, decoder, 6)
    gammas = model.timeline.chain()
    exact = sum(integrals(model, decoder, gammas, ends_of(gammas)).values(), torch.zeros(len(SOME)))
    for seed, form in enumerate(("denoising", "consistency", "trajectory", "entropy")):
        x, draws = images(n)
        draws = Draws(seed, 0, draws.indices, len(x), CPU)
        found = model.forms[form].estimate(x, draws, model.forms.all_timesteps or 1)
        total = found.total.double() + sum(found.extras.values(), torch.zeros(len(x))).double()
        assert_close(total, exact, n)


@torch.no_grad()
@every_pair
@pytest.mark.parametrize("timesteps", [6, None])
def test_the_loss_is_the_bound_per_dimension(predict: str, decoder: str, timesteps: int | None) -> None:
    """In continuous time without a decoder that has nothing to learn, and without the prior, which has not either."""
    model, n = tiny("cosine", predict, decoder, timesteps), 3000
    exact = integrals(model, decoder, model.timeline.gammas, ends_of(model.timeline.gammas))
    expected = exact["diffusion"] + exact["reconstruction"] * bool(timesteps or model.decoder.learned)
    assert_close(model.loss(*images(n)), expected, n)


@torch.no_grad()
@pytest.mark.parametrize(("schedule", "predict"), [*((name, "v") for name in CURVES), ("cosine", "levels")])
def test_in_steps_the_bound_nears_that_of_continuous_time(schedule: str, predict: str) -> None:
    """At order 1/T, on any curve: twice the steps, half of the gap."""
    model = tiny(schedule, predict, "gaussian", None)
    limit = integrals(model, "gaussian", None, (LOW, HIGH))["diffusion"]
    gaps = []
    for T in (64, 128, 256):
        chain = in_steps(model, T)
        assert chain.forms.all_timesteps == T
        gaps.append((of_the_model(chain)["diffusion"] - limit).abs())
    for less, more in ((gaps[1], gaps[0]), (gaps[2], gaps[1])):
        torch.testing.assert_close(less / more, torch.full_like(less, 0.5), rtol=0, atol=0.05)


# What goes with what


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_continuous_time_ends_where_the_schedule_does_or_at_the_range(schedule: str) -> None:
    """What goes beyond is cut to where half a spacing is 3.03 standard deviations of the noise, and to 8."""
    estimator = bound_of(tiny(schedule, "v", "gaussian", None, whole=True))
    low, high = gamma_range(L)
    assert math.exp(-low / 2) / (L - 1) == pytest.approx(3.03)
    assert estimator.first == pytest.approx(low, abs=1e-9)
    assert estimator.last == pytest.approx(high, abs=1e-9)


def test_a_schedule_within_the_range_stays_as_it_is() -> None:
    ends = Timeline.of(Karras(0.05, 20.0), None, L).gamma(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([2 * math.log(0.05), 2 * math.log(20.0)], abs=1e-9)


def test_the_mean_of_a_step_needs_steps() -> None:
    with pytest.raises(InputError, match="predict v"):
        tiny("cosine", "mean", "gaussian", None)


def test_a_learned_reverse_variance_needs_steps() -> None:
    with pytest.raises(InputError, match="continuous time"):
        tiny("cosine", "v", "gaussian", None, "learned")


def test_a_copys_denoiser_asks_the_copys_network() -> None:
    model = tiny("cosine", "v", "gaussian", 6)
    again = copy.deepcopy(model)
    assert again.denoiser.network is again.network
    assert again.denoiser.network is not model.network
