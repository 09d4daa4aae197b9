"""The reverse variance by moments, and the steps with the lowest bound, against exact laws and enumeration.

For data N(m, Σ) with a diagonal Σ and the exact denoiser, N(μ̃(x̂), β̃ + c² Var(x|z)) is the reverse step itself:
p_θ(x, z_1, …) = N(z_K; 0, I)/q(z_K) q(x, z_1, …), so that for every trajectory of any K steps

    ln q(z_{1:K}|x) − ln p_θ(x, z_{1:K}) = −ln p(x) + ln q(z_K) − ln N(z_K; 0, I)
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gaussians
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from nelbo.diffusion.denoiser import Denoised, from_x_0
from nelbo.diffusion.levels import OUTPUTS, Posterior
from nelbo.diffusion.process import diffuse, image_gain, posterior, rates
from nelbo.diffusion.schedules import chain_of
from nelbo.diffusion.steps import StepCosts, measured_costs, refined
from nelbo.diffusion.trajectory import trajectory_terms
from nelbo.diffusion.variances import VARIANCES, LearnedMoments, LearnedVariance
from nelbo.errors import InputError
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.diffusion import Diffusion, in_steps, with_variance
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.rng import Draws
from nelbo.theory.exact import GaussianData
from nelbo.theory.normal import Gaussian

SPREAD = torch.tensor([0.05, 0.4, 2.0], dtype=torch.float64)
"""The eigenvalues of Σ, which is diagonal."""
DATA = GaussianData(torch.tensor([0.3, -0.2, 0.5]), SPREAD.diag())
MOMENTS = VARIANCES["moments"]
CPU = torch.device("cpu")


def var_given(gamma: Tensor) -> Tensor:
    """Var(x|z) = λ (1 − ᾱ)/(ᾱ λ + 1 − ᾱ) of each coordinate, shape (B, D)."""
    bar, noise = 1 / (1 + gamma.exp())[:, None], 1 / (1 + (-gamma).exp())[:, None]
    return SPREAD * noise / (bar * SPREAD + noise)


def said(z: Tensor, gamma: Tensor) -> Denoised:
    """The exact denoiser, with Var(x|z)."""
    return from_x_0(DATA.denoise(z, gamma), z, gamma)._replace(var=var_given(gamma))


@pytest.mark.parametrize("gammas", [[-3.0, 5.0], [-4.0, -1.0, 2.0, 3.0], [-6.0, 6.0]])
def test_every_trajectory_by_moments_gives_the_likelihood(gammas: list[float]) -> None:
    """Of Gaussian data in one step or three, with the exact decoder N(x̂_0(z_1), Var(x|z_1)): to round-off."""
    chain, n = chain_of(torch.tensor(gammas, dtype=torch.float64)), 200
    x = DATA.sample(gaussians(n, 3, seed=1))

    def reverse(z: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Gaussian:
        return MOMENTS.step(said(z, gamma_t), z, gamma_s, gamma_t)

    def decode(z: Tensor) -> Tensor:
        at = chain[1].expand(n)
        return -Normal(DATA.denoise(z, at), var_given(at).sqrt()).log_prob(x).sum(1)

    noise = [gaussians(n, 3, seed=2 + t) for t in range(len(gammas))]
    total = torch.stack(list(trajectory_terms(chain, reverse, decode, x, noise).values())).sum(0)
    z = x
    for eps, (s, t) in zip(noise, itertools.pairwise(chain.tolist()), strict=True):  # the same walk, by hand
        alpha = (1 + math.exp(s)) / (1 + math.exp(t))
        z = math.sqrt(alpha) * z + math.sqrt(1 - alpha) * eps
    bar = 1 / (1 + math.exp(gammas[-1]))
    end = MultivariateNormal(math.sqrt(bar) * DATA.mean, (bar * SPREAD + 1 - bar).diag())
    exact = -DATA.log_prob(x) + end.log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(total, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("s", "t"), [(-6.0, 3.0), (-2.0, -1.9), (0.0, 8.0)])
def test_the_moments_are_those_of_the_reverse_step(s: float, t: float) -> None:
    """E and Var of z_s given z_t from the joint Gaussian of both, by the law of total variance written out in numpy."""
    bar_s, bar_t = (1 / (1 + np.exp(g)) for g in (s, t))
    alpha, lam, m = bar_t / bar_s, SPREAD.numpy(), DATA.mean.numpy()
    var_s, var_t = bar_s * lam + 1 - bar_s, bar_t * lam + 1 - bar_t
    cross = np.sqrt(alpha) * var_s
    z = gaussians(6, 3, seed=3)
    gamma_s, gamma_t = (torch.full((6,), g, dtype=torch.float64) for g in (s, t))
    law = MOMENTS.step(said(z, gamma_t), z, gamma_s, gamma_t)
    mean = np.sqrt(bar_s) * m + cross / var_t * (z.numpy() - np.sqrt(bar_t) * m)
    np.testing.assert_allclose(law.mean.numpy(), mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(law.var.numpy(), np.broadcast_to(var_s - cross**2 / var_t, (6, 3)), rtol=1e-9)
    image = MOMENTS.step(said(z, gamma_t), z, torch.full_like(gamma_s, -math.inf), gamma_t)
    assert float(image.var.abs().max()) == 0.0  # the last step of a sampler is x̂_0, without noise


def test_the_term_is_half_the_logarithm_of_the_variances() -> None:
    """Averaged over data, E KL = ½ Σ ln(σ²/β̃), and no other variance has a lower term."""
    n, gamma_s, gamma_t = 200_000, torch.tensor([-3.0]).double(), torch.tensor([1.0]).double()
    x, eps = DATA.sample(gaussians(n, 3, seed=1)), gaussians(n, 3, seed=2)
    z = diffuse(x, gamma_t.expand(n), eps)
    denoised = said(z, gamma_t.expand(n))
    term = MOMENTS.diffusion_term(denoised, eps, gamma_s.expand(n), gamma_t.expand(n))
    tilde, gain = posterior(x, z, gamma_s, gamma_t).var.flatten(), image_gain(gamma_s, gamma_t)
    assert_mean(term, float(0.5 * (1 + gain**2 * var_given(gamma_t) / tilde).log().sum()), 4)
    for factor in (0.8, 1.2):
        assert denoised.var is not None
        other = denoised._replace(var=factor * denoised.var)
        more = MOMENTS.diffusion_term(other, eps, gamma_s.expand(n), gamma_t.expand(n)) - term
        assert float(more.mean()) > 3 * float(more.std()) / n**0.5


@pytest.mark.parametrize("gamma", [-12.0, -4.0, 0.0, 6.0])
def test_two_levels_have_the_variance_of_a_coin(gamma: float) -> None:
    """Levels −1 and 1: P(1|z) is a sigmoid of the logits' difference and 2 √ᾱ z/(1 − ᾱ); Var = 4 P (1 − P)."""
    output, at = gaussians(40, OUTPUTS, 1, 1), torch.full((40,), gamma, dtype=torch.float64)
    z = 2 * gaussians(40, 1, 1, 1, seed=1)
    signal, noise = rates(at, z)
    p = torch.sigmoid(output[:, 7:] - output[:, 6:7] + 2 * signal * z / noise**2)
    found = Posterior.of(output, z, signal, noise, 2)
    torch.testing.assert_close(found.var(), 4 * p * (1 - p), rtol=1e-9, atol=1e-12)


def test_the_variance_is_computed_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    output, z = gaussians(7, 3 * OUTPUTS, 2, 2), gaussians(7, 3, 2, 2, seed=1)
    found = Posterior.of(output, z, *rates(torch.zeros(7), z), 16)
    whole = found.var()
    monkeypatch.setattr("nelbo.diffusion.levels.LARGEST", 2 * 12 * 16)
    assert torch.equal(found.var(), whole)


def test_a_learned_variance_says_what_var_the_image_has() -> None:
    """Where σ² = β̃ + c² V of the chain's own step, V comes back, and the step to any other γ is by these moments."""
    gammas = chain_of(torch.linspace(-5, 4, 10, dtype=torch.float64))
    z, t = gaussians(9, 3), torch.arange(2, 11)
    gamma, before = gammas[t], gammas[t - 1]
    wanted = 0.3 * torch.rand(9, 3, dtype=torch.float64) * (1 + gamma.exp())[:, None] * 0.02
    low = posterior(z, z, before, gamma).var
    high = (1 - (1 + before.exp()) / (1 + gamma.exp()))[:, None]
    own = low + image_gain(before, gamma)[:, None] ** 2 * wanted
    assert bool((own < high).all())
    v = (own.log() - low.log()) / (high.log() - low.log())
    denoised = from_x_0(torch.zeros_like(z), z, gamma)._replace(fraction=v)
    torch.testing.assert_close(LearnedVariance().var(denoised, before, gamma), own, rtol=1e-10, atol=0)
    found = LearnedMoments(gammas)
    torch.testing.assert_close(found.image_var(denoised, gamma), wanted, rtol=1e-7, atol=1e-12)
    far = torch.full_like(gamma, -7.0)
    expected = posterior(z, z, far, gamma).var + image_gain(far, gamma)[:, None] ** 2 * wanted
    torch.testing.assert_close(found.var(denoised, far, gamma), expected, rtol=1e-7, atol=1e-12)


# The best steps


def some_costs(n: int, seed: int = 0) -> StepCosts:
    rng = np.random.default_rng(seed)
    steps = torch.from_numpy(rng.exponential(size=(n, n))).masked_fill(torch.ones(n, n).tril().bool(), math.inf)
    reconstruction, prior = (torch.from_numpy(rng.exponential(size=n)) for _ in range(2))
    return StepCosts(torch.linspace(-8, 5, n, dtype=torch.float64), reconstruction, steps, prior)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_the_best_path_is_the_best_of_all(count: int, seed: int) -> None:
    """Against the sum of the costs of every path of this length."""
    costs = some_costs(9, seed)
    every = {
        path: float(costs.reconstruction[path[0]])
        + sum(float(costs.steps[pair]) for pair in itertools.pairwise(path))
        + float(costs.prior[path[-1]])
        for path in itertools.combinations(range(9), count)
    }
    best = min(every, key=lambda path: every[path])
    found = costs.best(count)
    torch.testing.assert_close(found, chain_of(costs.gammas[list(best)]))
    assert costs.bound(found) == pytest.approx(every[best], rel=1e-12)


def test_more_steps_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match="between 1 and 9"):
        some_costs(9).best(10)


def test_a_finer_chain_has_the_same_density() -> None:
    chain = chain_of(torch.tensor([-9.0, -3.0, -1.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(
        refined(chain, 7), chain_of(torch.tensor([-9.0, -6.0, -3.0, -2.0, -1.0, 1.5, 4.0], dtype=torch.float64))
    )


def vdm(**settings: object) -> VDM:
    """One pixel of five levels, random weights everywhere."""
    torch.manual_seed(0)
    chosen = {"widths": (8,), "attention": (), "fourier": (), "gamma_min": -5.0, "gamma_max": 3.0} | settings
    model = VDM.from_options(VDMOptions.model_validate(chosen).resolved((1, 1, 2)), (1, 1, 2), 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("variance", ["beta_tilde", "moments"])
def test_the_measured_costs_of_a_chain_are_its_bound(variance: str) -> None:
    """Of the chain that the costs choose, scored on its own with other noise: term by term within 4 combined s.e."""
    model, n = with_variance(vdm(), variance), 20_000
    x = torch.tensor([[0, 4], [1, 3]], dtype=torch.uint8).repeat(n // 2, 1).reshape(n, 1, 1, 2)
    grid = torch.linspace(-5, 3, 9, dtype=torch.float64)
    costs = measured_costs(bound_of(model), model.variance, grid, x, Draws(1, 0, range(n), n, CPU))
    chosen = in_steps(model, 3, reverse_variance=variance, costs=costs)
    assert chosen.timeline.steps is not None
    path = torch.searchsorted(grid, chosen.timeline.steps[1:].contiguous()).tolist()
    terms = chosen.forms["denoising"].estimate(x, Draws(2, 0, range(n), n, CPU), 3).terms
    exact = {
        "reconstruction": costs.reconstruction[path[0]],
        "diffusion": torch.stack([costs.steps[pair] for pair in itertools.pairwise(path)]).sum(),
        "prior": costs.prior[path[-1]],
    }
    for name, term in terms.items():
        error = float(term.double().std()) / n**0.5
        assert abs(float(term.mean()) - float(exact[name])) <= 4 * 2**0.5 * error + 1e-6


@torch.no_grad()
def test_costs_of_gaussian_data_are_their_closed_forms() -> None:
    """C(s, t) = ½ Σ ln(σ²/β̃), each the KL by torch, with the exact denoiser: within 4 s.e."""
    n, grid = 50_000, torch.linspace(-4, 3, 5, dtype=torch.float64)
    x = DATA.sample(gaussians(n, 3, seed=1))
    for s, t in itertools.combinations(range(5), 2):
        gamma_s, gamma_t, eps = grid[s].expand(n), grid[t].expand(n), gaussians(n, 3, seed=10 + t)
        z = diffuse(x, gamma_t, eps)
        denoised = said(z, gamma_t)
        term = MOMENTS.diffusion_term(denoised, eps, gamma_s, gamma_t)
        law, q = MOMENTS.step(denoised, z, gamma_s, gamma_t), posterior(x, z, gamma_s, gamma_t)
        direct = kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(law.mean, law.var.sqrt())).sum(1)
        torch.testing.assert_close(term, direct, rtol=1e-8, atol=1e-8)
        assert_mean(term, float(0.5 * (law.var[0] / q.var[0]).log().sum()), 4)


def test_models_without_moments_are_refused() -> None:
    v = vdm(head="v")
    for make in (lambda: with_variance(v, "moments"), lambda: in_steps(v, 4, reverse_variance="moments")):
        with pytest.raises(InputError, match="law over levels"):
            make()
    with pytest.raises(InputError, match="reverse_variance"):
        Diffusion(torch.nn.Linear(1, 1), (1, 1, 1), 5, predict="v", reverse_variance="moments", timesteps=4)
