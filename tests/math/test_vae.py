"""The VAE: its two terms by quadrature, its objective, and its importance-weighted bound by enumeration."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from math_helpers import gaussians
from scipy import stats
from torch import Tensor

from nelbo.errors import InputError
from nelbo.models.sampling import SampleSettings
from nelbo.models.vae import VAE, VAEOptions
from nelbo.rng import Draws, Stream
from nelbo.theory.likelihoods import Bernoulli, DiscretizedLogistics

CPU = torch.device("cpu")


def vae(shape: tuple[int, int, int] = (1, 1, 2), levels: int = 3, **settings: object) -> VAE:
    """One-dimensional z and every weight random."""
    torch.manual_seed(0)
    options = VAEOptions.model_validate({"latent": 1, "widths": (8,)} | settings).resolved(shape)
    model = VAE.from_options(options, shape, levels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape)
    return model.eval()


def every_image(levels: int, dims: int) -> Tensor:
    """All levels^dims images, shape (n, 1, 1, dims)."""
    grids = torch.meshgrid(*[torch.arange(levels)] * dims, indexing="ij")
    return torch.stack([part.flatten() for part in grids], 1).to(torch.uint8).reshape(-1, 1, 1, dims)


@torch.no_grad()
def by_quadrature(model: VAE, x: Tensor) -> dict[str, float]:
    """reconstruction, kl and −ln p(x) of one image, over a grid of one-dimensional z wide enough for prior and q."""
    z = torch.linspace(-14, 14, 9001, dtype=torch.float64)
    h = float(z[1] - z[0])
    mean, var = (float(part) for part in model._encode(2.0 * x.float() / (model.levels - 1) - 1))
    q, p = stats.norm.pdf(z.numpy(), mean, var**0.5), stats.norm.pdf(z.numpy())
    nll = model._reconstruction(x.expand(len(z), *x.shape[1:]), z.float()[:, None]).double().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(q > 0, q * np.log(q / p), 0.0).sum() * h
    return {
        "reconstruction": float((q * nll).sum() * h),
        "kl": float(kl),
        "nll": -math.log(float((p * np.exp(-nll)).sum() * h)),
    }


DECODERS = pytest.mark.parametrize(("decoder", "levels"), [("bernoulli", 2), ("normal", 3), ("logistic", 3)])


@torch.no_grad()
@DECODERS
def test_both_terms_are_their_integrals(decoder: str, levels: int) -> None:
    """Each within 3.5 standard errors of 20,000 draws; the closed KL to float32."""
    model = vae(levels=levels, decoder=decoder)
    for row in every_image(levels, 2)[:3]:
        exact = by_quadrature(model, row[None])
        x, n = row.expand(20_000, 1, 1, 2), 20_000
        draws = Draws(0, 0, range(n), n, CPU)
        analytic, sampled = (model.forms[name].estimate(x, draws, 0).terms for name in ("analytic", "sampled"))
        assert float(analytic["kl"][0]) == pytest.approx(exact["kl"], rel=1e-4)
        for found, name in ((analytic["reconstruction"], "reconstruction"), (sampled["kl"], "kl")):
            assert abs(float(found.mean()) - exact[name]) <= 3.5 * float(found.std()) / n**0.5 + 1e-5


@torch.no_grad()
@DECODERS
def test_the_bound_bounds_a_law(decoder: str, levels: int) -> None:
    """By enumeration: Σ_x p(x) = 1, and reconstruction + kl ≥ −ln p(x) ≥ 0 for each image."""
    model, mass = vae(levels=levels, decoder=decoder), 0.0
    for row in every_image(levels, 2):
        exact = by_quadrature(model, row[None])
        assert exact["reconstruction"] + exact["kl"] >= exact["nll"] - 1e-6
        mass += math.exp(-exact["nll"])
    assert mass == pytest.approx(1.0, abs=1e-5)  # float32 networks


@torch.no_grad()
def test_many_samples_in_one_logarithm_find_the_likelihood() -> None:
    """k = 1 is the sampled form; the mean of 2^k weights is p(x); IW falls with k and stays above −ln p(x)."""
    model = vae(levels=3)
    row = every_image(3, 2)[5]
    exact, x = by_quadrature(model, row[None])["nll"], row.expand(2000, 1, 1, 2)
    draws = Draws(1, 0, range(2000), 2000, CPU)
    one, sampled = (model.forms[name].estimate(x, draws, 1).total.double() for name in ("iw", "sampled"))
    torch.testing.assert_close(one, sampled, rtol=1e-4, atol=1e-5)
    means, last = [], None
    for k in (1, 4, 16):
        total = model.forms["iw"].estimate(x, Draws(k, 0, range(2000), 2000, CPU), k).total
        means.append(float(total.mean()))
        last = total
    assert means[0] > means[1] > means[2] > exact - 3 * float(total.std()) / 2000**0.5
    assert last is not None
    weights = (-last).exp()
    assert abs(float(weights.mean()) - math.exp(-exact)) <= 3.5 * float(weights.std()) / 2000**0.5


@torch.no_grad()
@pytest.mark.parametrize(
    ("settings", "step"),
    [({}, 0), ({"beta": 3.0}, 0), ({"kl_warmup": 10}, 4), ({"free_bits": 0.2, "latent": 3}, 0)],
)
def test_the_objective_is_what_it_says(settings: dict[str, object], step: int) -> None:
    """From the encoder's and decoder's own outputs, with torch.distributions' KL; to float32."""
    model = vae(levels=3, **settings)
    x = every_image(3, 2)
    draws = Draws(0, step, range(len(x)), len(x), CPU)
    q = model._encode(x.float() - 1)
    eps = draws.normal(Stream.TRAIN_NOISE, (model.options.latent,))
    z = q.mean + q.var.sqrt() * eps
    one = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(q.mean, q.var.sqrt()), one)
    if "free_bits" in settings:
        assert 0 < int((kl.mean(0) < 0.2).sum()) < 3  # both kinds are there
        kl = torch.stack([part if part.mean() >= 0.2 else torch.full_like(part, 0.2) for part in kl.unbind(1)], 1)
    weight = 3.0 if "beta" in settings else 0.5 if "kl_warmup" in settings else 1.0
    expected = (model._reconstruction(x, z) + weight * kl.sum(1)) / 2
    torch.testing.assert_close(model.loss(x, draws), expected, rtol=1e-4, atol=1e-5)


def test_a_dimension_below_the_mark_has_no_gradient_from_its_kl() -> None:
    model = vae(levels=3, free_bits=100.0)
    x = every_image(3, 2)
    draws = Draws(0, 0, range(len(x)), len(x), CPU)
    model.loss(x, draws).sum().backward()
    with_mark = model.encoder.layers[-1].weight.grad.clone()
    model.zero_grad()
    q = model._encode(x.float() - 1)
    z = q.sample(draws.normal(Stream.TRAIN_NOISE, (1,)))
    (model._reconstruction(x, z) / 2).sum().backward()
    torch.testing.assert_close(with_mark, model.encoder.layers[-1].weight.grad)


# Diagnostics


def test_a_collapsed_posterior_is_named() -> None:
    model = vae(levels=3, latent=4)
    x = every_image(3, 2)
    alive = model.inspector.diagnostics(x)
    assert len(alive["kl_per_dimension"]) == 4
    q = model._encode(x.float() - 1)
    one = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(q.mean, q.var.sqrt()), one).mean(0)
    torch.testing.assert_close(torch.tensor(alive["kl_per_dimension"]), kl.double().float(), rtol=1e-4, atol=1e-5)
    assert alive["active_units"] == int((q.mean.var(0) > 0.01).sum()) > 0
    assert model.inspector.warnings(alive) == []
    with torch.no_grad():
        model.encoder.layers[-1].weight.zero_()
        model.encoder.layers[-1].bias.zero_()
    dead = model.inspector.diagnostics(x)
    assert dead["active_units"] == 0
    (line,) = model.inspector.warnings(dead)
    assert "posterior collapse" in line


# The decoders' laws


@pytest.mark.parametrize("L", [2, 3, 17, 256])
def test_mixtures_of_logistic_laws_sum_to_one(L: int) -> None:
    """To float64's round-off of L exponentials, wherever the means are and however narrow."""
    logits, mean = gaussians(40, 5), 1.5 * gaussians(40, 5, seed=1)
    log_scale = torch.linspace(-7, 3, 40, dtype=torch.float64)[:, None].expand(40, 5)
    law = DiscretizedLogistics(logits[:, None], mean[:, None], log_scale[:, None], L)
    log_p = law.log_prob(torch.arange(L).expand(40, L))
    assert bool(log_p.isfinite().all())
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(40).double(), rtol=0, atol=1e-11)


@mpmath.workdps(400)
def test_a_logistic_law_is_exact_far_into_the_tails() -> None:
    """ln P of one component against mpmath's differences of CDFs, in enough digits for P = 1e-338."""
    for mean, log_scale, k in [(0.3, -2.0, 3), (-0.99, -6.0, 16), (5.0, -3.0, 0), (0.0, 2.0, 8), (-4.0, -1.0, 16)]:
        law = DiscretizedLogistics(*(torch.tensor([v], dtype=torch.float64) for v in (0.0, mean, log_scale)), 17)
        low, high = mpmath.mpf(2 * k - 1) / 16 - 1, mpmath.mpf(2 * k + 1) / 16 - 1
        scale = mpmath.exp(mpmath.mpf(log_scale))

        def cdf(edge: mpmath.mpf, mean: float = mean, scale: mpmath.mpf = scale) -> mpmath.mpf:
            return 1 / (1 + mpmath.exp(-(edge - mpmath.mpf(mean)) / scale))

        upper = mpmath.mpf(1) if k == 16 else cdf(high)
        lower = mpmath.mpf(0) if k == 0 else cdf(low)
        assert float(law.log_prob(torch.tensor(k))) == pytest.approx(float(mpmath.log(upper - lower)), rel=1e-10)


def test_a_mixtures_gradient_is_that_of_finite_differences() -> None:
    parts = [part.requires_grad_() for part in (gaussians(6, 3), gaussians(6, 3, seed=1), gaussians(6, 3, seed=2) - 2)]
    level = torch.tensor([0, 1, 5, 8, 15, 16])
    assert torch.autograd.gradcheck(lambda *p: DiscretizedLogistics(*p, 17).log_prob(level), parts, rtol=1e-4)


def test_bernoulli_is_torchs() -> None:
    logits, level = 3 * gaussians(50), torch.arange(50) % 2
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(level.double())
    torch.testing.assert_close(Bernoulli(logits).log_prob(level), expected)
    torch.testing.assert_close(Bernoulli(logits).expectation(), 2 * logits.sigmoid() - 1)


# What a user may get wrong, and sizes


@pytest.mark.parametrize(("height", "width"), [(5, 7), (1, 9), (8, 8)])
def test_any_size(height: int, width: int) -> None:
    model = vae((3, height, width), 256, latent=2, widths=(8, 8, 8))
    assert model.sample(2).shape == (2, 3, height, width)
    x = torch.randint(0, 256, (4, 3, height, width)).to(torch.uint8)
    assert bool(model.bound(x).total.isfinite().all())


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="decoder"):
        vae(levels=3, decoder="bernoulli")
    with pytest.raises(InputError, match="steps"):
        vae().sample(1, settings=SampleSettings(steps=3))


def test_an_image_is_the_same_in_any_company() -> None:
    model = vae((1, 4, 4), 17, latent=3)
    torch.testing.assert_close(model.sample(5, seed=2)[3:4], model.sample(1, seed=2, start=3))
    x = torch.randint(0, 17, (6, 1, 4, 4)).to(torch.uint8)
    torch.testing.assert_close(model.bound(x).total[:2], model.bound(x[:2]).total, rtol=1e-4, atol=1e-4)
