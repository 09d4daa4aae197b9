"""Surrogates, against models whose evidence, posterior and ELBO are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gaussians
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, Gamma, Independent, MultivariateNormal, OneHotCategorical, kl_divergence

from inference import banana, grid_divergence
from nelbo.errors import InputError
from nelbo.rng import Draws, Stream
from nelbo.theory.surrogates import (
    Estimator,
    Family,
    FullRank,
    LogJoint,
    MeanField,
    Surrogate,
    elbo,
    fit,
    leave_one_out,
    log_evidence,
    log_ratio,
    reparameterised,
    score_function,
)

CPU = torch.device("cpu")

ESTIMATORS = [reparameterised, score_function, leave_one_out]


def run(log_joint: LogJoint, q: Surrogate, **settings: int) -> None:
    for _ in fit(log_joint, q, **settings):
        pass


class Linear:
    """y = Φ w + noise of variance s², w ~ N(0, I). One column of ones is a normal mean with known variance."""

    def __init__(self, features: Tensor, seed: int, s2: float = 0.5) -> None:
        self.features, self.s2 = features, s2
        self.y = 0.7 * features.sum(1) + gaussians(len(features), seed=seed)
        precision = torch.eye(features.shape[1], dtype=torch.float64) + features.T @ features / s2
        self.cov = torch.linalg.inv(precision)
        self.mean = self.cov @ features.T @ self.y / s2

    def log_joint(self, w: Tensor) -> Tensor:
        residual = self.y - w @ self.features.T
        fit_ = -0.5 * (residual.square() / self.s2 + math.log(2 * math.pi * self.s2)).sum(1)
        return fit_ - 0.5 * (w.square() + math.log(2 * math.pi)).sum(1)

    def evidence(self) -> float:
        """ln N(y; 0, Φ Φᵀ + s² I), by scipy: the weights integrated out."""
        cov = self.features @ self.features.T + self.s2 * torch.eye(len(self.y), dtype=torch.float64)
        return float(stats.multivariate_normal.logpdf(self.y, np.zeros(len(self.y)), cov))

    def elbo(self, mean: Tensor, cov: Tensor) -> Tensor:
        """E_q ln p(y, w) + H(q) of q = N(mean, cov), with no evidence and no posterior in it."""
        spread = -0.5 * ((self.features @ cov @ self.features.T).trace() / self.s2 + cov.trace())
        return self.log_joint(mean[None])[0] + spread + MultivariateNormal(mean, cov).entropy()


MODELS = {
    "normal mean": Linear(torch.ones(6, 1, dtype=torch.float64), 1),
    "regression": Linear(gaussians(12, 3, seed=2), 3),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))


def law(q: MeanField | FullRank) -> MultivariateNormal:
    return MultivariateNormal(q.mean, scale_tril=q.factor())


def off_the_optimum(kind: type[MeanField] | type[FullRank], dims: int) -> MeanField | FullRank:
    """A surrogate that is wrong in every parameter."""
    q = kind(0.3 * gaussians(dims, seed=5))
    with torch.no_grad():
        for i, p in enumerate(q.parameters()):
            p += 0.3 * gaussians(*p.shape, seed=6 + i) - 0.5 * (i == 1)
    return q


@every_model
@pytest.mark.parametrize("kind", [MeanField, FullRank])
def test_evidence_elbo_and_divergence_add_up(model: Linear, kind: type[MeanField]) -> None:
    """The three, each exact on its own; then the estimate of the ELBO, within 4 of its errors."""
    q = off_the_optimum(kind, len(model.mean))
    gap = float(kl_divergence(law(q), MultivariateNormal(model.mean, model.cov)).detach())
    bound = float(model.elbo(q.mean, law(q).covariance_matrix).detach())
    assert gap > 0.01
    assert bound + gap == pytest.approx(model.evidence(), abs=1e-10)
    estimate = elbo(model.log_joint, q, 20_000)
    assert abs(estimate.value - bound) < 4 * estimate.stderr < 0.02 * abs(bound)


@every_model
@pytest.mark.parametrize(("estimator", "close"), [(reparameterised, 0.02), (leave_one_out, 1e-3)])
def test_a_full_rank_fit_is_the_posterior(model: Linear, estimator: Estimator, close: float) -> None:
    """There f is constant, and so the leave-one-out gradient vanishes; the reparameterised one keeps its noise.

    What is left of the fit counts squared in the ELBO and the evidence: 0.02² over variances of about 0.1.
    """
    q = FullRank(torch.zeros(len(model.mean)))
    for _ in fit(model.log_joint, q, steps=800, estimator=estimator):
        pass
    torch.testing.assert_close(q.mean.detach(), model.mean, rtol=0, atol=close)
    torch.testing.assert_close(law(q).covariance_matrix.detach(), model.cov, rtol=0, atol=close)
    for estimate in (elbo(model.log_joint, q), log_evidence(model.log_joint, q)):
        assert estimate.value == pytest.approx(model.evidence(), abs=max(1e-6, 10 * close**2))


def test_a_mean_field_fit_has_the_diagonal_of_the_precision() -> None:
    """The best factorised q of a Gaussian: its mean, and variances 1/Λ_dd (Bishop 2006, 10.1.2)."""
    model = MODELS["regression"]
    q = MeanField(torch.zeros(3))
    run(model.log_joint, q, steps=800)
    # Adam's last steps are short, of about 1e-4; the rest is noise of the gradient, which does not vanish here.
    torch.testing.assert_close(q.mean.detach(), model.mean, rtol=0, atol=0.01)
    var = q.log_diagonal.detach().mul(2).exp()
    torch.testing.assert_close(var * torch.linalg.inv(model.cov).diag(), torch.ones_like(var), rtol=0, atol=0.05)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.__name__)
@pytest.mark.parametrize("kind", [MeanField, FullRank])
def test_gradients_are_unbiased(estimator: Estimator, kind: type[MeanField]) -> None:
    """The mean of 2,000 estimates is the gradient of the closed form by central differences, within 4.5 errors."""
    model = MODELS["regression"]
    q = off_the_optimum(kind, 3)
    found = gradients(estimator, model.log_joint, q, count=4, repeats=2000)
    assert_mean(found, differences(model, q), sigmas=4.5, bias=1e-7)


def gradients(estimator: Estimator, log_joint: LogJoint, q: Surrogate, count: int, repeats: int) -> Tensor:
    """Estimates of the gradient, flat, shape (repeats, parameters)."""
    rows = []
    for step in range(repeats):
        value = estimator(log_joint, q, Draws(0, step, range(count), count, CPU)).value
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(q.parameters()))]))
    return torch.stack(rows)


@torch.no_grad()
def differences(model: Linear, q: MeanField | FullRank, h: float = 1e-5) -> Tensor:
    """Central differences of the closed-form ELBO, in the order of q's parameters."""
    slopes = []
    for p in q.parameters():
        flat = p.data.view(-1)
        for i in range(len(flat)):
            ends = []
            for shift in (h, -2 * h):
                flat[i] += shift
                ends.append(float(model.elbo(q.mean, law(q).covariance_matrix)))
            flat[i] += h
            slopes.append((ends[0] - ends[1]) / (2 * h))
    return torch.tensor(slopes, dtype=torch.float64)


def test_the_variances_of_the_gradients_are_those_of_their_laws() -> None:
    """p = q = N(0, 1) times e^c: f = c, and ∂/∂μ is −mean(ε), mean(c ε), and 0 with the baseline."""

    def log_joint(z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(1) - 0.5 * math.log(2 * math.pi) + 3.0

    for estimator, truth in zip(ESTIMATORS, (1 / 8, 9 / 8, 0.0), strict=True):
        found = gradients(estimator, log_joint, MeanField(torch.zeros(1)), count=8, repeats=1000)[:, 0]
        # A variance from 1,000 nearly normal draws has a relative error of √(2/1000): 4 of them.
        assert float(found.var()) == pytest.approx(truth, rel=0.18, abs=1e-20)


def test_families_by_rsample_and_by_scores() -> None:
    """Gamma: a Poisson rate with its conjugate prior. One-hot: a mixture's label, which has no rsample."""
    counts = torch.tensor([2.0, 4, 3], dtype=torch.float64)
    a, b = 2.0 + float(counts.sum()), 1.0 + 3

    def poisson(z: Tensor) -> Tensor:
        prior = z.log() - z  # Gamma(2, 1)
        return (prior + (counts * z.log() - z - torch.lgamma(counts + 1)).sum(1, keepdim=True))[:, 0]

    q = Family(lambda free: Independent(Gamma(free[:1].exp(), free[1:].exp()), 1), torch.tensor([1.0, 0.0]))
    run(poisson, q, steps=800)
    truth = math.lgamma(a) - a * math.log(b) - math.lgamma(2) - float(torch.lgamma(counts + 1).sum())
    assert elbo(poisson, q).value == pytest.approx(truth, abs=1e-3)
    assert q.free.exp().tolist() == pytest.approx([a, b], rel=0.05)

    weights = torch.tensor([0.5, 0.1, 1.4], dtype=torch.float64)
    label = Family(lambda free: OneHotCategorical(logits=free), torch.zeros(3))
    assert not label.reparameterised
    run(lambda z: z @ weights.log(), label, steps=800)
    assert elbo(lambda z: z @ weights.log(), label).value == pytest.approx(math.log(2.0), abs=1e-3)
    assert label.free.softmax(0).tolist() == pytest.approx((weights / 2).tolist(), abs=0.01)


def test_importance_weights_give_the_evidence_with_its_error() -> None:
    model = MODELS["regression"]
    q = FullRank(model.mean)  # wider than the posterior: the weights have a variance
    found = [log_evidence(model.log_joint, q, 2000, seed) for seed in range(200)]
    values = torch.tensor([e.value for e in found], dtype=torch.float64)
    # ln of a mean is low by half the square of its relative error.
    assert_mean(values, model.evidence(), sigmas=3.5, bias=float(values.var()))
    assert float(np.mean([e.stderr for e in found])) == pytest.approx(float(values.std()), rel=0.25)


def banana_elbo(q: MeanField) -> float:
    """−KL(q ‖ banana) of a factorised q, from the moments of z_1: Var z_1² = 2σ⁴ + 4μ²σ²."""
    (m, n), (s, t) = q.mean.tolist(), q.log_diagonal.mul(2).exp().tolist()
    spread = t + (n - 0.5 * (m * m + s)) ** 2 + 0.25 * (2 * s * s + 4 * m * m * s)
    energy = -0.5 * (m * m + s) - 0.5 * spread / 0.25 - 0.5 * math.log(0.25) - math.log(2 * math.pi)
    return energy + 0.5 * math.log(s * t) + math.log(2 * math.pi * math.e)


def test_the_bananas_divergence_on_a_grid_is_its_closed_form() -> None:
    q = MeanField(torch.tensor([0.2, 0.4]))
    with torch.no_grad():
        q.log_diagonal -= 0.5
    assert grid_divergence(q, 200) == pytest.approx(-banana_elbo(q), abs=1e-6)
    estimate = elbo(banana, q)
    assert abs(estimate.value - banana_elbo(q)) < 4 * estimate.stderr


def test_a_fit_is_decided_by_its_seed_and_leaves_the_global_generator_alone() -> None:
    def fitted(seed: int) -> list[float]:
        q = Family(lambda free: MultivariateNormal(free, torch.eye(2, dtype=torch.float64)), torch.zeros(2))
        return [state.elbo.value for state in fit(banana, q, steps=5, seed=seed)]

    before = torch.get_rng_state()
    assert fitted(1) == fitted(1) != fitted(2)
    assert torch.equal(before, torch.get_rng_state())


def test_the_log_density_of_the_gaussians_is_torchs() -> None:
    z = gaussians(7, 3)
    for q in (off_the_optimum(MeanField, 3), off_the_optimum(FullRank, 3)):
        torch.testing.assert_close(q.log_prob(z), law(q).log_prob(z), rtol=1e-12, atol=1e-12)
        draws = q.sample(Draws(0, 0, range(20_000), 20_000, CPU), Stream.SAMPLE).detach() - q.mean.detach()
        assert_mean(draws[:, :, None] * draws[:, None, :], law(q).covariance_matrix.detach(), sigmas=4)
    assert cov_is_full(law(q).covariance_matrix)


def cov_is_full(cov: Tensor) -> bool:
    return bool((cov.abs() > 1e-3).all())


def test_what_cannot_be_used_is_named() -> None:
    q = MeanField(torch.zeros(2))
    with pytest.raises(InputError, match=r"log_joint: is -inf at z = \["):
        elbo(lambda z: torch.where(z[:, 0] > 0, 0.0, -math.inf), q)
    with pytest.raises(InputError, match="log_joint: is nan"):
        next(fit(lambda z: z[:, 0] * math.nan, q))
    with pytest.raises(InputError, match="gradient that is not finite at step 1"):
        next(fit(lambda z: (0 * z[:, 0]).sqrt(), q))
    with pytest.raises(InputError, match=r"shape \(5, 2\)"):
        log_ratio(lambda z: z, q, torch.zeros(5, 2))
    for call in (lambda: elbo(banana, q, 1), lambda: log_evidence(banana, q, 1), lambda: next(fit(banana, q, count=1))):
        with pytest.raises(InputError, match="count: is 1"):
            call()
    with pytest.raises(InputError, match="Independent"):
        Family(lambda free: Categorical(logits=free), torch.zeros(3))
    label = Family(lambda free: OneHotCategorical(logits=free), torch.zeros(3))
    with pytest.raises(InputError, match="score_function"):
        next(fit(lambda z: z[:, 0], label, estimator=reparameterised))
