"""The hierarchical VAE: terms by quadrature over every latent, both orders of inference, and diffusion as a case."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gaussians
from torch import Tensor

from nelbo.diffusion.bound import ChainBound
from nelbo.errors import InputError
from nelbo.models._diffusion_forms import bound_of
from nelbo.models._latent import relative_gaussian
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.hvae import HVAE, HVAEOptions
from nelbo.models.sampling import SampleSettings
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.nn.ladder import places_of
from nelbo.rng import Draws, Stream
from nelbo.theory.exact import Coefficients
from nelbo.theory.hierarchy import bottom_up_terms, infer_bottom_up
from nelbo.theory.likelihoods import to_unit
from nelbo.theory.normal import Gaussian

CPU = torch.device("cpu")
NODES = {1: 2001, 2: 401, 3: 61}
"""Points per latent from −7 to 7 standard deviations, by depth: half as many give the same to 1e-5 (61: to 1e-3)."""


def hvae(depth: int = 2, levels: int = 3, shape: tuple[int, int, int] = (1, 1, 1), **settings: object) -> HVAE:
    """One-dimensional z_t on images of one pixel, and every weight random."""
    torch.manual_seed(0)
    given = {"depth": depth, "latent": 1, "widths": (8,)} | settings
    model = HVAE.from_options(HVAEOptions.model_validate(given).resolved(shape), shape, levels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape)
    return model.eval()


def grid(depth: int) -> tuple[list[Tensor], Tensor]:
    """Noise of z_1 … z_T on a grid, shapes (n, 1, 1, 1), and the standard normal mass of each point, shape (n,)."""
    nodes = np.linspace(-7, 7, NODES[depth])
    weights = np.exp(-0.5 * nodes**2)
    weights /= weights.sum()
    points = torch.cartesian_prod(*[torch.from_numpy(nodes).float()] * depth).reshape(-1, depth)
    mass = torch.cartesian_prod(*[torch.from_numpy(weights)] * depth).reshape(-1, depth).prod(1)
    return [points[:, t].reshape(-1, 1, 1, 1) for t in range(depth)], mass


@torch.no_grad()
def likelihood(model: HVAE, x: Tensor) -> float:
    """p(x) = ∫ p(z_T) ∏ p(z_t|z_{t+1}) p(x|z_1), by quadrature along the generative side alone."""
    noise, mass = grid(model.options.depth)
    nll = model._nll(x.expand(len(mass), 1, 1, 1), model._generate(noise)).double()
    return float((mass * (-nll).exp()).sum())


@torch.no_grad()
def expected(model: HVAE, x: Tensor) -> tuple[dict[str, float], dict[str, float], float]:
    """E_q of the analytic terms and of the sampled ones, and of p(x, z)/q(z|x), by quadrature along q."""
    noise, mass = grid(model.options.depth)
    many = x.expand(len(mass), 1, 1, 1)
    flat = torch.cat([part.flatten(1) for part in noise], 1)
    sampled = model._densities(many, flat)
    analytic = sampled
    if model.downwards:
        walk = model._walk_down(many, noise)
        analytic = {"reconstruction": walk.reconstruction, **{f"kl_{t}": kl for t, kl in enumerate(walk.kl, 1)}}
    ratio = (-torch.stack(list(sampled.values())).double().sum(0)).exp()
    means = [
        {name: float((mass * term.double()).sum()) for name, term in terms.items()} for terms in (analytic, sampled)
    ]
    return means[0], means[1], float((mass * ratio).sum())


EVERY = pytest.mark.parametrize(
    "settings",
    [
        {"inference": "top-down"},
        {"inference": "top-down", "stream": True},
        {"inference": "bottom-up"},
        {"inference": "bottom-up", "depth": 1},
        {"inference": "top-down", "depth": 1},
    ],
    ids=lambda given: "-".join(map(str, given.values())),
)


@torch.no_grad()
@EVERY
def test_the_terms_are_those_of_a_law(settings: dict[str, object]) -> None:
    """E_q[p(x, z)/q(z|x)] = p(x), found without q; Σ_x p(x) = 1; the bound lies above −ln p(x). 1e-4: float32."""
    model, mass = hvae(**settings), 0.0
    for level in range(model.levels):
        x = torch.full((1, 1, 1, 1), level, dtype=torch.uint8)
        p = likelihood(model, x)
        analytic, sampled, ratio = expected(model, x)
        assert ratio == pytest.approx(p, rel=1e-4)
        assert sum(sampled.values()) == pytest.approx(sum(analytic.values()), abs=1e-4)
        assert sum(analytic.values()) >= -math.log(p) - 1e-5
        mass += p
    assert mass == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_top_down_levels_are_divergences() -> None:
    """Each kl_t in closed form is the mean of its own logarithm, and not negative."""
    model = hvae(inference="top-down")
    for level in range(model.levels):
        analytic, sampled, _ = expected(model, torch.full((1, 1, 1, 1), level, dtype=torch.uint8))
        for name in ("kl_1", "kl_2"):
            assert sampled[name] == pytest.approx(analytic[name], abs=1e-4)
            assert analytic[name] > 1e-6


def test_a_bottom_up_level_can_be_negative_and_is_no_divergence() -> None:
    """In closed form, with v = 1 − a²: q(z_1|x) = N(x, s²), q(z_2|z_1) = N(a z_1, v), p(z_1|z_2) = N(a z_2, v).

    level_1 = E[ln q(z_1|x) − ln p(z_1|z_2)] = −½ ln(s²) − ½ + ½ ln(v) + ½ E(z_1 − a z_2)²/v, and so on.
    """
    x, s, a = 0.3, 1.5, 0.8
    v, second = 1 - a * a, x * x + s * s
    gap = (1 - a * a) ** 2 * second + a * a * v  # E(z_1 − a z_2)²
    level_1 = 0.5 * (math.log(v / s**2) + gap / v - 1)
    level_2 = 0.5 * (-math.log(v) + a * a * second + v - 1)
    n = 400_000
    start = torch.full((n, 1), x, dtype=torch.float64)

    def up(z: Tensor, t: int) -> Gaussian:
        spread = torch.full_like(z, s * s if t == 1 else v)
        return Gaussian(z if t == 1 else a * z, spread)

    walk = infer_bottom_up(
        up,
        lambda z, t: Gaussian(a * z, torch.full_like(z, v)),
        Gaussian(torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)),
        lambda z: z.new_zeros(len(z)),
        start,
        [gaussians(n, 1, seed=1), gaussians(n, 1, seed=2)],
    )
    terms = bottom_up_terms(walk)
    assert level_1 < -0.1
    assert_mean(terms["level_1"], level_1, sigmas=4)
    assert_mean(terms["level_2"], level_2, sigmas=4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["ddpm", "vdm"])
def test_a_diffusion_is_a_hierarchy_with_a_fixed_encoder(family: str) -> None:
    """Latents of the data's size, q linear and Gaussian, p(z_T) = N(0, I): the bottom-up bound is the denoising form's.

    The hierarchy is given the process and the network's reverse steps as a stranger would write them, from α_t and β_t;
    3,000 draws of the noise for each of three images, 4 combined standard errors.
    """
    torch.manual_seed(1)
    shape, n = (1, 2, 2), 3000
    if family == "ddpm":
        options = DDPMOptions(timesteps=4, widths=(8,))
        model: DDPM | VDM = DDPM.from_options(options.resolved(shape), shape, 5)
    else:
        model = VDM.from_options(
            VDMOptions(timesteps=3, widths=(8,), gamma_min=-3.0, gamma_max=3.0).resolved(shape), shape, 5
        )
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn(parameter.shape)
    model.eval()
    chain = bound_of(model)
    assert isinstance(chain, ChainBound)
    table = Coefficients(chain.gammas)

    def up(z: Tensor, t: int) -> Gaussian:
        return Gaussian(table.alpha[t].sqrt() * z, table.beta[t].expand_as(z))

    def down(z: Tensor, t: int) -> Gaussian:
        return chain.reverse(z, *(chain.gammas[at].expand(len(z)) for at in (t - 1, t)))

    images = torch.tensor([[0, 4, 2, 2], [1, 1, 1, 1], [4, 0, 3, 2]], dtype=torch.uint8).reshape(3, *shape)
    for image in images:
        x = image.expand(n, *shape)
        noise = [gaussians(n, *shape, seed=t) for t in range(chain.T)]
        one = torch.ones(1, *shape, dtype=torch.float64)
        walk = infer_bottom_up(
            up, down, Gaussian(0 * one, one), lambda z, x=x: chain.decode(x, z), to_unit(x, 5).double(), noise
        )
        found = torch.stack(list(bottom_up_terms(walk).values())).sum(0)
        form = (
            model.forms.named(None)
            .estimate(x, Draws(3, 0, range(n), n, CPU), model.forms.all_timesteps or 1)
            .total.double()
        )
        spread = (found.var() / n + form.var() / n).sqrt()
        assert abs(float(found.mean() - form.mean())) <= 4 * float(spread)
        assert float(spread) < 0.05 * float(form.mean())  # or it would say nothing


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"inference": "bottom-up"}, {"stream": True}], ids=str)
def test_many_samples_in_one_logarithm_find_the_likelihood(settings: dict[str, object]) -> None:
    model = hvae(**settings)
    row = torch.full((1, 1, 1, 1), 1, dtype=torch.uint8)
    exact, x = -math.log(likelihood(model, row)), row.expand(4000, 1, 1, 1)
    totals = [model.forms["iw"].estimate(x, Draws(k, 0, range(4000), 4000, CPU), k).total for k in (1, 4, 16)]
    sampled = model.forms["sampled"].estimate(x, Draws(1, 0, range(4000), 4000, CPU), 0).total.double()
    torch.testing.assert_close(totals[0], sampled, rtol=1e-4, atol=1e-5)
    weights = (-totals[-1]).exp()
    assert_mean(weights, math.exp(-exact), sigmas=4)
    assert totals[0].mean() >= totals[2].mean() - 3 * float(totals[0].std()) / 4000**0.5


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"kl_warmup": 10}, {"beta": 2.0}, {"free_bits": 0.05}], ids=str)
def test_the_objective_is_what_it_says(settings: dict[str, object]) -> None:
    mark = 0.0
    if "free_bits" in settings:
        x = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1)
        noise = Draws(0, 4, range(3), 3, CPU).normal(Stream.TRAIN_NOISE, (2,))
        mark = float(hvae()._walk_down(x, hvae()._cut(noise)).kl.mean())  # between the two levels' means
        settings = {"free_bits": mark}
    model = hvae(**settings)
    x = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1)
    draws = Draws(0, 4, range(3), 3, CPU)
    walk = model._walk_down(x, model._cut(draws.normal(Stream.TRAIN_NOISE, (2,))))
    kl = walk.kl
    if "free_bits" in settings:
        below = [float(level.mean()) < mark for level in kl]
        assert sum(below) == 1  # both kinds are there
        kl = torch.stack([torch.full((3,), mark) if low else level for level, low in zip(kl, below, strict=True)])
    weight = {"kl_warmup": 0.5, "beta": 2.0, "free_bits": 1.0}[next(iter(settings))]
    torch.testing.assert_close(model.loss(x, draws), walk.reconstruction + weight * kl.sum(0))


@torch.no_grad()
def test_samples_have_the_law_of_the_generative_side() -> None:
    """The mean of 4,000 images' expectations, within 4 standard errors of its quadrature."""
    model = hvae(depth=3)
    noise, mass = grid(3)
    exact = float(
        (mass * model.pixels(model.ladder.image(model._generate(noise))).expectation().double().flatten()).sum()
    )
    *_, last = model.frames(range(4000), 0, SampleSettings())
    assert_mean(last.x.flatten(), exact, sigmas=4)


def test_a_shift_and_a_factor_make_q() -> None:
    """μ_q = μ_p + Δ, σ_q = σ_p e^δ, as long as δ is small beside 5, where it is held."""
    p = Gaussian(torch.tensor([[1.0]]), torch.tensor([[4.0]]))
    q = relative_gaussian(p, torch.tensor([[0.5, math.log(1.5)]]))
    assert float(q.mean) == pytest.approx(1.5)
    held = 5 * math.tanh(math.log(1.5) / 5)
    assert float(q.var.sqrt()) == pytest.approx(2.0 * math.exp(held), rel=1e-5)


@torch.no_grad()
def test_silent_levels_are_named() -> None:
    model = hvae()
    x = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1)
    assert model.inspector.diagnostics(x) == {"silent_levels": []}
    assert model.inspector.warnings(model.inspector.diagnostics(x)) == []
    for level, words in ((1, "levels [1] carry none"), (2, "no level carries information")):
        head = model.encoder.meet[level - 1][-1][-1]
        head.weight.zero_()
        head.bias.zero_()
        (line,) = model.inspector.warnings(model.inspector.diagnostics(x))
        assert words in line


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="stream"):
        hvae(inference="bottom-up", stream=True)
    with pytest.raises(InputError, match="decoder"):
        hvae(decoder="bernoulli")
    with pytest.raises(InputError, match="steps"):
        hvae().inspector.describe_sampling(SampleSettings(steps=3))


@pytest.mark.parametrize(("depth", "resolutions"), list(product(range(1, 9), range(1, 6))))
def test_levels_stand_from_coarse_to_fine(depth: int, resolutions: int) -> None:
    """Never finer above than below; the top on the coarsest; shared out evenly; the finest only where it is alone."""
    places = places_of(depth, resolutions)
    assert list(places) == sorted(places)
    assert places[-1] == resolutions - 1
    assert min(places) >= min(1, resolutions - 1)
    counts = [places.count(place) for place in range(min(1, resolutions - 1), resolutions)]
    if depth >= len(counts):
        assert max(counts) - min(counts) <= 1


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 7, 10), (3, 9, 5), (2, 16, 16)])
@pytest.mark.parametrize("inference", ["top-down", "bottom-up"])
def test_sides_that_cannot_be_halved(shape: tuple[int, int, int], inference: str) -> None:
    """What is padded inside is no dimension of the data: the bound of an image is a sum over its own pixels."""
    model = hvae(depth=3, shape=shape, widths=(8, 8, 8), inference=inference)
    x = torch.randint(0, 3, (2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise = model._cut(torch.randn(2, sum(model._sizes)))
    features = model._generate(noise)
    law = model.pixels(model.ladder.image(features))
    every = torch.stack([law.log_prob(torch.full_like(x, level)) for level in range(3)]).exp().sum(0)
    torch.testing.assert_close(every, torch.ones_like(every))
    torch.testing.assert_close(model._nll(x, features), -law.log_prob(x).sum((1, 2, 3)))
