"""The importance-weighted bound, against the exact likelihood of a linear-Gaussian chain, and on images."""

from __future__ import annotations

import pytest
import torch
from math_helpers import gammas_of, gaussians, random_cov, table_of
from torch import Tensor
from torch.distributions import MultivariateNormal

from nelbo.diffusion.bound import ChainBound
from nelbo.diffusion.denoiser import Denoised, Denoiser, denoiser_of
from nelbo.diffusion.variances import VARIANCES
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.rng import Draws
from nelbo.theory.exact import GaussianData
from nelbo.theory.normal import Gaussian

T, D, L = 4, 2, 9


class DensityDecoder:
    """N(x̂_0, β_1 I) as a density of x_0, not over the levels."""

    extras: tuple[str, ...] = ()
    rare_crossings = False
    learned = False

    def __init__(self, beta_1: Tensor) -> None:
        self.beta_1 = beta_1

    def nll(self, x: Tensor, denoised: Denoised, z: Tensor, gamma: Tensor) -> Tensor:
        return -Gaussian(denoised.x_0.double(), self.beta_1).log_prob(2.0 * x.double() / (L - 1) - 1)


def chain_bound(denoiser: Denoiser, variance: str, dims: int) -> ChainBound:
    """The bound of images of so many pixels in T steps of the cosine schedule."""
    decoder = DensityDecoder(table_of("cosine", T).beta[1])
    return ChainBound(denoiser, decoder, gammas_of("cosine", T), VARIANCES[variance], L, (1, 1, dims))


class Linear:
    """A chain with the linear denoiser x̂_0 = A x_t for all t, so that p_θ(x_0) is Gaussian with a known covariance."""

    def __init__(self, variance: str, gain: Tensor) -> None:
        self.gammas, self.variance, self.gain = gammas_of("cosine", T), variance, gain

    def x_0(self, x_t: Tensor, gamma: Tensor) -> Tensor:
        return (x_t.flatten(1).double() @ self.gain.T).reshape(x_t.shape)

    def chain(self) -> ChainBound:
        return chain_bound(denoiser_of(self.x_0), self.variance, D)

    def log_prob(self, x: Tensor) -> Tensor:
        """ln p_θ(x_0), from the matrices of the reverse steps: x_{t−1} = M_t x_t + σ_t z."""
        cov, eye = torch.eye(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)
        for t in range(T, 1, -1):
            gamma_s, gamma_t = self.gammas[t - 1].expand(D), self.gammas[t].expand(D)
            basis = eye.reshape(D, 1, 1, D)
            said = denoiser_of(self.x_0)(basis, gamma_t)
            step = VARIANCES[self.variance].step(said, basis, gamma_s, gamma_t)
            M = step.mean.reshape(D, D).T
            cov = M @ cov @ M.T + float(step.var.flatten()[0]) * eye
        cov = self.gain @ cov @ self.gain.T + float(table_of("cosine", T).beta[1]) * eye
        return MultivariateNormal(torch.zeros(D).double(), cov).log_prob(2.0 * x.double().flatten(1) / (L - 1) - 1)


def draws(n: int, seed: int = 0) -> Draws:
    return Draws(seed, 0, range(n), n, torch.device("cpu"))


X = torch.tensor([[2, 5], [8, 8], [4, 0]], dtype=torch.uint8).reshape(3, 1, 1, D)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_with_many_trajectories_it_is_the_likelihood(variance: str) -> None:
    """k = 20,000: the mean of the weights is p_θ(x) to its own standard error, from the spread of 20 such estimates."""
    model = Linear(variance, 0.6 * random_cov(D).inverse() @ random_cov(D) + 0.1 * gaussians(D, D))
    for x in X:
        found = model.chain().importance_weighted(x.expand(20, 1, 1, D), draws(20, seed=3), 1000).total
        weights = (-found).exp()
        exact = model.log_prob(x[None]).exp()
        error = float(weights.std() / 20**0.5)
        assert abs(float(weights.mean() - exact)) <= 4 * error
        assert error < 0.05 * float(exact)


def test_it_lies_between_the_bound_and_the_likelihood() -> None:
    """E IW_1 is the bound; E IW_k falls with k, and never below −ln p: each within 3 standard errors of 4,000 draws."""
    model, n = Linear("beta_tilde", 0.6 * torch.eye(D).double() + 0.1 * gaussians(D, D)), 4000
    x = X[:1].expand(n, 1, 1, D)
    chain, found = model.chain(), {}
    for k in (1, 2, 4, 8):
        total = chain.importance_weighted(x, draws(n, seed=k), k).total
        found[k] = (float(total.mean()), float(total.std()) / n**0.5)
    trajectory = chain.trajectory(x, draws(n, seed=99)).total
    assert abs(found[1][0] - float(trajectory.mean())) <= 3 * (found[1][1] ** 2 + float(trajectory.var()) / n) ** 0.5
    for k in (2, 4, 8):
        assert found[k][0] < found[k // 2][0]  # by far more than their errors, here
        assert found[k][0] >= -float(model.log_prob(X[:1])) - 3 * found[k][1]


def test_of_one_trajectory_it_is_the_trajectory_form() -> None:
    chain = Linear("beta", 0.5 * torch.eye(D).double()).chain()
    one, whole = chain.importance_weighted(X, draws(3), 1), chain.trajectory(X, draws(3))
    torch.testing.assert_close(one.total, whole.total, rtol=1e-12, atol=1e-12)
    assert (one.evaluations, whole.evaluations) == (T, T)
    assert chain.importance_weighted(X, draws(3), 8).evaluations == 8 * T


def test_where_the_bound_is_tight_every_trajectory_says_the_same() -> None:
    """Exact reverse steps (σ² = β on N(0, 1) data): IW_k = −ln p for every k, without any noise."""
    data = GaussianData(torch.zeros(1), torch.eye(1))

    def x_0(x_t: Tensor, gamma: Tensor) -> Tensor:
        return data.denoise(x_t.flatten(1).double(), gamma).reshape(x_t.shape)

    chain = chain_bound(denoiser_of(x_0), "beta", 1)
    x = torch.arange(L, dtype=torch.uint8).reshape(L, 1, 1, 1)
    exact = -data.log_prob(2.0 * x.double().flatten(1) / (L - 1) - 1)
    for k in (1, 3):
        found = chain.importance_weighted(x, draws(L), k).total
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)  # x_t is float32 where the network sees it


def network(family: str) -> DDPM | VDM:
    torch.manual_seed(0)
    shape, levels = (1, 4, 4), 5
    if family == "ddpm":
        options = DDPMOptions(timesteps=20, widths=(8,), attention=())
        model: DDPM | VDM = DDPM.from_options(options.resolved(shape), shape, levels)
    else:
        model = VDM.from_options(VDMOptions(widths=(8,), attention=(), timesteps=20).resolved(shape), shape, levels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("family", ["ddpm", "vdm"])
def test_more_trajectories_never_cost_more_on_images(family: str) -> None:
    """100 images, T = 20, k = 1, 2, 4, 8 with noise of their own, paired by image: never above IW_1 by 2 s.e. of the
    difference, and below it at k = 8 by more than that.
    """
    model, n = network(family), 100
    x = torch.randint(0, 5, (n, 1, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    totals = {k: model.bound(x, form="iw", k=k, seed=k).total for k in (1, 2, 4, 8)}
    for k in (2, 4, 8):
        gap = totals[k] - totals[1]
        error = float(gap.std()) / n**0.5
        assert float(gap.mean()) <= 2 * error
    assert float(gap.mean()) < -2 * error
