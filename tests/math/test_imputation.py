"""Hidden pixels of a VAE or hierarchical VAE given the seen ones, against the model's law by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from math_helpers import assert_mean
from torch import Tensor, nn

from nelbo.models._imputation import FREE_SWEEPS, HVAESpace, VAESpace, draw_levels, impute, latent_space
from nelbo.models.hvae import HVAE, HVAEOptions
from nelbo.models.vae import VAE
from nelbo.rng import Draws, Stream
from nelbo.theory.likelihoods import DiscretizedLogistics, DiscretizedNormal

SHAPE, LEVELS = (1, 2, 2), 2
SEEN = torch.tensor([[[True, False], [True, False]]])
PATTERNS = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8)


class Encoder(nn.Module):
    """A q(z|x) that is far from the posterior: its mean has half of the slope, and the wrong sign for one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        mean = 0.3 * x.flatten(1) @ torch.tensor([[1.0], [1.0], [-0.5], [0.6]])
        return torch.cat([mean, torch.full_like(mean, 0.2)], 1)


class Decoder(nn.Module):
    """Logits of four pixels, linear in z."""

    def forward(self, z: Tensor) -> Tensor:
        return (z @ torch.tensor([[2.0, 1.5, 1.0, -2.5]]) + torch.tensor([0.3, -0.5, 0.0, 0.4])).reshape(-1, *SHAPE)


MODEL = VAE(Encoder(), Decoder(), SHAPE, LEVELS, latent=1, likelihood="bernoulli")


def numbers(n: int) -> object:
    """The random numbers of n images."""
    return lambda k: Draws(0, k, range(n), n, torch.device("cpu"))


def exact_law(x: Tensor) -> Tensor:
    """p(hidden | seen) of the two hidden pixels, four numbers, by quadrature over z on ±8 (trapezoids of 1/500)."""
    z = torch.linspace(-8, 8, 8001, dtype=torch.float64)[:, None]
    chance = torch.sigmoid(MODEL.decoder(z.float())).double().flatten(1)
    prior = torch.exp(-0.5 * z[:, 0] ** 2)
    of = torch.where(PATTERNS[None].bool(), chance[:, None], 1 - chance[:, None]).prod(2)
    joint = (prior[:, None] * of).sum(0)
    agrees = (PATTERNS[:, [0, 2]] == x.flatten()[[0, 2]]).all(1)
    joint = torch.where(agrees, joint, 0.0)
    return joint[agrees] / joint.sum()


def drawn(model: VAE, x: Tensor, n: int, sweeps: int) -> Tensor:
    """Frequencies of the four values of the hidden pixels, as indicators, shape (n, 4)."""
    *_, last = impute(VAESpace(model), x.expand(n, *SHAPE), SEEN, LEVELS, sweeps, numbers(n))  # type: ignore[arg-type]
    assert bool((last[:, SEEN] == x[SEEN]).all())
    value = 2 * last.flatten(1)[:, 1].long() + last.flatten(1)[:, 3].long()
    return torch.nn.functional.one_hot(value, 4).double()


@torch.no_grad()
@pytest.mark.parametrize("seen", [(0, 0), (1, 1), (1, 0)])
def test_the_chain_has_the_models_law_although_q_is_not_the_posterior(seen: tuple[int, int]) -> None:
    """8,000 chains of 40 sweeps: 4 standard errors. Without acceptance, in the first sweeps, it is not so."""
    x = torch.tensor([[[seen[0], 0], [seen[1], 0]]], dtype=torch.uint8)
    exact = exact_law(x)
    assert_mean(drawn(MODEL, x, 8000, 40), exact, 4)


@torch.no_grad()
def test_without_acceptance_the_law_is_another() -> None:
    """After FREE_SWEEPS sweeps of pseudo-Gibbs sampling, a frequency is off by more than 0.05."""
    x = torch.tensor([[[1, 0], [1, 0]]], dtype=torch.uint8)
    assert float((drawn(MODEL, x, 8000, FREE_SWEEPS).mean(0) - exact_law(x)).abs().max()) > 0.05


@torch.no_grad()
@pytest.mark.parametrize("levels", [2, 5, 17])
def test_levels_are_drawn_by_their_probabilities(levels: int) -> None:
    """Evenly spaced u: each level as often as its probability, to 2 of 2,000."""
    laws = [
        DiscretizedNormal(torch.tensor(0.3).reshape(1, 1, 1, 1), torch.tensor(0.4), levels),
        DiscretizedLogistics(
            torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 1, 2),
            torch.tensor([-0.5, 0.6]).reshape(1, 1, 1, 1, 2),
            torch.tensor([-1.5, -2.0]).reshape(1, 1, 1, 1, 2),
            levels,
        ),
    ]
    u = ((torch.arange(2000).double() + 0.5) / 2000).reshape(-1, 1, 1, 1)
    for law in laws:
        counts = torch.bincount(draw_levels(law, levels, u).flatten().long(), minlength=levels)
        every = torch.arange(levels).reshape(-1, 1, 1, 1)
        expected = 2000 * law.log_prob(every).double().exp().flatten()
        assert float((counts - expected).abs().max()) <= 2


def hierarchical(inference: str) -> HVAE:
    """A small hierarchical VAE of two levels, with random weights that do not change."""
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        options = HVAE_OPTIONS.model_copy(update={"inference": inference}).resolved(SHAPE)
        model = HVAE.from_options(options, SHAPE, LEVELS)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


HVAE_OPTIONS = HVAEOptions(depth=2, latent=2, widths=(4, 4))


@torch.no_grad()
@pytest.mark.parametrize("inference", ["top-down", "bottom-up"])
def test_the_prior_and_the_decoder_of_a_hierarchy_are_the_models(inference: str) -> None:
    """The image of a sample of the prior is the model's own sample of the same noise."""
    model = hierarchical(inference)
    space = latent_space(model)
    assert isinstance(space, HVAESpace)
    noise = space.noise(Draws(1, 0, range(5), 5, torch.device("cpu")))
    mean = space.law(space.prior(noise)).expectation()
    expected = model.pixels(model.ladder.image(model._generate(noise))).expectation()
    torch.testing.assert_close(mean, expected, atol=1e-6, rtol=0)
    assert float(mean.std(0).min()) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("inference", ["top-down", "bottom-up"])
def test_the_latents_of_a_hierarchy_are_those_of_its_bound(inference: str) -> None:
    """Their densities are the terms of one pass with the same noise."""
    model = hierarchical(inference)
    space = HVAESpace(model)
    x = PATTERNS[[3, 9]].reshape(2, *SHAPE)
    noise = space.noise(Draws(1, 0, range(2), 2, torch.device("cpu")))
    z = space.infer(x, noise)
    walk = model._walk_down(x, noise) if model.downwards else model._walk_up(x, noise)
    nll = -space.law(z).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(nll, walk.reconstruction, atol=1e-5, rtol=0)
    if not model.downwards:
        q = [
            model._above(below, t).log_prob(at).flatten(1).sum(1)
            for t, (below, at) in enumerate(zip([2.0 * x - 1, z[0]], z, strict=True), 1)
        ]
        torch.testing.assert_close(torch.stack(q), walk.log_q, atol=1e-4, rtol=0)  # type: ignore[union-attr]


@torch.no_grad()
def test_the_sampler_of_a_hierarchy_is_gibbs_of_q_and_p() -> None:
    """One sweep: z ~ q(z|x) and the hidden pixels from p(x|z), by hand with the same numbers."""
    model, n = hierarchical("top-down"), 3
    space, make = HVAESpace(model), numbers(3)
    x = PATTERNS[[3, 9, 6]].reshape(n, *SHAPE)
    first, second = itertools.islice(impute(space, x, SEEN, LEVELS, 2, make), 2)  # type: ignore[arg-type]
    z = model._walk_down(first, space.noise(make(2))).latents  # type: ignore[operator]
    u = make(2).uniform(Stream.EDIT_CHOICE, (5,))  # type: ignore[operator]
    chance = torch.sigmoid(space.law(z).logits).double()  # type: ignore[attr-defined]
    expected = torch.where(SEEN, x, (u[:, :4].reshape(n, *SHAPE) > 1 - chance).to(torch.uint8))
    assert np.array_equal(second.numpy(), expected.numpy())
