"""AE, HVAE and GAN with linear networks from Python, whose distributions are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from math_helpers import assert_mean
from scipy import stats
from torch import Tensor, nn

from nelbo.errors import InputError
from nelbo.models.ae import AE
from nelbo.models.diffusion import Diffusion
from nelbo.models.gan import GAN
from nelbo.models.hvae import HVAE
from nelbo.models.sampling import SampleSettings
from nelbo.models.vae import VAE
from nelbo.rng import Draws

CPU = torch.device("cpu")
LEVELS = 5
EDGES = np.arange(1, 2 * LEVELS - 2, 2) / (LEVELS - 1) - 1
"""Between neighbouring levels on [−1, 1]."""


def shares(mean: float, std: float, edges: np.ndarray) -> np.ndarray:
    """The probability of every level under N(mean, std²), cut at the edges."""
    return np.diff(stats.norm.cdf(edges, mean, std), prepend=0.0, append=1.0)


# An autoencoder: principal components

SHAPE = (2, 2, 3)


class Components(nn.Module):
    """The first components of the images, found by numpy: x → its coordinates."""

    def __init__(self, x_0: np.ndarray, count: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.from_numpy(x_0.mean(0)).float())
        self.basis = nn.Parameter(torch.from_numpy(np.linalg.svd(x_0 - x_0.mean(0))[2][:count]).float())

    def forward(self, x_0: Tensor) -> Tensor:
        return (x_0.flatten(1) - self.mean) @ self.basis.T


class Back(nn.Module):
    """Coordinates → the image."""

    def __init__(self, components: Components) -> None:
        super().__init__()
        self.components = components

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.components.basis + self.components.mean).reshape(-1, *SHAPE)


def correlated(n: int) -> np.ndarray:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(n, 4)) @ draw.normal(size=(4, 12)) + 0.3 * draw.normal(size=(n, 12))
    return (x * 0.7 + 2).round().clip(0, LEVELS - 1).astype(np.uint8).reshape(n, *SHAPE)


@torch.no_grad()
def test_an_autoencoder_of_principal_components_loses_the_others() -> None:
    """The loss is the sum of the other eigenvalues over D, and samples have the law of the ones that are kept.

    The mean within 5 standard errors of 40,000 draws, the covariance within 5 of a product of two normal numbers.
    """
    x, n = correlated(300), 40_000
    x_0 = x.reshape(300, -1) / 2.0 - 1
    components = Components(x_0, 3)
    model = AE(components, Back(components), SHAPE, LEVELS, latent=3).train()
    loss = model.loss(torch.from_numpy(x), Draws(0, 0, range(300), 300, CPU))
    values, vectors = np.linalg.eigh(np.cov(x_0.T, bias=True))
    assert float(loss.double().mean()) == pytest.approx(values[:-3].sum() / 12, rel=1e-5)
    *_, last = model.frames(range(n), 0, SampleSettings())
    drawn = last.x.flatten(1).double().numpy()
    kept = vectors[:, -3:] * values[-3:] @ vectors[:, -3:].T
    spread = np.sqrt(kept.diagonal())
    assert (np.abs(drawn.mean(0) - x_0.mean(0)) <= 5 * spread / n**0.5 + 1e-6).all()
    assert (np.abs(np.cov(drawn.T) - kept) <= 5 * 2**0.5 * np.outer(spread, spread) / n**0.5 + 1e-6).all()


# A hierarchy: z_2 ~ N(0, 1), z_1 ~ N(a z_2, v), x ~ N(c z_1 + d, w²) in one pixel, cut into levels

A, V, C, D, W = 0.8, 0.5, 0.6, 0.2, 0.3


def log_std(value: float) -> float:
    """What a tanh that holds ln σ within ±5 makes ln σ of."""
    return 5 * math.atanh(value / 5)


def beside(mean: Tensor, spread: float) -> Tensor:
    return torch.cat([mean, torch.full_like(mean, spread)], 1)


class Chain(nn.Module):
    """The way down; what is above a level adds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = [(1,), (1,)]
        self.a = nn.Parameter(torch.tensor(A))

    def below(self, z: Tensor, t: int, above: Tensor | None) -> Tensor:
        return z

    def law(self, features: Tensor, t: int) -> Tensor:
        return beside(self.a * features, log_std(0.5 * math.log(V)))

    def image(self, features: Tensor) -> Tensor:
        return beside(C * features + D, math.log(W) + 1)[..., None, None]  # a normal likelihood takes 1 off


class Upwards(nn.Module):
    """q(z_1|x) = N(x, 1.5), q(z_2|z_1) = N(0.6 z_1, 0.7): wider than p(z|x), so that no p(x, z)/q is large."""

    def forward(self, z: Tensor, t: int) -> Tensor:
        z = z.flatten(1)
        return beside(z if t == 1 else 0.6 * z, log_std(0.5 * math.log(1.5 if t == 1 else 0.7)))


class Downwards(nn.Module):
    """q(z_2|x) = N(0.5 x, 1.2²), q(z_1|z_2, x) = N(a z_2 + 0.3 x, 1.2² v): wide, too."""

    def pyramid(self, x_0: Tensor) -> Tensor:
        return x_0.flatten(1)

    def forward(self, seen: Tensor, features: Tensor | None, t: int) -> Tensor:
        assert (features is None) == (t == 2)
        return beside((0.5 if t == 2 else 0.3) * seen, log_std(math.log(1.2)))


@torch.no_grad()
@pytest.mark.parametrize(("inference", "encoder"), [("bottom-up", Upwards()), ("top-down", Downwards())])
def test_a_linear_hierarchy_bounds_the_law_that_it_has(inference: str, encoder: nn.Module) -> None:
    """x before it is cut is N(d, c² (a² + v) + w²): E_q[p(x, z)/q] is its share of each level, and the bound above it.

    40,000 draws for each level, 4 standard errors; samples show N(d, c² (a² + v)), by KS.
    """
    model = HVAE(encoder, Chain(), (1, 1, 1), LEVELS, inference=inference, likelihood="normal").eval()
    p = shares(D, math.sqrt(C**2 * (A**2 + V) + W**2), EDGES)
    n = 40_000
    for level in range(LEVELS):
        x = torch.full((n, 1, 1, 1), level, dtype=torch.uint8)
        sampled = model.bound(x, form="sampled", seed=level).total.double()
        assert_mean((-sampled).exp(), p[level], sigmas=4)
        assert float(sampled.mean()) >= -math.log(p[level])
        iw = model.bound(x[:4000], form="iw", k=64, seed=level).total.double()
        assert -math.log(p[level]) - 0.02 <= float(iw.mean()) <= float(sampled.mean())
        if inference == "top-down":
            analytic = model.bound(x, seed=level)
            for name, term in model.bound(x, form="sampled", seed=level + 9).terms.items():
                both = torch.stack([term.double(), analytic.terms[name].double()])
                off = both.mean(1).diff().abs()
                assert float(off) <= 4 * float((both.var(1).sum() / n).sqrt()) + 1e-6
    *_, last = model.frames(range(n), 0, SampleSettings())
    assert stats.kstest(last.x.flatten().numpy(), stats.norm(D, C * math.sqrt(A**2 + V)).cdf).pvalue > 1e-3


# A game: a linear generator


class Linear(nn.Module):
    """0.7 z − 0.2 of the first number of z, and with two clusters 0.9 c more."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.7, 0.0, 0.0, 0.9]))

    def forward(self, z: Tensor) -> Tensor:
        return ((z * self.weights[: z.shape[1]]).sum(1) - 0.2).reshape(-1, 1, 1, 1)


class Judge(nn.Module):
    """ln p/p_G of what is seen before the tanh, where p = N(0.1, 0.5²) and p_G = N(−0.2, 0.7²)."""

    def forward(self, x_0: Tensor) -> Tensor:
        u = torch.atanh(x_0.flatten(1)[:, 0].clamp(-1 + 1e-6, 1 - 1e-6))
        return 0.5 * ((u + 0.2) / 0.7) ** 2 - 0.5 * ((u - 0.1) / 0.5) ** 2 + math.log(0.7 / 0.5)


def fits(drawn: Tensor, p: np.ndarray) -> bool:
    """χ² of the levels' counts does not refuse p at 0.1%."""
    counts = np.bincount(drawn.flatten().numpy(), minlength=LEVELS)
    return bool(stats.chisquare(counts, p * counts.sum()).pvalue > 1e-3)


@torch.no_grad()
def test_a_linear_generator_draws_its_law_and_its_judge_the_datas() -> None:
    """Levels are a normal law cut at atanh of their edges; 40 steps of a chain that the exact ratio judges give p's."""
    model = GAN(Linear(), Judge(), (1, 1, 1), LEVELS, latent=3).eval()
    cut = np.arctanh(EDGES)
    assert fits(model.sample(20_000, batch=20_000), shares(-0.2, 0.7, cut))
    assert not fits(model.sample(20_000, batch=20_000), shares(0.1, 0.5, cut))
    assert fits(model.sample(20_000, batch=20_000, steps=40), shares(0.1, 0.5, cut))


@torch.no_grad()
def test_a_generator_is_told_its_cluster_as_a_row() -> None:
    class Told(nn.Module):
        def forward(self, x_0: Tensor, c: Tensor) -> Tensor:
            return c.float()

    model = GAN(Linear(), Told(), (1, 1, 1), LEVELS, latent=2, clusters=2, loss="hinge").eval()
    assert model.clusters is not None
    model.clusters.shares.copy_(torch.tensor([0.25, 0.75]))
    cut = np.arctanh(EDGES)
    mixture = 0.25 * shares(-0.2, 0.7, cut) + 0.75 * shares(0.7, 0.7, cut)
    assert fits(model.sample(20_000, batch=20_000), mixture)


# What does not fit is said


class Wrong(nn.Module):
    """A column where a row is needed, and nothing of a hierarchy."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return self.weight * x.flatten(1)[:, :1]


class Pair(Wrong):
    """μ and ln σ² of one number."""

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return super().forward(x).repeat(1, 2)


X = torch.zeros(6, 1, 1, 1, dtype=torch.uint8)


def test_a_networks_output_of_another_shape_is_refused() -> None:
    """Each of these would broadcast, and be trained on."""
    draws = Draws(0, 1, range(6), 6, CPU)
    with pytest.raises(InputError, match=r"critic: outputs shape \(6, 1\), but the model needs \(6,\)"):
        GAN(Linear(), Wrong(), (1, 1, 1), LEVELS, latent=3).loss(X, draws)
    with pytest.raises(InputError, match=r"generator: outputs shape \(6, 1\), but the model needs \(6, 1, 1, 1\)"):
        GAN(Wrong(), Judge(), (1, 1, 1), LEVELS, latent=3).loss(X, draws)
    with pytest.raises(InputError, match=r"decoder: outputs shape \(6, 1\), but the model needs \(6, 1, 1, 1\)"):
        AE(Wrong(), Wrong(), (1, 1, 1), LEVELS, latent=1).loss(X, draws)
    with pytest.raises(InputError, match=r"encoder: outputs shape \(6, 1\), but the model needs \(6, 2\)"):
        AE(Wrong(), Wrong(), (1, 1, 1), LEVELS, latent=2).loss(X, draws)
    with pytest.raises(InputError, match=r"encoder: outputs shape \(6, 1\), but the model needs \(6, 6\)"):
        VAE(Wrong(), Wrong(), (1, 1, 1), LEVELS, latent=3).loss(X, draws)
    with pytest.raises(InputError, match=r"decoder: outputs shape \(6, 1\), but the model needs \(6, 15, 1, 1\)"):
        VAE(Pair(), Wrong(), (1, 1, 1), LEVELS, latent=1).loss(X, draws)
    with pytest.raises(InputError, match=r"encoder: outputs shape \(6, 1\), but the model needs \(6, 2\)"):
        HVAE(Wrong(), Chain(), (1, 1, 1), LEVELS, inference="bottom-up").loss(X, draws)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match=r"^loss: .*'hinge'"):
        GAN(Linear(), Judge(), (1, 1, 1), LEVELS, latent=3, loss="hing")
    with pytest.raises(InputError, match=r"^inference: "):
        HVAE(Upwards(), Chain(), (1, 1, 1), LEVELS, inference="up")
    with pytest.raises(InputError, match="decoder"):
        HVAE(Upwards(), Chain(), (1, 1, 1), LEVELS, inference="bottom-up", likelihood="bernoulli")
    with pytest.raises(InputError, match=r"^beta: "):
        VAE(Wrong(), Wrong(), (1, 1, 1), LEVELS, latent=1, beta=-1.0)
    with pytest.raises(InputError, match=r"^timesteps: "):
        Diffusion(Wrong(), (1, 1, 1), LEVELS, timesteps=-3)
