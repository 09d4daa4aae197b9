"""The DDPM with tiny random networks, against the exact likelihood of a one-pixel model.

A one-pixel model can be solved exactly: p_θ(x_{t−1}) = ∫ p_θ(x_{t−1}|x_t) p_θ(x_t) dx_t on a grid, down to p_θ(x_0)
over the levels; and each term of the bound is an integral over one ε.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from math_helpers import assert_mean
from scipy import interpolate, stats
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from nelbo.diffusion.process import diffuse, posterior
from nelbo.diffusion.samplers import Ancestral
from nelbo.diffusion.variances import VARIANCES
from nelbo.errors import InputError
from nelbo.metrics.likelihood import LikelihoodScore, score_likelihood, stderr_of_mean
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.sampling import SampleSettings
from nelbo.rng import Draws, Stream, normal
from nelbo.theory.exact import Coefficients
from nelbo.theory.likelihoods import to_unit
from nelbo.units import LN_2

CPU = torch.device("cpu")
COMBINATIONS = [(r, d) for r in ("beta", "beta_tilde", "learned") for d in ("beta_1", "learned")]
every_variance = pytest.mark.parametrize(("reverse", "decoder"), COMBINATIONS)


def ddpm(shape: tuple[int, int, int], levels: int, **settings) -> DDPM:
    """A model with every weight random: the last convolution, zero at first, would make it say nothing."""
    torch.manual_seed(0)
    chosen = {"timesteps": 30, "schedule": "linear", "objective": "simple", "widths": (8, 8)}
    chosen |= {"reverse_variance": "beta_tilde"} | settings
    model = DDPM.from_options(DDPMOptions(**{"clusters": 0, **chosen}).resolved(shape), shape, levels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def gamma_of(model: DDPM, t: Tensor | int, n: int = 1) -> Tensor:
    """γ_t of each t, or the same for n of them."""
    gammas = model.timeline.gammas
    assert gammas is not None
    return gammas[t] if isinstance(t, Tensor) else gammas[t].expand(n)


def images(n: int, shape: tuple[int, int, int], levels: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, levels, (n, *shape), dtype=np.uint8))


def draws(n: int, seed: int = 0, step: int = 0) -> Draws:
    return Draws(seed, step, range(n), n, CPU)


# One pixel, solved

SOME = [0, 5, 16]
"""The levels whose terms are integrated: both ends and one inside."""


@cache
def one_pixel(reverse: str, decoder: str, predict: str = "v") -> DDPM:
    return ddpm((1, 1, 1), 17, reverse_variance=reverse, decoder_variance=decoder, predict=predict)


def decoder_probs(model: DDPM, x_1: Tensor) -> np.ndarray:
    """P(level | x_1) from scipy's normal law, shape (len(x_1), L)."""
    denoised = model.denoiser(x_1, gamma_of(model, 1, len(x_1)))
    times = torch.ones(1) if denoised.log_std is None else denoised.log_std.exp().double().reshape(-1, 1)
    mean, beta_1 = denoised.x_0.double().reshape(-1, 1).numpy(), float(Coefficients(model.timeline.chain()).beta[1])
    std = (beta_1**0.5 * times).expand(len(x_1), 1).numpy()
    edges = np.array([-np.inf, *[2 * (k + 0.5) / (model.levels - 1) - 1 for k in range(model.levels - 1)], np.inf])
    # The upper tail where it is the smaller one: 1 − Φ would cancel.
    lower, upper = edges[None, :-1], edges[None, 1:]
    flip = np.clip((lower + upper) / 2, -9, 9) > mean
    below = stats.norm.cdf(upper, mean, std) - stats.norm.cdf(lower, mean, std)
    above = stats.norm.sf(lower, mean, std) - stats.norm.sf(upper, mean, std)
    return np.where(flip, above, below)


@torch.no_grad()
def law_of_x_1(model: DDPM) -> tuple[Tensor, np.ndarray, float]:
    """p_θ(x_1) on a grid: (grid, density, spacing), one reverse step of the sampler at a time.

    Spacing 0.02 is 0.4 σ for the narrowest step: sums of Gaussians that wide are integrals to 1e-12.
    """
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
    h = float(grid[1] - grid[0])
    density = stats.norm.pdf(grid.numpy())
    sampler = Ancestral(VARIANCES[model.reverse_variance])
    for t in range(len(model.timeline.chain()) - 1, 1, -1):
        x_t, at_t, before = grid.float().reshape(-1, 1, 1, 1), *(gamma_of(model, i, len(grid)) for i in (t, t - 1))
        law = sampler.step(x_t, model.denoiser(x_t, at_t), at_t, before)
        mean, std = law.mean.double().flatten().numpy(), law.var.double().flatten().numpy() ** 0.5
        density = stats.norm.pdf(grid.numpy()[:, None], mean[None, :], std[None, :]) @ density * h
    return grid, density, h


@cache
@torch.no_grad()
def exact_log_prob(reverse: str, decoder: str) -> np.ndarray:
    """ln p_θ(x) of every level of the one-pixel model."""
    model = one_pixel(reverse, decoder)
    grid, density, h = law_of_x_1(model)
    return np.log(density @ decoder_probs(model, grid.float().reshape(-1, 1, 1, 1)) * h)


@torch.no_grad()
def exact_terms(model: DDPM) -> dict[str, np.ndarray]:
    """Each term of the bound for SOME levels: KLs of the posterior and the sampler's step, integrated over ε."""
    eps = torch.linspace(-6.5, 6.5, 521)
    density = torch.from_numpy(stats.norm.pdf(eps.numpy())) * float(eps[1] - eps[0])
    sampler, table = Ancestral(VARIANCES[model.reverse_variance]), Coefficients(model.timeline.chain())
    terms: dict[str, list[float]] = {"reconstruction": [], "diffusion": [], "prior": []}
    for level in SOME:
        x_0 = torch.full((len(eps), 1, 1, 1), 2 * level / (model.levels - 1) - 1)
        noise, total = eps.reshape(-1, 1, 1, 1), 0.0
        for t in range(1, len(table.beta)):
            at_t, before = (gamma_of(model, i, len(eps)) for i in (t, t - 1))
            x_t = table.alpha_bar[t].sqrt().float() * x_0 + table.noise_var[t].sqrt().float() * noise
            if t == 1:
                nll = -np.log(decoder_probs(model, x_t)[:, level])
                terms["reconstruction"].append(float(density.numpy() @ nll))
                continue
            q = posterior(x_0.double(), x_t.double(), before, at_t)
            p = sampler.step(x_t, model.denoiser(x_t, at_t), at_t, before)
            kl = kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(p.mean.double(), p.var.double().sqrt()))
            total += float(density @ kl.flatten())
        terms["diffusion"].append(total)
        alpha_bar = table.alpha_bar[-1]
        end = Normal(alpha_bar.sqrt() * x_0[0].double(), (1 - alpha_bar).sqrt())
        terms["prior"].append(float(kl_divergence(end, Normal(0.0 * end.mean, 1.0)).sum()))
    return {name: np.array(values) for name, values in terms.items()}


@torch.no_grad()
def estimates(model: DDPM, copies: int, timesteps: int, levels: list[int]) -> dict[str, Tensor]:
    """Independent estimates of every term for these levels, shape (copies, len(levels))."""
    x = torch.tensor(levels, dtype=torch.uint8).repeat(copies).reshape(-1, 1, 1, 1)
    terms = bound_of(model).denoising(x, draws(len(x)), timesteps).terms
    return {name: value.double().reshape(copies, len(levels)) for name, value in terms.items()}


@every_variance
def test_the_one_pixel_model_is_normalised(reverse: str, decoder: str) -> None:
    """A check of the reference itself: no mass leaves the grid."""
    assert np.exp(exact_log_prob(reverse, decoder)).sum() == pytest.approx(1, abs=1e-6)


@every_variance
@pytest.mark.parametrize("timesteps", [29, 4])
def test_every_term_is_its_integral(reverse: str, decoder: str, timesteps: int) -> None:
    """Monte Carlo of ``estimate`` against quadrature over ε; 1e-5 relative for a float32 network."""
    model = one_pixel(reverse, decoder)
    exact, sampled = exact_terms(model), estimates(model, 2000, timesteps, SOME)
    assert set(sampled) == set(exact)
    for name in ("reconstruction", "diffusion"):
        assert_mean(sampled[name], torch.from_numpy(exact[name]), bias=1e-5 * float(np.abs(exact[name]).max()))
    np.testing.assert_allclose(sampled["prior"].numpy(), np.tile(exact["prior"], (2000, 1)), rtol=1e-5)


@pytest.mark.parametrize("predict", ["eps", "x0", "mean", "v"])
def test_the_terms_are_integrals_whatever_is_predicted(predict: str) -> None:
    model = one_pixel("beta_tilde", "beta_1", predict)
    exact, sampled = exact_terms(model), estimates(model, 1000, 29, SOME)
    for name in ("reconstruction", "diffusion"):
        assert_mean(sampled[name], torch.from_numpy(exact[name]), bias=1e-4 * float(np.abs(exact[name]).max()))


@every_variance
def test_the_bound_bounds_the_likelihood_of_the_model_that_is_sampled(reverse: str, decoder: str) -> None:
    """−ln p_θ(x) ≤ bound(x) for every x, hence Σ_x exp(−bound(x)) ≤ 1: p_θ is the law of the sampler's steps."""
    sampled = estimates(one_pixel(reverse, decoder), 300, 29, list(range(17)))
    total = torch.stack(list(sampled.values())).sum(0)
    bound, stderr = total.mean(0), total.std(0) / len(total) ** 0.5
    nll = -torch.from_numpy(exact_log_prob(reverse, decoder))
    assert bool((bound + 3 * stderr >= nll).all())
    mass = bound.neg().exp()
    assert float(mass.sum()) <= 1 + 3 * float((mass * stderr).square().sum().sqrt())


class ExactNetwork(nn.Module):
    """v of E[x_0 | x_t] for one pixel with known probabilities of its levels: the best network there is."""

    def __init__(self, model: DDPM, probs: Tensor) -> None:
        super().__init__()
        self.table, self.probs = Coefficients(model.timeline.chain()), probs.double()
        self.levels = torch.linspace(-1, 1, len(probs), dtype=torch.float64)
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, x_t: Tensor, time: Tensor) -> Tensor:
        t = (time * (len(self.table.beta) - 1)).round().long()
        signal, noise = self.table.alpha_bar[t, None].sqrt(), self.table.noise_var[t, None].sqrt()
        x = x_t.double().reshape(-1, 1)
        weights = (self.probs.log() - 0.5 * ((x - signal * self.levels) / noise).square()).softmax(1)
        x_0 = (weights * self.levels).sum(1, keepdim=True)
        v = signal * (x - signal * x_0) / noise - noise * x_0
        return v.float().reshape(x_t.shape)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("reverse", ["beta", "beta_tilde"])
def test_with_the_best_network_the_bound_nears_the_entropy(schedule: str, reverse: str) -> None:
    """Σ_x exp(−bound(x)) ≤ 1 is no empty promise: with the exact denoiser it comes near, from below.

    E[bound] is never below the entropy of the data, the cost of the best code. With σ² = β̃ the gap is O(1/T): at 4 T
    it is below half. For discrete data β̃ is the right variance at small t, and σ² = β costs Σ_t ½(ρ − 1 − ln ρ) more,
    ρ = β̃_t/β_t, however large T is; its weights on the errors are smaller.
    """
    probs, gaps = torch.tensor([0.2, 0.5, 0.3]), []
    for T in (50, 200):
        model = ddpm((1, 1, 1), 3, timesteps=T, schedule=schedule, reverse_variance=reverse, decoder_variance="beta_1")
        model.network = ExactNetwork(model, probs)
        total = torch.stack(list(estimates(model, 3000, 24, [0, 1, 2]).values())).sum(0)
        bound, stderr = total.mean(0), total.std(0) / len(total) ** 0.5
        entropy = float(-(probs * probs.log()).sum())
        gaps.append(float((probs * bound).sum()) - entropy)
        error = float((probs * stderr).square().sum().sqrt())
        assert gaps[-1] >= -3 * error
        mass = bound.neg().exp()
        assert float(mass.sum()) <= 1 + 3 * float((mass * stderr).square().sum().sqrt())
    if reverse == "beta_tilde":
        assert gaps[1] < 0.5 * gaps[0]
        assert float(mass.sum()) > 0.9
    else:
        noise_var = Coefficients(model.timeline.chain()).noise_var[1:]
        ratio = noise_var[:-1] / noise_var[1:]
        of_variances = float(0.5 * (ratio - 1 - ratio.log()).sum())
        assert of_variances - 3 * error <= gaps[1] <= of_variances + 0.1


@torch.no_grad()
def test_samples_have_the_models_law() -> None:
    """Levels drawn by ``sample`` (ancestral, all steps, nothing clipped) against p_θ(x_1) pushed through x̂_0: χ².

    A level is about six cells of the law's grid wide: between them the density is a spline, on 50 times as many points.
    """
    model, n = one_pixel("beta_tilde", "beta_1"), 12_000
    coarse, density, _ = law_of_x_1(model)
    grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    density = interpolate.CubicSpline(coarse.numpy(), density)(grid.numpy())
    x_0 = model.denoiser(grid.float().reshape(-1, 1, 1, 1), gamma_of(model, 1, len(grid))).x_0.flatten()
    level = ((x_0.clamp(-1, 1) + 1) * (model.levels - 1) / 2).round().long().numpy()
    expected = np.bincount(level, weights=density, minlength=model.levels)
    drawn = model.sample(n, seed=1, batch=n, settings=SampleSettings("ancestral", clip=False))
    counts = np.bincount(drawn.flatten().numpy(), minlength=model.levels)
    assert stats.chisquare(counts, n * expected / expected.sum()).pvalue > 0.0027


# Scoring


@torch.no_grad()
@pytest.mark.parametrize(("shape", "levels"), [((1, 4, 4), 17), ((2, 5, 3), 3)])
@every_variance
def test_all_timesteps_and_a_few_estimate_the_same(
    shape: tuple[int, int, int], levels: int, reverse: str, decoder: str
) -> None:
    model = ddpm(shape, levels, reverse_variance=reverse, decoder_variance=decoder)
    x = images(1, shape, levels).expand(600, *shape)
    every = bound_of(model).denoising(x, draws(600), model.forms.all_timesteps or 1).total.double()
    few = bound_of(model).denoising(x, draws(600, seed=1), 3).total.double()
    stderr = (every.var() / 600 + few.var() / 600).sqrt()
    assert abs(float(every.mean() - few.mean())) <= 3 * float(stderr)


@pytest.mark.parametrize("T", [1, 2, 3])
@torch.no_grad()
def test_few_steps_are_scored_too(T: int) -> None:
    """At T = 1 there is no diffusion term; at T = 2 there is one."""
    model = ddpm((1, 2, 2), 3, timesteps=T, schedule="cosine")
    score = score_likelihood(model, images(3, (1, 2, 2), 3))
    assert score.evaluations == 2 * T
    assert bool(score.estimates().isfinite().all())
    assert bool((score.estimates("diffusion") == 0).all()) == (T == 1)


def test_scores_do_not_depend_on_the_batch_or_the_number_of_images() -> None:
    """To float32 round-off of another order of summation in the network."""
    model, x = ddpm((1, 5, 7), 17), images(8, (1, 5, 7), 17)
    whole = score_likelihood(model, x, batch=8)
    for batch in (1, 3):
        again = score_likelihood(model, x, batch=batch)
        torch.testing.assert_close(again.estimates(), whole.estimates(), rtol=1e-4, atol=0)
    first = score_likelihood(model, x[:3], batch=2)
    torch.testing.assert_close(first.estimates(), whole.estimates()[:3], rtol=1e-4, atol=0)


def test_a_seed_is_repeated_to_the_bit_and_replicates_differ() -> None:
    model, x = ddpm((1, 4, 4), 17), images(4, (1, 4, 4), 17)
    one, two = score_likelihood(model, x, seed=5), score_likelihood(model, x, seed=5)
    assert torch.equal(one.estimates(), two.estimates())
    y = one.estimates()
    assert bool((y[:, 0] != y[:, 1]).all())
    assert bool((score_likelihood(model, x, seed=6).estimates() != y).all())


def test_bound_averages_the_same_estimates() -> None:
    model, x = ddpm((1, 4, 4), 17), images(4, (1, 4, 4), 17)
    score = score_likelihood(model, x, seed=2, replicates=3, timesteps=5)
    bound = model.bound(x, seed=2, replicates=3, timesteps=5)
    torch.testing.assert_close(bound.total.double(), score.estimates().mean(1), rtol=1e-5, atol=0)


def test_the_monte_carlo_error_is_the_spread_over_repetitions() -> None:
    """1,000 scores of the same four images: a standard deviation from as many numbers is known to 1/√1998 = 2.2%, the
    root of the mean claimed variance to 1.3% (measured), so three sigmas of their ratio are 8%.

    The repetitions stand side by side in one call: image i has noise of its own, whatever the image.
    """
    model, x, repeated = ddpm((1, 4, 4), 17), images(4, (1, 4, 4), 17), 1000
    whole = score_likelihood(model, x.repeat(repeated, 1, 1, 1), timesteps=3, replicates=2, batch=400)
    scores = [
        LikelihoodScore({name: y[first : first + 4] for name, y in whole.terms.items()}, whole.dims, whole.evaluations)
        for first in range(0, 4 * repeated, 4)
    ]
    spread = float(np.std([score.bits() for score in scores], ddof=1))
    claimed = float(np.mean([score.stderr_mc() ** 2 for score in scores]) ** 0.5)
    assert claimed / spread == pytest.approx(1, abs=0.08)


def synthetic(n: int, replicates: int, seed: int, of_images: float = 2.0, of_noise: float = 0.7) -> LikelihoodScore:
    rng = np.random.default_rng(seed)
    y = 10 + of_images * rng.standard_normal((n, 1)) + of_noise * rng.standard_normal((n, replicates))
    return LikelihoodScore({"a": torch.from_numpy(0.25 * y), "b": torch.from_numpy(0.75 * y)}, 5, 3)


def test_standard_errors_are_their_formulas() -> None:
    n, R = 12, 4
    score, scale = synthetic(n, R, 0), 5 * LN_2
    y = score.estimates().numpy()
    mc = np.sqrt(sum(y[i].var(ddof=1) / R for i in range(n))) / n
    both = y.mean(1).std(ddof=1) / np.sqrt(n)
    assert score.n == n
    assert score.nats() == pytest.approx(y.mean(), rel=1e-12)
    assert score.bits() == pytest.approx(y.mean() / scale, rel=1e-12)
    assert score.bits("a") + score.bits("b") == pytest.approx(score.bits(), rel=1e-12)
    assert score.stderr_mc() == pytest.approx(mc / scale, rel=1e-12)
    assert score.stderr() == pytest.approx(both / scale, rel=1e-12)
    assert score.stderr_data() == pytest.approx(np.sqrt(both**2 - mc**2) / scale, rel=1e-12)
    one = LikelihoodScore({"a": torch.ones(1, 3).double()}, 5, 3)
    assert one.stderr() is None
    assert one.stderr_data() is None


def test_both_errors_together_are_no_less_than_one() -> None:
    """Of images that are alike, the variance over them is all Monte Carlo, and its estimate is below half the time."""
    scores = [synthetic(n, 2, seed, of_images=0.0) for n in (2, 5, 30) for seed in range(40)]
    assert all(score.stderr() >= score.stderr_mc() for score in scores)
    below = [
        score.estimates().mean(1).var() / score.n < score.estimates().var(1).sum() / 2 / score.n**2 for score in scores
    ]
    assert 20 < sum(bool(it) for it in below) < 100
    for score, less in zip(scores, below, strict=True):
        assert (score.stderr_data() == 0) == bool(less)


def test_copies_of_an_image_add_nothing_to_its_standard_error() -> None:
    """Each of 12 images five times, with the same estimates, in any order: the standard error of the 12."""
    score = synthetic(12, 4, 0)
    rows = torch.arange(12).repeat(5)[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    repeated = replace(score, terms={name: y[rows] for name, y in score.terms.items()}, copies=7 * rows)
    assert repeated.bits() == pytest.approx(score.bits(), rel=1e-12)
    assert repeated.stderr() == pytest.approx(score.stderr(), rel=1e-12)
    assert repeated.minus(replace(repeated, terms={"a": 0 * repeated.terms["a"]})).stderr() == repeated.stderr()
    one = replace(repeated, copies=torch.zeros(60, dtype=torch.int64))
    assert one.stderr() is None
    assert one.stderr_data() is None


def test_the_error_over_unequal_clusters_is_the_spread_of_the_mean() -> None:
    """3,000 sets of 60 distinct images, one to three copies of each with noise of their own: stderr² against var(ȳ)."""
    generator = torch.Generator().manual_seed(0)
    errors, means = [], []
    for _ in range(3000):
        copies = torch.arange(60).repeat_interleave(torch.randint(1, 4, (60,), generator=generator))
        of_image = 2 * torch.randn(60, generator=generator).double()
        y = of_image[copies] + 0.7 * torch.randn(len(copies), generator=generator).double()
        errors.append(stderr_of_mean(y, copies))
        means.append(y.mean())
    # var of a variance over 3,000 is 2.6 %; the estimate's own bias for 60 clusters is of order 1/60
    assert float(torch.tensor(errors).square().mean()) == pytest.approx(float(torch.stack(means).var()), rel=0.08)


def test_standard_errors_keep_images_and_noise_apart() -> None:
    """Over 400 sets: stderr² averages to (σ_i² + σ_n²/R)/n, stderr_mc² to σ_n²/(Rn), stderr_data² to σ_i²/n."""
    n, R, scale = 30, 3, 5 * LN_2
    scores = [synthetic(n, R, seed) for seed in range(400)]
    for name, truth in (("stderr", 4 + 0.49 / R), ("stderr_mc", 0.49 / R), ("stderr_data", 4.0)):
        squares = torch.tensor([(getattr(score, name)() * scale) ** 2 for score in scores])
        assert_mean(squares, truth / n)
    grand = torch.tensor([score.nats() for score in scores])
    assert_mean((grand - 10) ** 2, (4 + 0.49 / R) / n)


@torch.no_grad()
@pytest.mark.parametrize("decoder", ["beta_1", "learned"])
def test_the_decoders_variance_is_beta_1_where_training_starts(decoder: str) -> None:
    """β_1 = 0.1/T of the linear schedule; learned, it starts there, since an untrained network says nothing."""
    options = DDPMOptions(timesteps=50, schedule="linear", widths=(8,), decoder_variance=decoder).resolved((2, 3, 3))
    model = DDPM.from_options(options, (2, 3, 3), 17)
    z, gamma, level = torch.randn(4, 2, 3, 3), gamma_of(model, 1, 4), images(4, (2, 3, 3), 17)
    denoised = model.denoiser(z, gamma)
    law = Normal(denoised.x_0.double(), (0.1 / 50) ** 0.5)
    edges = torch.tensor([-torch.inf, *[2 * (k + 0.5) / 16 - 1 for k in range(16)], torch.inf], dtype=torch.float64)
    p = law.cdf(edges[level.long() + 1]) - law.cdf(edges[level.long()])
    usable = p > 1e-6  # where a difference of CDFs has digits left
    assert int(usable.sum()) > 5
    found = model.decoder.nll(level, denoised, z, gamma)
    torch.testing.assert_close(found[usable].double(), -p.log()[usable], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "dims"), [((1, 5, 7), 35), ((2, 3, 3), 18)])
def test_bits_are_per_true_pixel_and_channel(shape: tuple[int, int, int], dims: int) -> None:
    """Inside the network these are padded to 6 × 8 and 4 × 4."""
    score = score_likelihood(ddpm(shape, 17), images(2, shape, 17))
    assert score.bits() == pytest.approx(float(score.estimates().mean()) / (dims * LN_2), rel=1e-12)


def test_one_replicate_is_refused() -> None:
    with pytest.raises(InputError, match="replicates: 1 is less than 2"):
        score_likelihood(ddpm((1, 2, 2), 3), images(1, (1, 2, 2), 3), replicates=1)


# Training


@torch.no_grad()
@every_variance
@pytest.mark.parametrize("learned_profile", [False, True])
def test_the_bounds_loss_is_an_unbiased_estimate_of_the_score(
    reverse: str, decoder: str, learned_profile: bool
) -> None:
    """E[loss] = (reconstruction + diffusion)/D of the one-pixel model, by quadrature, for each level."""
    n = 6000
    settings = {"reverse_variance": reverse, "decoder_variance": decoder, "objective": "bound"}
    # Few steps, so that one too many or too few would be 20% and not lost in the noise.
    model = ddpm((1, 1, 1), 17, timesteps=5, schedule="cosine", **settings)
    if learned_profile:
        t = torch.arange(1, 6)
        for _ in range(50):
            model.profile.update(t, 30.0 / t)
    exact = exact_terms(model)
    x = torch.tensor(SOME, dtype=torch.uint8).repeat(n).reshape(-1, 1, 1, 1)
    # Shuffled places, for t is spread evenly over them.
    order = np.random.default_rng(0).permutation(len(x)).tolist()
    loss = model.loss(x, Draws(0, 0, order, len(x), CPU)).double().reshape(n, 3)
    truth = torch.from_numpy(exact["reconstruction"] + exact["diffusion"])
    assert_mean(loss, truth, bias=1e-5 * float(truth.abs().max()))


@torch.no_grad()
def test_the_bounds_loss_is_per_dimension() -> None:
    shape, n = (2, 3, 3), 3000
    model = ddpm(shape, 17, objective="bound")
    x = images(1, shape, 17).expand(n, *shape)
    loss = model.loss(x, draws(n)).double()
    terms = bound_of(model).denoising(x[:500], draws(500, seed=1), model.forms.all_timesteps or 1).terms
    score = (terms["reconstruction"] + terms["diffusion"]).double() / 18
    stderr = float((loss.var() / n + score.var() / 500).sqrt())
    assert abs(float(loss.mean() - score.mean())) <= 3 * stderr


@torch.no_grad()
def test_the_hybrid_is_the_bound_and_its_weight_of_the_simple_loss() -> None:
    """Before the profile has learned anything all three draw the same t, so it holds image by image."""
    shape, n = (1, 4, 4), 60
    losses = {}
    for objective in ("bound", "simple", "hybrid"):
        model = ddpm(shape, 17, objective=objective, decoder_variance="beta_1")
        losses[objective] = model.loss(images(n, shape, 17), draws(n, step=2))
    expected = losses["bound"] + 5.0 * losses["simple"]
    torch.testing.assert_close(losses["hybrid"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", ["bound", "hybrid", "simple"])
@pytest.mark.parametrize("T", [1, 2, 3])
def test_few_steps_can_be_trained(objective: str, T: int) -> None:
    """timesteps=1 is allowed, so it must train."""
    model = ddpm((1, 2, 2), 3, timesteps=T, schedule="cosine", objective=objective).train()
    loss = model.loss(images(20, (1, 2, 2), 3), draws(20))
    assert loss.shape == (20,)
    assert bool(loss.isfinite().all())
    loss.mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_training_teaches_the_profile_and_evaluation_does_not() -> None:
    model, x = ddpm((1, 2, 2), 3, objective="bound"), images(20, (1, 2, 2), 3)
    before = model.profile.probabilities().clone()
    model.eval().loss(x, draws(20))
    assert torch.equal(model.profile.probabilities(), before)
    model.train().loss(x, draws(20))
    assert not torch.equal(model.profile.probabilities(), before)


@torch.no_grad()
@pytest.mark.parametrize("predict", ["eps", "x0", "mean", "v"])
def test_the_simple_loss_is_the_mean_squared_error_of_the_noise(predict: str) -> None:
    """DDPM (14): t from the spread uniforms, x_t by hand, ‖ε − ε̂‖²/D."""
    shape, n = (2, 4, 3), 60
    model = ddpm(shape, 17, decoder_variance="beta_1", predict=predict)
    x, numbers = images(n, shape, 17), draws(n, step=3)
    loss = model.loss(x, numbers)
    t = 1 + (30 * numbers.spread(Stream.TRAIN_TIME)).floor().long()
    assert sorted(t.tolist()) == sorted(2 * list(range(1, 31)))  # 60 images over 30 steps: each twice
    eps = normal(0, Stream.TRAIN_NOISE, 3, range(n), shape)
    alpha_bar = Coefficients(model.timeline.chain()).alpha_bar[t].float().reshape(-1, 1, 1, 1)
    x_t = alpha_bar.sqrt() * to_unit(x, 17) + (1 - alpha_bar).sqrt() * eps
    eps_hat = model.denoiser(x_t, gamma_of(model, t)).eps
    assert loss.shape == (n,)
    torch.testing.assert_close(loss, ((eps - eps_hat) ** 2).mean((1, 2, 3)), rtol=1e-2, atol=1e-5)


def test_the_learned_decoder_is_trained_by_its_likelihood_alone() -> None:
    """The image that trains it costs −ln p(x_0|x_1)/D, and leaves the output of the mean without a gradient."""
    shape = (2, 4, 3)
    model, x = ddpm(shape, 17, decoder_variance="learned"), images(1, shape, 17)
    cost = model.loss(x, draws(1, seed=1))
    eps, first = normal(1, Stream.TRAIN_NOISE, 0, [0], shape), gamma_of(model, 1)
    denoised = model.denoiser(diffuse(to_unit(x, 17), first, eps), first)
    assert denoised.log_std is not None
    log_std = denoised.log_std + 0.5 * Coefficients(model.timeline.chain()).beta[1].log()
    edges = torch.tensor([-torch.inf, *[2 * (k + 0.5) / 16 - 1 for k in range(16)], torch.inf], dtype=torch.float64)
    law = Normal(denoised.x_0.detach().double(), log_std.detach().exp().double())
    p = law.cdf(edges[x.long() + 1]) - law.cdf(edges[x.long()])
    usable = p > 1e-6  # where a difference of CDFs has digits left
    assert bool(usable.all())
    assert float(cost.detach()) == pytest.approx(float(-p.log().sum()) / 24, rel=1e-4)
    cost.sum().backward()
    head = model.network.head[-1].weight.grad
    assert bool((head[:2] == 0).all())
    assert bool((head[2:] != 0).any())


# Sampling


@pytest.mark.parametrize("settings", [SampleSettings(), SampleSettings("ancestral"), SampleSettings("ddim", 5, 0.0)])
def test_an_image_is_the_same_in_any_company(settings: SampleSettings) -> None:
    """Image i for batches of 1, 3 and 8, and wherever the first one is. Rounded levels forgive float32 round-off.

    The network's last layer is made small: a random one amplifies round-off from step to step, as no trained one does.
    """
    model = ddpm((1, 5, 7), 17)
    with torch.no_grad():
        model.network.head[-1].weight.mul_(0.2)
    whole = model.sample(8, seed=3, batch=8, settings=settings)
    assert whole.shape == (8, 1, 5, 7)
    assert whole.dtype == torch.uint8
    for batch in (1, 3):
        assert torch.equal(model.sample(8, seed=3, batch=batch, settings=settings), whole)
    assert torch.equal(model.sample(3, seed=3, start=5, settings=settings), whole[5:])
    assert not torch.equal(model.sample(8, seed=4, settings=settings), whole)
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 8


@torch.no_grad()
def test_clipping_holds_the_promised_image_and_not_clipping_does_not() -> None:
    model = ddpm((1, 4, 4), 17)
    promised = {
        clip: torch.stack([f.x_0 for f in model.frames(range(8), 0, SampleSettings("ancestral", clip=clip))])
        for clip in (True, False)
    }
    assert float(promised[True].abs().max()) <= 1
    assert float(promised[False].abs().max()) > 1


def test_no_images_are_no_images() -> None:
    assert ddpm((1, 4, 4), 17).sample(0).shape == (0, 1, 4, 4)
