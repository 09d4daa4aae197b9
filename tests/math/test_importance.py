"""The importance-weighted bound: against the exact likelihood of a linear-Gaussian chain, and on images."""

from __future__ import annotations

import pytest
import torch
from math_helpers import gaussians, random_cov, schedule_of
from nelbo.bounds import VARIANCES
from nelbo.models._chain import ChainBound
from torch import Tensor
from torch.distributions import MultivariateNormal

from nelbo.diffusion import Denoised, Process
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.rng import Draws
from nelbo.theory.exact import GaussianData
from nelbo.theory.normal import Gaussian

T, D, L = 4, 2, 9


class Linear:
    """A chain with the linear denoiser x̂_0 = A x_t for all t, so that p_θ(x_0) is Gaussian with a known covariance."""

    def __init__(self, variance: str, gain: Tensor) -> None:
        self.process, self.variance, self.gain = Process(schedule_of("cosine", T)), VARIANCES[variance], gain
        self.beta_1 = float(self.process.schedule.beta[1])

    def denoise(self, x_t: Tensor, t: Tensor) -> Denoised:
        x_0 = (x_t.flatten(1).double() @ self.gain.T).reshape(x_t.shape)
        signal, noise = self.process.schedule.signal_rate[t], self.process.schedule.noise_rate[t]
        shape = (-1, 1, 1, 1)
        return Denoised(x_0, (x_t - signal.reshape(shape) * x_0) / noise.reshape(shape))

    def decode(self, x: Tensor, x_1: Tensor) -> Tensor:
        """−ln N(x_0; A x_1, β_1 I), a density."""
        x_0 = 2.0 * x.double() / (L - 1) - 1
        mean = (x_1.flatten(1).double() @ self.gain.T).reshape(x_1.shape)
        return -Gaussian(mean, torch.tensor(self.beta_1)).log_prob(x_0).flatten(1).sum(1)

    def chain(self) -> ChainBound:
        return ChainBound(self.process, self.variance, self.denoise, self.decode, L, (1, 1, D))

    def log_prob(self, x: Tensor) -> Tensor:
        """ln p_θ(x_0), from the matrices of the reverse steps: x_{t−1} = M_t x_t + σ_t z."""
        cov, eye = torch.eye(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)
        for t in range(T, 1, -1):
            at = torch.full((D,), t)
            basis = eye.reshape(D, 1, 1, D)
            step = self.variance.step(self.process, self.denoise(basis, at), basis, at)
            M = step.mean.reshape(D, D).T
            cov = M @ cov @ M.T + float(step.var.flatten()[0]) * eye
        cov = self.gain @ cov @ self.gain.T + self.beta_1 * eye
        return MultivariateNormal(torch.zeros(D).double(), cov).log_prob(2.0 * x.double().flatten(1) / (L - 1) - 1)


def draws(n: int, seed: int = 0) -> Draws:
    return Draws(seed, 0, range(n), n, torch.device("cpu"))


X = torch.tensor([[2, 5], [8, 8], [4, 0]], dtype=torch.uint8).reshape(3, 1, 1, D)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_with_many_trajectories_it_is_the_likelihood(variance: str) -> None:
    """k = 20,000: the mean of the weights is p_θ(x) to its own standard error, from the spread of 20 such estimates."""
    model = Linear(variance, 0.6 * random_cov(D).inverse() @ random_cov(D) + 0.1 * gaussians(D, D))
    for x in X:
        found = model.chain().importance_weighted(x.expand(20, 1, 1, D), draws(20), 1000).total
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
    process = Process(schedule_of("cosine", T))
    oracle = data.denoiser(process)

    def denoise(x_t: Tensor, t: Tensor) -> Denoised:
        said = oracle(x_t.flatten(1).double(), t)
        return Denoised(said.x_0.reshape(x_t.shape), said.eps.reshape(x_t.shape))

    def decode(x: Tensor, x_1: Tensor) -> Tensor:
        x_0 = 2.0 * x.double() / (L - 1) - 1
        mean = denoise(x_1, torch.ones(len(x), dtype=torch.long)).x_0
        return -Gaussian(mean, process.schedule.beta[1]).log_prob(x_0).flatten(1).sum(1)

    chain = ChainBound(process, VARIANCES["beta"], denoise, decode, L, (1, 1, 1))
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
        model: DDPM | VDM = DDPM(options.resolved(shape), shape, levels)
    else:
        model = VDM(VDMOptions(widths=(8,), attention=()).resolved(shape), shape, levels).in_steps(20)
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
