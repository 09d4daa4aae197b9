"""Variational diffusion, against exact denoisers, DDPM's code, and enumerable models."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gammas_of, gaussians, random_cov, schedules_at_30, table_of
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from nelbo.diffusion.denoiser import Denoised, Epsilon, Velocity, from_x_0
from nelbo.diffusion.levels import OUTPUTS, Posterior, inner_levels
from nelbo.diffusion.ode import FlowLikelihood
from nelbo.diffusion.process import diffuse, prior_term, rates
from nelbo.diffusion.schedules import LearnedGamma, LinearGamma, betas_of, split_gradient
from nelbo.diffusion.variances import step_weight
from nelbo.errors import InputError
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.diffusion import PROFILE_STEPS, in_steps
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.nn.unet import Waves
from nelbo.rng import Draws, Stream
from nelbo.theory.exact import Coefficients, GaussianData
from nelbo.theory.likelihoods import to_unit

CPU = torch.device("cpu")


def vdm(shape: tuple[int, int, int] = (1, 1, 1), levels: int = 5, **settings) -> VDM:
    """A model with every weight random."""
    torch.manual_seed(0)
    model = VDM.from_options(VDMOptions(**({"widths": (8, 8)} | settings)).resolved(shape), shape, levels)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


# Continuous time and DDPM's steps are one process


def by_betas(name: str) -> tuple[np.ndarray, np.ndarray]:
    """β_t and ᾱ_t of a chain in 50 steps, t = 1 … T, from DDPM's own tables."""
    beta = table_of(name, 50).beta[1:].numpy()
    return beta, np.cumprod(1 - beta)


@schedules_at_30
def test_a_ddpm_schedule_converts_exactly_on_its_grid(name: str) -> None:
    gammas = gammas_of(name, 50)[1:]
    beta, alpha_bar = by_betas(name)
    # γ carries the round-off of two logarithms of numbers down to 1e-4: some 1e-12 in β relative to 1.
    np.testing.assert_allclose(betas_of(gammas).numpy(), beta, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(torch.sigmoid(-gammas).numpy(), alpha_bar, rtol=1e-11, atol=1e-14)


@schedules_at_30
def test_the_discrete_weight_is_ddpms_for_beta_tilde(name: str) -> None:
    """½ (e^{γ_t − γ_s} − 1) against β_t²/(2 β̃_t α_t (1 − ᾱ_t))  [DDPM (12)]."""
    gammas, table = gammas_of(name, 50), table_of(name, 50)
    ours = step_weight(gammas[1:-1], gammas[2:])
    theirs = (table.beta**2 / (2 * table.beta_tilde * table.alpha * table.noise_var))[2:]
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=0)


def test_rates_are_the_schedules() -> None:
    gamma = torch.linspace(-20, 12, 33, dtype=torch.float64)
    signal, noise = rates(gamma, torch.zeros(1, 1, dtype=torch.float64))
    assert torch.allclose(signal.flatten(), 1 / (1 + gamma.exp()).sqrt(), rtol=1e-11)
    assert torch.allclose(noise.flatten().square(), 1 / (1 + (-gamma).exp()), rtol=1e-9)


@pytest.mark.parametrize("convert", ["x0", "v", "eps"])
def test_both_views_of_z_agree(convert: str) -> None:
    x, eps = gaussians(7, 3), gaussians(7, 3, seed=1)
    gamma = torch.linspace(-13.3, 5, 7, dtype=torch.float64)
    z = diffuse(x, gamma, eps)
    signal, noise = rates(gamma, z)
    views = {
        "x0": lambda: from_x_0(x, z, gamma),
        "v": lambda: Velocity().denoised(signal * eps - noise * x, z, gamma),
        "eps": lambda: Epsilon().denoised(eps, z, gamma),
    }[convert]()
    # ε̂ divides by √(1 − ᾱ) ≥ 1e-3: round-off of 1e-16 becomes 1e-13.
    assert torch.allclose(views.x_0, x, atol=1e-12)
    assert torch.allclose(views.eps, eps, atol=1e-12)


# The bound with exact denoisers


def gaussian_diffusion(data: GaussianData, gamma: Tensor, y_squared: Tensor) -> Tensor:
    """E ‖ε − ε̂‖² of the exact denoiser at each γ, for one point: SNR(t) times the oracle's squared error."""
    return (-gamma).exp() * data.squared_error(gamma, y_squared.expand(len(gamma), -1))


def discrete_bound(data: GaussianData, T: int, low: float, high: float, y_squared: Tensor) -> float:
    gamma = torch.linspace(low, high, T + 1, dtype=torch.float64)
    errors = gaussian_diffusion(data, gamma, y_squared)[1:]
    return float((step_weight(gamma[:-1], gamma[1:]) * errors).sum())


def continuous_bound(data: GaussianData, low: float, high: float, y_squared: Tensor) -> float:
    """L_∞ by Gauss–Legendre quadrature over t."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    t = torch.from_numpy((nodes + 1) / 2)
    slope = torch.full((400,), high - low, dtype=torch.float64)
    errors = gaussian_diffusion(data, low + (high - low) * t, y_squared)
    return float((torch.from_numpy(weights / 2) * 0.5 * slope * errors).sum())


def test_the_discrete_bound_falls_to_the_continuous_one_as_steps_double() -> None:
    data = GaussianData(torch.zeros(3), random_cov(3))
    y_squared = data.eigenvalues[None]
    limit = continuous_bound(data, -10, 6, y_squared)
    bounds = [discrete_bound(data, T, -10, 6, y_squared) for T in (4, 8, 16, 32, 64, 128, 256, 512, 1024)]
    assert all(more < less for less, more in itertools.pairwise(bounds))
    assert bounds[-1] > limit
    # The gap of the mean of a decreasing integrand is of first order in 1/T: it halves as T doubles.
    assert (bounds[-1] - limit) / (bounds[-2] - limit) == pytest.approx(0.5, abs=0.02)


def test_the_continuous_bound_is_tight_where_the_denoiser_is_exact() -> None:
    """prior + L_∞ + E[−ln p(x|z_0)] = −ln p(x), averaged over data, once the ends are far out.

    With the decoder p(x|z_0) = N(x; z_0/√ᾱ_0, e^γ_0), of which the data's own law makes nothing better when γ_0 is low.
    """
    data = GaussianData(torch.zeros(2), random_cov(2))
    low, high = -16.0, 14.0
    entropy = 0.5 * float((2 * torch.pi * torch.e * data.eigenvalues).log().sum())
    reconstruction = 2 * 0.5 * (np.log(2 * np.pi * np.e) + low)
    spread = data.sample(gaussians(4, 2))
    ends = torch.tensor([high], dtype=torch.float64)
    unit = torch.diag(data.eigenvalues.sqrt()) @ data.basis.T
    prior = float(prior_term(torch.cat([unit, -unit]) * 2**0.5, ends).mean())
    total = prior + continuous_bound(data, low, high, data.eigenvalues[None]) + reconstruction
    assert spread.shape == (4, 2)
    # e^-14 of prior and e^-16/λ of truncation at the other end are below 1e-5.
    assert total == pytest.approx(entropy, abs=1e-4)


# γ(t)


def test_learned_gamma_is_monotone_with_the_right_slope_and_ends() -> None:
    gamma = LearnedGamma(-13.3, 5.0)
    with torch.no_grad():
        gamma.steepness += torch.randn(gamma.steepness.shape, generator=torch.Generator().manual_seed(1))
        gamma.height += 4 * torch.rand(gamma.height.shape, generator=torch.Generator().manual_seed(2))
    t = torch.linspace(0, 1, 501, dtype=torch.float64, requires_grad=True)
    value, slope = gamma(t)
    (by_autograd,) = torch.autograd.grad(value.sum(), t)
    value, slope = value.detach(), slope.detach()
    assert float(value[0]) == pytest.approx(-13.3, abs=1e-12)
    assert float(value[-1]) == pytest.approx(5.0, abs=1e-12)
    assert bool((slope > 0).all())
    assert torch.allclose(slope, by_autograd, rtol=1e-10)
    assert float((slope - 18.3).abs().max()) > 0.5  # it is not the straight line


def test_the_continuous_bound_does_not_depend_on_the_shape_of_gamma() -> None:
    """L_∞ of the exact denoiser under a straight and a curved γ with the same ends (VDM, section 5.1)."""
    data = GaussianData(torch.zeros(3), random_cov(3))
    curved = LearnedGamma(-10.0, 6.0)
    with torch.no_grad():
        curved.height[:40] += 7
    nodes, weights = np.polynomial.legendre.leggauss(2000)
    t = torch.from_numpy((nodes + 1) / 2)
    totals = []
    for shape in (LinearGamma(-10.0, 6.0), curved):
        gamma, slope = (part.detach() for part in shape(t))
        errors = gaussian_diffusion(data, gamma, data.eigenvalues[None])
        totals.append(float((torch.from_numpy(weights / 2) * 0.5 * slope * errors).sum()))
    assert totals[0] == pytest.approx(totals[1], rel=1e-8)


def test_the_ends_get_the_losss_gradient_and_the_shape_its_squares() -> None:
    """split_gradient against autograd of the mean loss (ends) and of the mean squared loss (shape)."""
    gamma = LearnedGamma(-5.0, 3.0, hidden=8)
    with torch.no_grad():
        gamma.height += 3
    t = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)

    def losses(value: Tensor, slope: Tensor) -> Tensor:
        return slope * torch.sigmoid(value).square() + 0.1 * value.square()

    plain = losses(*gamma(t))
    by_ends = torch.autograd.grad(plain.mean(), gamma.ends, retain_graph=True)[0]
    inside = [gamma.steepness, gamma.place, gamma.height]
    by_shape = torch.autograd.grad(plain.square().mean(), inside)

    curve, set_loss = split_gradient(gamma, t)
    loss = losses(*curve)
    assert torch.allclose(loss, plain)
    set_loss(loss.detach())
    loss.mean().backward()
    assert torch.allclose(gamma.ends.grad, by_ends, rtol=1e-10)
    for parameter, truth in zip(inside, by_shape, strict=True):
        assert torch.allclose(parameter.grad, truth, rtol=1e-9, atol=1e-12)


# What the network sees


def test_waves_of_z_are_their_means_over_x() -> None:
    """Against quadrature over x = z/√ᾱ + ε/√SNR; and without γ the waves themselves."""
    gamma = torch.linspace(-13.0, 1.0, 15, dtype=torch.float64)
    z = gaussians(15, 1, 2, 3)
    signal, noise = rates(gamma, z)
    eps = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    density = torch.exp(-0.5 * eps.square()) / (2 * torch.pi) ** 0.5 * (eps[1] - eps[0])
    x = (z + noise * eps[:, None, None, None, None]) / signal
    for n in range(4):
        truth = [torch.tensordot(density, wave(2**n * np.pi * x), 1) for wave in (torch.sin, torch.cos)]
        # Sums over a grid of 222 points a standard deviation integrate waves of up to 41 of them to round-off.
        assert torch.allclose(torch.stack(Waves((n,), fading=True)(z, gamma)), torch.stack(truth), atol=1e-8)
    angle = 4 * torch.pi * z
    assert torch.allclose(torch.stack(Waves((2,), fading=False)(z, gamma)), torch.stack([angle.sin(), angle.cos()]))


# The head over levels


def log_law(output: Tensor, z: Tensor, signal: Tensor, noise: Tensor, L: int) -> Tensor:
    """ln P(x = k | z) over every level, normalised, shape (B, C, H, W, L)."""
    return Posterior.of(output, z, signal, noise, L).log_probs()


def some_laws(L: int, gamma: float) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """A network's output of laws narrower than the interval, levels well inside, z at γ, and its rates."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(64, OUTPUTS, 3, 3, generator=generator, dtype=torch.float64)
    output[:, :4] *= 0.3
    output[:, 1] -= 0.98
    output[:, 2] -= 1  # μ about 0, s about 0.1
    x = torch.randint(L // 5, L - L // 5, (64, 1, 3, 3), generator=generator)
    at = torch.full((64,), gamma, dtype=torch.float64)
    eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    z = diffuse(to_unit(x, L).double(), at, eps)
    return output, x, z, rates(at, z)


@pytest.mark.parametrize("L", [17, 256])
@pytest.mark.parametrize("gamma", [-13.3, -9.0, -5.0, 0.0, 5.0])
def test_the_posterior_is_the_law_over_all_levels(L: int, gamma: float) -> None:
    """Its mean and its −ln P(x|z), from sums over the nearest levels, against the sum over every one."""
    output, x, z, (signal, noise) = some_laws(L, gamma)
    log_p = log_law(output, z, signal, noise, L)
    posterior = Posterior.of(output, z, signal, noise, L)
    # The quick sums take the Gaussians' ends to be far: a wide one loses some mass there.
    error = (posterior.mean() - (log_p.exp() * to_unit(torch.arange(L), L)).sum(-1)).abs()
    assert float(error.median()) < 1e-5
    assert float(error.mean()) < 5e-3
    truth = -log_p.gather(-1, x[..., None]).flatten(1).sum(1)
    error = posterior.nll(x) - truth
    assert float(error.median()) < 0.01  # of nine pixels
    assert float(error.min()) > -0.01  # to spread mass over the ends must not pay


def test_x_0_is_the_mean_within_the_levels_and_not_past_their_ends() -> None:
    """Against the sum over all 17 levels: a Gaussian of s = 0.1 at 0, and one of s = 0.7 at 1.5, at little SNR."""
    z, L = gaussians(30, 1, 1, 1), 17
    signal, noise = rates(torch.full((30,), 3.0, dtype=torch.float64), z)
    found = {}
    for name, mu, log_s in (("within", 0.0, np.log(0.1)), ("past", 1.5, np.log(0.7))):
        output = torch.zeros(30, OUTPUTS, 1, 1, dtype=torch.float64)
        output[:, 0], output[:, 2] = mu, log_s + 1.2
        output[:, 5], output[:, 6:] = -30, -30  # neither the narrow Gaussian nor the outermost levels
        exact = (log_law(output, z, signal, noise, L).exp() * to_unit(torch.arange(L), L)).sum(-1)
        found[name] = (Posterior.of(output, z, signal, noise, L).mean() - exact).abs()
    assert float(found["within"].max()) < 1e-6
    assert float(found["past"].min()) > 0.05


@pytest.mark.parametrize("level", [0, 7])
def test_the_outermost_levels_have_logits_of_their_own(level: int) -> None:
    """Laws far from the ends, z near one of them: what a decoder costs there, against the sum over every level."""
    output = 0.1 * gaussians(50, OUTPUTS, 1, 1)
    output[:, 1] -= 1
    output[:, 2:4] -= 2
    x = torch.full((50, 1, 1, 1), level)
    at = torch.full((50,), 1.0, dtype=torch.float64)
    z = diffuse(to_unit(x, 8).double(), at, gaussians(50, 1, 1, 1, seed=1))
    signal, noise = rates(at, z)
    truth = -log_law(output, z, signal, noise, 8)[..., level].flatten()
    assert torch.allclose(Posterior.of(output, z, signal, noise, 8).nll(x), truth, atol=0.02)


@pytest.mark.parametrize("a", [1.01, 2.0, 5.0, 40.0, 1e4])
def test_the_nearest_levels_have_the_sums_of_all(a: float) -> None:
    """The mean and ln Σ of exp(−½ A (x_k − m)²) over levels, against a sum over all of 256."""
    spacing = 2 / 255
    levels = torch.arange(256, dtype=torch.float64) * spacing - 1
    m = torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    precision = torch.full_like(m, a / spacing**2)
    exponent = -0.5 * precision[:, None] * (levels - m[:, None]).square()
    mean, log_sum = inner_levels(m, precision, 256)
    # Between two levels the first that is left out is 3.5 spacings away, with exp(−½ a 3.5²) √(a/2π) of the mass.
    lost = 1.1 * np.exp(-0.5 * a * 3.5**2) * np.sqrt(a / (2 * np.pi)) + 1e-9
    assert torch.allclose(mean, (exponent.softmax(-1) * levels).sum(-1), rtol=0, atol=3.5 * lost * spacing)
    assert torch.allclose(log_sum, exponent.logsumexp(-1) - 0.5 * np.log(2 * np.pi / a), rtol=0, atol=lost)


def test_no_image_has_a_law_too() -> None:
    """A process's share of a batch may have none that trains the decoder."""
    none = torch.zeros(0, 1, 2, 2)
    assert log_law(torch.zeros(0, OUTPUTS, 2, 2), none, none[:, :, :1, :1], none[:, :, :1, :1], 17).shape == (
        0,
        1,
        2,
        2,
        17,
    )


def test_the_law_is_normalised() -> None:
    output, z = gaussians(5, OUTPUTS, 2, 2), gaussians(5, 1, 2, 2, seed=1)
    signal, noise = rates(torch.linspace(-13, 5, 5, dtype=torch.float64), z)
    total = log_law(output, z, signal, noise, 256).exp().sum(-1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12)


# The model


P = torch.tensor([0.5, 0.03, 0.2, 0.07, 0.2], dtype=torch.float64)
"""A law over five levels: small enough to be enumerated."""


def toy_bound(p_true: Tensor, p_model: Tensor) -> Tensor:
    """L(x) of each level by quadrature over t and ε, for the exact denoiser and decoder of the law ``p_model``."""
    L, low, high = len(p_true), -12.0, 16.0
    x = to_unit(torch.arange(L), L).double()
    t_nodes, t_weights = np.polynomial.legendre.leggauss(600)
    gamma = low + (high - low) * torch.from_numpy((t_nodes + 1) / 2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    eps, density = torch.from_numpy(nodes), torch.from_numpy(weights / np.sqrt(2 * np.pi))

    def posterior(gamma: Tensor) -> Tensor:
        """P(k | z) for z made of each level and each ε, shape (T, levels, ε, L)."""
        signal, noise = (rate[:, :, None, None] for rate in rates(gamma, torch.zeros(1, 1, dtype=torch.float64)))
        z = signal * x[None, :, None, None] + noise * eps[None, None, :, None]
        return (p_model.log() - 0.5 * ((z - signal * x) / noise).square()).log_softmax(-1)

    mean = (posterior(gamma).exp() * x).sum(-1)
    error = ((mean - x[None, :, None]).square() * density).sum(-1) * torch.exp(-gamma)[:, None]
    weight = torch.from_numpy(t_weights / 2) * 0.5 * (high - low)
    diffusion = (weight[:, None] * error).sum(0)
    at_0 = posterior(torch.tensor([low], dtype=torch.float64))[0]
    own = at_0.diagonal(dim1=0, dim2=2).T  # ln P(x | z) for the level that made z
    reconstruction = -(own * density).sum(-1)
    prior = prior_term(x[:, None], torch.tensor([high], dtype=torch.float64))
    assert float(reconstruction.max()) < 1e-4
    assert float(prior.max()) < 1e-4
    return diffusion + reconstruction + prior


def test_the_continuous_bound_of_the_exact_denoiser_is_the_likelihood() -> None:
    # The two end terms are below 1e-4 each, and nothing else is lost in continuous time.
    assert torch.allclose(toy_bound(P, P), -P.log(), atol=1e-3)


def test_no_denoiser_makes_the_levels_sum_to_more_than_one() -> None:
    assert float((-toy_bound(P, P)).exp().sum()) <= 1 + 1e-6
    wrong = toy_bound(P, P.flip(0))  # another law's denoiser is another model, whose law it bounds
    assert torch.allclose(wrong, -P.flip(0).log(), atol=1e-3)


@pytest.mark.parametrize("timesteps", [0, 20])
def test_a_one_pixel_network_never_sums_to_more_than_one(timesteps: int) -> None:
    """Σ_x exp(−L(x)) ≤ 1 for the bound of any model that is normalised."""
    model = vdm(levels=5, timesteps=timesteps)
    copies, few = 2000, 8
    x = torch.arange(5, dtype=torch.uint8).repeat(copies).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        total = (
            bound_of(model).denoising(x, Draws(0, 0, range(len(x)), len(x), CPU), few).total.double().reshape(copies, 5)
        )
    mean, stderr = total.mean(0), total.std(0) / copies**0.5
    mass, error = float((-mean).exp().sum()), float(((-mean).exp() * stderr).square().sum().sqrt())
    assert mass <= 1 + 3 * error
    assert mass > 0.02  # the bound is not so loose that anything would pass


@pytest.mark.parametrize("timesteps", [0, 24])
def test_few_and_many_times_estimate_the_same(timesteps: int) -> None:
    model = vdm((1, 3, 3), 17, timesteps=timesteps)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 17, (1, 1, 3, 3), dtype=np.uint8)).repeat(600, 1, 1, 1)
    with torch.no_grad():
        few = bound_of(model).denoising(x, Draws(0, 0, range(600), 600, CPU), 2).terms["diffusion"].double()
        many = bound_of(model).denoising(x, Draws(1, 0, range(600), 600, CPU), 24).terms["diffusion"].double()
    error = (few.var() / 600 + many.var() / 600) ** 0.5
    assert abs(float(few.mean() - many.mean())) < 3 * float(error)


@pytest.mark.parametrize(("head", "gamma"), [("levels", "linear"), ("v", "linear"), ("levels", "learned")])
def test_the_loss_is_the_bound(head: str, gamma: str) -> None:
    """Reconstruction where there is a decoder to train, prior where there is an end to train, and diffusion always."""
    model = vdm((1, 3, 3), 17, head=head, gamma=gamma, every_decoder=0)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 17, (1, 1, 3, 3), dtype=np.uint8)).repeat(4096, 1, 1, 1)
    with torch.no_grad():
        terms = bound_of(model).denoising(x[:2048], Draws(1, 0, range(2048), 2048, CPU), 8).terms
        loss = torch.stack(
            [model.loss(x, Draws(0, step, range(4096), 4096, CPU)).double().mean() for step in range(12)]
        )
    score = terms["diffusion"].double() / model.dims
    if head == "levels":
        score = score + terms["reconstruction"].double() / model.dims
    if gamma == "learned":
        score = score + terms["prior"].double() / model.dims
    error = (loss.var() / len(loss) + score.var() / len(score)) ** 0.5
    assert abs(float(loss.mean() - score.mean())) < 3 * float(error)


def test_a_decoder_at_every_t_is_added_to_the_loss() -> None:
    """What λ adds, against −ln p(x|z_t) of the law over every level at the same z."""
    x = torch.from_numpy(np.random.default_rng(0).integers(4, 13, (64, 1, 3, 3), dtype=np.uint8))
    draws = Draws(0, 3, range(64), 64, CPU)
    plain, more = vdm((1, 3, 3), 17, every_decoder=0), vdm((1, 3, 3), 17, every_decoder=0.7)
    with torch.no_grad():
        for model in (plain, more):  # laws far from the ends, s about 0.1, of which the quick sums lose nothing
            model.network.head[-1].weight *= 0.1
            model.network.head[-1].bias += torch.tensor([0, -0.98, -1, 0.7, 0, 0, 0, 0])
    _, _, place = plain.profile.draw(draws.spread(Stream.TRAIN_TIME))
    gamma = plain.schedule(place / PROFILE_STEPS)[0]
    z = diffuse(to_unit(x, 17), gamma, draws.normal(Stream.TRAIN_NOISE, (1, 3, 3)))
    with torch.no_grad():
        added = more.loss(x, draws) - plain.loss(x, draws)
        truth = 0.7 * plain.decoder.nll(x, plain.denoiser(z, gamma), z, gamma).flatten(1).sum(1) / 9
    # Float32; 2e-3 of the second Gaussian's mass are beyond three and a half widths, where the quick sums stop.
    assert torch.allclose(added, truth, atol=5e-3)
    assert float(truth.mean()) > 0.5


def test_a_decoder_at_t_costs_what_the_rest_of_the_bound_does() -> None:
    """E[−ln p(x|z_s)] − E[−ln p(x|z_0)] = ∫_0^s of the diffusion term, for one pixel of two levels: any law of them.

    So where nothing is lost between pixels, the decoder at s and the bound up to there want the same network.
    """
    gamma = torch.linspace(-12.0, 3.0, 3001, dtype=torch.float64)
    output = torch.zeros(len(gamma), OUTPUTS, 1, 1, dtype=torch.float64)
    output[:, -1] = 0.8  # P(1) = sigmoid(0.8)
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    nll, error = torch.zeros(2, len(gamma), dtype=torch.float64)
    for level, p in ((0, 1 - torch.sigmoid(torch.tensor(0.8)).item()), (1, torch.sigmoid(torch.tensor(0.8)).item())):
        x = torch.full((len(gamma), 1, 1, 1), level)
        for node, weight in zip(nodes, weights / np.sqrt(2 * np.pi), strict=True):
            eps = torch.full((len(gamma), 1, 1, 1), float(node), dtype=torch.float64)
            z = diffuse(to_unit(x, 2).double(), gamma, eps)
            posterior = Posterior.of(output, z, *rates(gamma, z), 2)
            nll += p * weight * posterior.nll(x)
            error += p * weight * (eps - from_x_0(posterior.mean(), z, gamma).eps).square().flatten()
    rest = torch.trapezoid(0.5 * error, gamma)
    # Quadrature over 100 nodes and 3,001 values of γ.
    assert float(nll[-1] - nll[0]) == pytest.approx(float(rest), abs=1e-5)
    assert float(rest) > 0.1


@pytest.mark.parametrize("settings", [{"head": "v"}, {"gamma": "learned"}])
def test_a_decoder_at_every_t_needs_a_law_and_a_straight_gamma(settings: dict[str, str]) -> None:
    assert VDMOptions(**settings).resolved((1, 8, 8)).every_decoder == 0
    with pytest.raises(InputError, match="every_decoder: needs `head` levels and `gamma` linear; set it to 0"):
        VDMOptions(every_decoder=0.5, **settings).resolved((1, 8, 8))


def test_an_image_is_the_same_in_any_company() -> None:
    model = vdm((1, 4, 4), 17)
    together = model.sample(6, seed=3, batch=6)
    assert torch.equal(together[2:5], model.sample(3, seed=3, start=2, batch=2))


# One pixel and a network that gives v: every term by hand, from the network's raw output

LOW, HIGH = -2.0, 3.0
SOME = [0, 2, 4]
"""The levels whose terms are integrated: both ends and the middle of five."""


def v_model(timesteps: int) -> VDM:
    """Smooth in z; v̂ is about 2, so x̂_0 is far outside [−1, 1]; the profile draws small t much more often."""
    model = vdm(head="v", timesteps=timesteps, gamma_min=LOW, gamma_max=HIGH, fourier=())
    with torch.no_grad():
        model.network.head[-1].bias += 2.0
    t = torch.arange(1, 1025)
    for _ in range(50):
        model.profile.update(t, 30.0 / t)
    return model


def times_and_weights(T: int) -> tuple[Tensor, Tensor]:
    """t = i/T with ½ (SNR(s)/SNR(t) − 1), s = t − 1/T; or Gauss–Legendre nodes in t with ½ γ′ times their weights."""
    if T:
        return torch.arange(1, T + 1) / T, torch.full((T,), 0.5 * (np.exp((HIGH - LOW) / T) - 1)).double()
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return torch.from_numpy(nodes + 1) / 2, torch.from_numpy(weights / 2) * 0.5 * (HIGH - LOW)


@torch.no_grad()
def integrals(model: VDM) -> dict[str, Tensor]:
    """Each term for SOME levels, with ε̂ = √(1 − ᾱ) z + √ᾱ v̂.

    Good to 1e-4: a network that is told t by sines of up to 10⁴ t is not smooth, even for 400 nodes.
    """
    eps = torch.linspace(-6.5, 6.5, 121, dtype=torch.float64)
    density = Normal(0.0, 1.0).log_prob(eps).exp() * (eps[1] - eps[0])
    every = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0], dtype=torch.float64)
    x = every[SOME]
    t, weight = times_and_weights(model.options.timesteps)
    gamma = LOW + (HIGH - LOW) * t.double()
    signal, noise = (torch.sigmoid(sign * gamma).sqrt()[:, None, None] for sign in (-1, 1))
    z = signal * x[:, None] + noise * eps
    time = ((gamma + 20) / 40)[:, None, None].expand_as(z)
    v = model.network(z.float().reshape(-1, 1, 1, 1), time.float().flatten()).double().reshape(z.shape)
    assert float((signal * z - noise * v).abs().max()) > 2  # x̂_0: clipping would change it
    errors = ((eps - noise * z - signal * v).square() * density).sum(-1)
    first, last = torch.sigmoid(torch.tensor([-LOW, -HIGH], dtype=torch.float64))
    z_0 = first.sqrt() * x[:, None] + (1 - first).sqrt() * eps
    log_p = Normal(first.sqrt() * every, (1 - first).sqrt()).log_prob(z_0[..., None]).log_softmax(-1)
    own = torch.stack([log_p[row, :, level] for row, level in enumerate(SOME)])
    end = Normal(last.sqrt() * x, (1 - last).sqrt())
    return {
        "reconstruction": -(own * density).sum(-1),
        "diffusion": (weight[:, None] * errors).sum(0),
        "prior": kl_divergence(end, Normal(torch.zeros_like(x), 1.0)),
    }


@torch.no_grad()
@pytest.mark.parametrize("timesteps", [0, 6])
def test_every_term_is_its_integral_and_nothing_is_clipped(timesteps: int) -> None:
    """Monte Carlo of ``estimate``, four times t for each image."""
    model, n = v_model(timesteps), 4000
    x = torch.tensor(SOME, dtype=torch.uint8).repeat(n).reshape(-1, 1, 1, 1)
    terms = bound_of(model).denoising(x, Draws(0, 0, range(len(x)), len(x), CPU), 4).terms
    for name, exact in integrals(model).items():
        assert_mean(terms[name].reshape(n, 3), exact, bias=1e-4 * float(exact.max()))


@torch.no_grad()
def test_the_loss_is_the_diffusion_term_where_the_profile_draws_unevenly() -> None:
    """In nats per dimension, of which there is one. Shuffled places, for t is spread evenly over them."""
    model, n = v_model(0), 8000
    x = torch.tensor(SOME, dtype=torch.uint8).repeat(n).reshape(-1, 1, 1, 1)
    places = np.random.default_rng(0).permutation(len(x)).tolist()
    loss = model.loss(x, Draws(0, 0, places, len(x), CPU)).reshape(n, 3)
    exact = integrals(model)["diffusion"]
    assert_mean(loss, exact, bias=1e-4 * float(exact.max()))


# The forms in T steps, and the flow


@torch.no_grad()
@pytest.mark.parametrize("gamma", ["linear", "learned"])
def test_in_steps_every_form_is_the_same_bound(gamma: str) -> None:
    """Within 3 combined s.e."""
    model = in_steps(vdm((1, 2, 3), 5, gamma=gamma, gamma_min=-6.0, gamma_max=3.0), 12)
    x, n = torch.tensor([[0, 4, 2], [1, 3, 2]], dtype=torch.uint8).expand(2000, 1, 2, 3), 2000
    found = []
    for seed, form in enumerate(("denoising", "consistency", "trajectory", "entropy")):
        bound = model.bound(x, form=form, seed=seed, timesteps=12)
        total = bound.total.double() + sum(bound.extras.values(), torch.zeros(1)).double()
        found.append((float(total.mean()), float(total.var()) / n))
    for i, (mean, var) in enumerate(found):
        for other, also in found[:i]:
            assert abs(mean - other) <= 3 * (var + also) ** 0.5
    assert model.bound(x[:2], form="denoising", timesteps=12).evaluations == 13
    assert model.bound(x[:2], form="trajectory").evaluations == 13


@pytest.mark.parametrize("gamma", ["linear", "learned"])
def test_in_steps_the_bound_is_ddpms_term_by_term(gamma: str) -> None:
    """Every t once, the same noise at each: VDM (14) and the divergences of DDPM (5) by its tables, to float32."""
    model = vdm((1, 2, 3), 5, gamma=gamma, gamma_min=-6.0, gamma_max=3.0)
    if gamma == "learned":
        with torch.no_grad():
            model.schedule.height[:40] += 7  # far from straight: its steps differ in size
    model = in_steps(model, 12)
    x = torch.tensor([[0, 4, 2], [1, 3, 2]], dtype=torch.uint8).expand(20, 1, 2, 3)
    draws, gammas = Draws(0, 0, range(20), 20, CPU), model.timeline.chain()
    with torch.no_grad():
        ours = bound_of(model).denoising(x, draws, 12).terms
        theirs = by_ddpm(model, x, list(itertools.islice(draws.normal_iter(Stream.SCORE_NOISE, (1, 2, 3)), 13)))
    assert len(gammas) - 1 == bound_of(model).T == 13
    for name in ("reconstruction", "diffusion", "prior"):
        torch.testing.assert_close(ours[name].double(), theirs[name], rtol=1e-3, atol=1e-4)


def by_ddpm(model: VDM, x: Tensor, noise: list[Tensor]) -> dict[str, Tensor]:
    """The terms of DDPM (5) with σ² = β̃: KL(q(x_{t−1}|x_t,x_0) ‖ p_θ(x_{t−1}|x_t)) one x_t for each t."""
    gammas, x_0 = model.timeline.chain(), to_unit(x, model.levels).double()
    table, T = Coefficients(gammas), len(gammas) - 1
    diffusion = torch.zeros(len(x), dtype=torch.float64)
    for t in range(2, T + 1):
        a_t, a_s, alpha, beta = table.alpha_bar[t], table.alpha_bar[t - 1], table.alpha[t], table.beta[t]
        x_t = a_t.sqrt() * x_0 + (1 - a_t).sqrt() * noise[t - 1].double()
        x_0_hat = model.denoiser(x_t.float(), gammas[t].expand(len(x))).x_0.double()
        c_0, c_t = a_s.sqrt() * beta / (1 - a_t), alpha.sqrt() * (1 - a_s) / (1 - a_t)
        q, p = (Normal(c_0 * image + c_t * x_t, table.beta_tilde[t].sqrt()) for image in (x_0, x_0_hat))
        diffusion += kl_divergence(q, p).flatten(1).sum(1)
    first, last = table.alpha_bar[1], table.alpha_bar[T]
    x_1 = (first.sqrt() * x_0 + (1 - first).sqrt() * noise[0].double()).float()
    at_1 = gammas[1].expand(len(x))
    log_p = log_law(model.denoiser.predict(x_1, at_1), x_1, *rates(at_1, x_1), model.levels)
    end = Normal(last.sqrt() * x_0, (1 - last).sqrt())
    return {
        "reconstruction": -log_p.gather(-1, x.long()[..., None]).flatten(1).sum(1).double(),
        "diffusion": diffusion,
        "prior": kl_divergence(end, Normal(torch.zeros_like(x_0), 1.0)).flatten(1).sum(1),
    }


def test_continuous_time_has_no_trajectories() -> None:
    model = vdm()
    assert list(model.forms) == ["denoising", "ode"]
    assert list(vdm(head="v").forms) == ["denoising", "ode", "ode-uniform"]
    assert "trajectory" in in_steps(model, 4).forms
    assert (list(model.forms), model.options.timesteps) == (["denoising", "ode"], 0)  # in_steps left it alone


class ExactLaw:
    """One pixel with a known law over five levels: the exact denoiser, and the exact decoder."""

    extras: tuple[str, ...] = ()
    rare_crossings = learned = False
    probs = torch.tensor([0.1, 0.3, 0.25, 0.05, 0.3], dtype=torch.float64)
    levels_at = torch.linspace(-1, 1, 5, dtype=torch.float64)

    def law(self, z: Tensor, gamma: Tensor) -> Tensor:
        signal, noise = rates(gamma, z.double())
        distance = (z.double() - signal * self.levels_at) / noise
        return (self.probs.log() - 0.5 * distance.square()).softmax(-1)

    def denoise(self, z: Tensor, gamma: Tensor) -> Denoised:
        x_0 = (self.law(z, gamma) * self.levels_at).sum(-1, keepdim=True)
        return from_x_0(x_0, z.double(), gamma)

    def nll(self, x: Tensor, denoised: Denoised, z: Tensor, gamma: Tensor) -> Tensor:
        return -self.law(z, gamma).log().gather(-1, x.long())


def test_with_the_exact_denoiser_the_flow_has_the_datas_likelihood() -> None:
    """By the first noise the sum is −ln P at every z: to 2e-3 nats, for z is float32 and the solver's tolerance 1e-5.

    Uniformly dequantised it is at least that, for the data are no uniform blocks.
    """
    model, exact = vdm(gamma_min=-5.0, gamma_max=9.0, clusters=0), ExactLaw()
    model.denoiser, model.decoder = exact.denoise, exact
    x = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1)
    for seed in range(2, 5):
        found = model.bound(x, form="ode", seed=seed)
        torch.testing.assert_close(found.total, -exact.probs.log(), rtol=0, atol=2e-3)
    uniform = torch.stack([model.bound(x, form="ode-uniform", seed=seed).total for seed in range(40)])
    error = uniform.std(0) / 40**0.5
    assert bool((uniform.mean(0) >= -exact.probs.log() - 3 * error).all())
    assert set(found.terms) == {"flow", "dequantisation", "reconstruction"}


@pytest.mark.parametrize("predict", ["v", "x0", "eps"])
def test_between_the_steps_a_ddpms_flow_asks_its_network_at_a_t_of_its_own(predict: str) -> None:
    """At the γ of a step it is the step's denoiser, to float32; and halfway between, the network at t − ½."""
    options = DDPMOptions(timesteps=12, widths=(8,), attention=(), predict=predict).resolved((1, 2, 3))
    torch.manual_seed(0)
    model = DDPM.from_options(options, (1, 2, 3), 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        t, z = torch.arange(1, 13), gaussians(12, 1, 2, 3).float()
        gammas, flow = model.timeline.chain(), FlowLikelihood(bound_of(model)).flow
        assert (flow.gamma_min, flow.gamma_max) == (float(gammas[1]), float(gammas[-1]))
        here, output = flow.denoiser(z, gammas[1:]), model.network(z, t / 12)[:, :1]
        alpha_bar = torch.sigmoid(-gammas[1:]).float().reshape(-1, 1, 1, 1)
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        x_0 = {"v": signal * z - noise * output, "x0": output, "eps": (z - noise * output) / signal}[predict]
        torch.testing.assert_close(here.eps, (z - signal * x_0) / noise, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(here.x_0, x_0, rtol=1e-4, atol=1e-4)
        asked = []
        forward = model.network.forward
        model.network.forward = lambda z, time: asked.append(time) or forward(z, time)
        flow.denoiser(z[:11], (gammas[1:-1] + gammas[2:]) / 2)
        torch.testing.assert_close(asked[0], (torch.arange(1, 12) + 0.5) / 12)


def test_a_ddpm_that_predicts_the_mean_has_no_flow() -> None:
    options = DDPMOptions(timesteps=12, widths=(8,), attention=(), predict="mean").resolved((1, 2, 3))
    assert "ode" not in DDPM.from_options(options, (1, 2, 3), 5).forms
