"""Importance sampling of the reconstruction: its estimate against exact integrals, and its standard error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gammas_of, gaussians, table_of
from scipy import stats
from torch import Tensor, nn

from nelbo.diffusion.rare import crossing, shifted
from nelbo.metrics import LikelihoodScore, score_likelihood
from nelbo.models.diffusion import Diffusion
from nelbo.theory.likelihoods import DiscretizedNormal, to_unit

SHAPE, STD = (1, 8, 8), 0.002


class Constant(nn.Module):
    """v = 0 and the same ln σ for every pixel."""

    def __init__(self, log_std: float) -> None:
        super().__init__()
        self.said = nn.Parameter(torch.tensor([0.0, log_std, 0.0]))

    def forward(self, x: Tensor, gamma: Tensor) -> Tensor:
        return self.said[None, :, None, None].expand(len(x), 3, *SHAPE[1:])


def narrow(levels: int = 17, std: float = STD, T: int = 1000) -> Diffusion:
    """A chain with a narrow decoder, N(√ᾱ_1 x_1, σ²), whose cost of a pixel is that of its own noise alone."""
    network = Constant(math.log(std) - 0.5 * float(table_of("sigmoid", T).beta[1].log()))
    model = Diffusion(
        network,
        SHAPE,
        levels,
        schedule="sigmoid",
        decoder="learned_gaussian",
        reverse_variance="learned",
        timesteps=T,
    )
    return model.eval()


def images(n: int, levels: int = 17) -> Tensor:
    """Half of the pixels black, as of digits."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(
        rng.integers(0, levels, (n, *SHAPE), dtype=np.uint8) * rng.integers(0, 2, (n, *SHAPE), dtype=np.uint8)
    )


def exact(x: Tensor, levels: int = 17, std: float = STD, T: int = 1000) -> Tensor:
    """E[−ln p(x_0|x_1)] of each image, an integral over one ε for each level."""
    table = table_of("sigmoid", T)
    signal, noise = float(table.alpha_bar[1].sqrt()), float(table.noise_var[1].sqrt())
    eps = torch.linspace(-9, 9, 36001, dtype=torch.float64)
    density = torch.exp(-0.5 * eps.square()) / math.sqrt(2 * math.pi) * float(eps[1] - eps[0])
    level = torch.arange(levels)[:, None]
    mean = signal * (signal * to_unit(level, levels).double() + noise * eps)
    cost = -DiscretizedNormal(mean, torch.tensor(std).double(), levels).log_prob(level) @ density
    return cost[x.long()].flatten(1).sum(1)


def test_two_claimed_errors_cover_a_reconstruction_that_few_draws_hold() -> None:
    """30 seeds of 60 images. From one x_1 in each estimate, 15 of the 30 are more than two errors off."""
    model, x = narrow(), images(60)
    truth = float(exact(x).mean())
    scores = [score_likelihood(model, x, seed=seed, timesteps=1) for seed in range(30)]
    found = torch.tensor([score.nats("reconstruction") for score in scores])
    claimed = torch.tensor([score.stderr_mc("reconstruction") * math.log(2) * 64 for score in scores])
    assert int(((found - truth).abs() <= 2 * claimed).sum()) >= 27
    assert_mean(found, truth)
    assert float(claimed.square().mean().sqrt()) == pytest.approx(float(found.std()), rel=0.5)
    assert scores[0].evaluations == 2 * (1 + 4 + 1)


@pytest.mark.parametrize("std", [0.002, 0.05, 1.0])
@pytest.mark.parametrize("form", ["denoising", "consistency"])
def test_the_estimate_is_unbiased_whatever_the_decoder(form: str, std: float) -> None:
    """Of a decoder as broad as the levels too, whose cost is paid in every draw."""
    model, x = narrow(std=std), images(4)
    score = score_likelihood(model, x.repeat(400, 1, 1, 1), form=form, timesteps=1)
    assert_mean(score.estimates("reconstruction").mean(1).reshape(400, 4), exact(x, std=std), 4)


@pytest.mark.parametrize("a", [2.0, 3.6, 6.0])
def test_weights_make_up_for_the_shift(a: float) -> None:
    """E w = 1, E[w ε²] = 1 and the chance of a far ε; no weight is more than (1 − 1/D)^{−D}."""
    u = torch.rand(200_000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps, log_weight = shifted(gaussians(200_000, 8), u, a)
    weight = log_weight.exp()
    assert float(weight.max()) <= (1 - 1 / 8) ** -8
    assert_mean(weight, 1.0, 4)
    assert_mean(weight * eps[:, 3].square(), 1.0, 4)
    assert_mean(weight * eps[:, 3], 0.0, 4)
    assert_mean(weight * (eps > a).double().sum(1), 8 * stats.norm.sf(a), 4)


def test_where_a_reconstruction_is_rare() -> None:
    """a is half of 2/(L − 1) over √((1 − ᾱ_1)/ᾱ_1): of 17 levels and T = 1,000, not of 256, and not at T = 30."""
    for levels, T, extra in ((17, 1000, 4), (256, 1000, 0), (17, 30, 0), (2, 1000, 0)):
        table = table_of("sigmoid", T)
        half = 1 / (levels - 1)
        a = half / float(((1 - table.alpha_bar[1]) / table.alpha_bar[1]).sqrt())
        assert crossing(float(gammas_of("sigmoid", T)[1]), levels) == pytest.approx(a, rel=1e-9)
        assert (2 <= a <= 6) == (extra > 0)
        score = score_likelihood(narrow(levels, T=T), images(2, levels), timesteps=1)
        assert score.evaluations == 2 * (2 + extra)


def test_an_error_that_few_images_make_is_said_to_be_uncertain() -> None:
    rng = np.random.default_rng(0)
    even = torch.from_numpy(10 + rng.standard_normal((60, 2)))
    few = torch.zeros(60, 2).double()
    few[:3, 0] = 50.0
    (line,) = LikelihoodScore({"reconstruction": few, "diffusion": even}, 64, 2).warnings()
    assert line.startswith("reconstruction: 3 of 60 images have 90% of its Monte Carlo variance")
    assert "replicates" in line
    assert LikelihoodScore({"reconstruction": 1e-4 * few, "diffusion": even}, 64, 2).warnings() == []
    assert LikelihoodScore({"reconstruction": few[:10], "diffusion": even[:10]}, 64, 2).warnings() == []
