"""The evidence identities, on a model that can be enumerated and on a Gaussian one.

ln p(x) = ln Σ_z p(x, z) = ln p(x, z) − ln p(z|x)   for every z
ln p(x) = ELBO(x) + KL(q(z|x) ‖ p(z|x))
E_{q(x)}[−ELBO(x)] = KL(q(x) q(z|x) ‖ p(x, z)) + H(q(x))
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from math_helpers import gaussians
from scipy import integrate, stats
from torch import Tensor

from nelbo.diffusion.denoiser import denoiser_of
from nelbo.diffusion.schedules import chain_of, gamma_of_betas
from nelbo.diffusion.variances import VARIANCES
from nelbo.theory.discrete import entropy_discrete, kl_discrete
from nelbo.theory.exact import Coefficients, GaussianData
from nelbo.theory.normal import entropy_normal, kl_normal

X, Z = 4, 5


def laws(rows: int, n: int, seed: int) -> Tensor:
    """Probability vectors, far from uniform, shape (rows, n)."""
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(n, 0.7), rows))


class Enumerable(NamedTuple):
    """p(z), p(x|z) as a table (Z, X), q(z|x) as a table (X, Z), and q(x)."""

    prior: Tensor
    likelihood: Tensor
    encoder: Tensor
    data: Tensor

    def joint(self) -> Tensor:
        """p(x, z), shape (X, Z)."""
        return (self.prior[:, None] * self.likelihood).T

    def posterior(self) -> Tensor:
        """p(z|x) by counting: the share of each z in its row, shape (X, Z)."""
        return self.joint() / self.joint().sum(1, keepdim=True)

    def elbo(self) -> Tensor:
        """E_q[ln p(x|z)] − KL(q(z|x) ‖ p(z)), shape (X,)."""
        return (self.encoder * self.likelihood.T.log()).sum(1) - kl_discrete(self.encoder, self.prior)


@pytest.fixture(params=range(5))
def model(request: pytest.FixtureRequest) -> Enumerable:
    s = 10 * request.param
    return Enumerable(laws(1, Z, s)[0], laws(Z, X, s + 1), laws(X, Z, s + 2), laws(1, X, s + 3)[0])


def test_the_evidence_is_the_same_by_every_z(model: Enumerable) -> None:
    evidence = model.joint().sum(1).log()
    assert float(evidence.exp().sum()) == pytest.approx(1, abs=1e-14)
    by_z = model.joint().log() - model.posterior().log()
    torch.testing.assert_close(by_z, evidence[:, None].expand(X, Z), rtol=0, atol=1e-13)


def test_the_evidence_is_the_elbo_and_the_gap(model: Enumerable) -> None:
    evidence, gap = model.joint().sum(1).log(), kl_discrete(model.encoder, model.posterior())
    assert bool((gap > 1e-3).all())
    torch.testing.assert_close(evidence, model.elbo() + gap, rtol=0, atol=1e-13)
    exact = model._replace(encoder=model.posterior())
    torch.testing.assert_close(exact.elbo(), evidence, rtol=0, atol=1e-13)


def test_the_mean_bound_is_a_divergence_of_joints_and_an_entropy(model: Enumerable) -> None:
    mean_bound = float((model.data * -model.elbo()).sum())
    q_joint = model.data[:, None] * model.encoder
    divergence = kl_discrete(q_joint.flatten(), model.joint().flatten())
    assert mean_bound == pytest.approx(float(divergence + entropy_discrete(model.data)), abs=1e-12)
    assert mean_bound >= float(entropy_discrete(model.data))


# z ~ N(0, 1), x|z ~ N(a z + b, s²), q(z|x) any Gaussian

A, B, S2 = 1.7, -0.4, 0.3
POINTS = torch.tensor([-2.0, -0.4, 0.3, 1.9], dtype=torch.float64)


def log_normal(x: Tensor, mean: Tensor | float, var: float) -> Tensor:
    return torch.from_numpy(np.asarray(stats.norm.logpdf(x, mean, math.sqrt(var))))


def gaussian_posterior(x: Tensor) -> tuple[Tensor, float]:
    """p(z|x): precision 1 + a²/s², mean a (x − b)/(s² + a²)."""
    return A * (x - B) / (S2 + A * A), S2 / (S2 + A * A)


def gaussian_elbo(x: Tensor, mean: Tensor, var: float) -> Tensor:
    """E_q ln N(x; a z + b, s²) − KL(q ‖ N(0, 1)) for q = N(mean, var)."""
    fit = log_normal(x, A * mean + B, S2) - 0.5 * A * A * var / S2
    one = torch.ones((), dtype=torch.float64)
    return fit - kl_normal(mean, var * one, 0 * one, one)


def gaussian_evidence(x: float) -> float:
    """ln p(x) by marginalisation: quadrature over z."""
    reach = 12.0
    value, _ = integrate.quad(
        lambda z: stats.norm.pdf(z) * stats.norm.pdf(x, A * z + B, S2**0.5), -reach, reach, epsabs=1e-14, limit=400
    )
    return math.log(value)


def test_the_gaussian_evidence_is_the_same_by_every_z() -> None:
    """Quadrature, its closed form N(b, a² + s²), and ln p(x, z) − ln p(z|x) at several z."""
    mean, var = gaussian_posterior(POINTS)
    evidence = torch.tensor([gaussian_evidence(float(x)) for x in POINTS], dtype=torch.float64)
    torch.testing.assert_close(evidence, log_normal(POINTS, B, A * A + S2), rtol=0, atol=1e-9)
    for z in (-3.0, 0.0, 0.8, 2.5):
        at = torch.full_like(POINTS, z)
        by_z = log_normal(at, 0.0, 1.0) + log_normal(POINTS, A * at + B, S2) - log_normal(at, mean, var)
        torch.testing.assert_close(by_z, evidence, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("shift", "widen"), [(0.0, 1.0), (0.3, 1.0), (0.0, 2.5), (-1.0, 0.2)])
def test_the_gaussian_evidence_is_the_elbo_and_the_gap(shift: float, widen: float) -> None:
    mean, var = gaussian_posterior(POINTS)
    q_mean, q_var = mean + shift, var * widen
    one = torch.ones((), dtype=torch.float64)
    gap = kl_normal(q_mean, q_var * one, mean, var * one)
    evidence = torch.tensor([gaussian_evidence(float(x)) for x in POINTS], dtype=torch.float64)
    torch.testing.assert_close(gaussian_elbo(POINTS, q_mean, q_var) + gap, evidence, rtol=0, atol=1e-9)


def test_the_mean_gaussian_bound_is_a_divergence_of_joints_and_an_entropy() -> None:
    """q(x) = N(m, v), q(z|x) = N(c x, w): both joints are Gaussian, their KL is by torch.distributions."""
    m, v, c, w = 0.5, 0.8, 0.6, 0.25
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)  # exact: the ELBO is quadratic in x
    x = torch.from_numpy(m + math.sqrt(v) * nodes)
    mean_bound = float(torch.from_numpy(weights / weights.sum()) @ -gaussian_elbo(x, c * x, w))
    law = torch.distributions.MultivariateNormal
    # Rows and columns: x, z.
    q_moments = np.array([m, c * m]), np.array([[v, c * v], [c * v, c * c * v + w]])
    p_moments = np.array([B, 0.0]), np.array([[A * A + S2, A], [A, 1.0]])
    q, p = (law(torch.from_numpy(mean), torch.from_numpy(cov)) for mean, cov in (q_moments, p_moments))
    entropy = float(entropy_normal(torch.tensor(v, dtype=torch.float64)))
    assert mean_bound == pytest.approx(float(torch.distributions.kl_divergence(q, p)) + entropy, abs=1e-12)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_the_diffusions_bound_is_the_evidence_and_its_gap(variance: str) -> None:
    """A chain of two steps on one-dimensional Gaussian data: z = (x_1, x_2), all laws Gaussian.

    p_θ's joint follows from its linear reverse steps; −ln p_θ(x_0) from its marginal; KL(q ‖ posterior) by
    conditioning. bound = −ln p_θ(x_0) + KL, with the bound from the oracle.
    """
    data = GaussianData(torch.zeros(1), torch.tensor([[0.6]]))
    gammas = chain_of(gamma_of_betas(torch.tensor([0.3, 0.5], dtype=torch.float64)))
    table = Coefficients(gammas)
    reverse_var = getattr(table, variance)
    one = torch.ones(1, 1, dtype=torch.float64)
    k_1 = float(data.denoise(one, gammas[1:2]))
    step = VARIANCES[variance].step(denoiser_of(data.denoise)(one, gammas[2:3]), one, gammas[1:2], gammas[2:3])
    k_2 = float(step.mean)
    assert float(step.var) == pytest.approx(float(reverse_var[2]), rel=1e-12)
    # x_2 = e_2, x_1 = k_2 x_2 + σ_2 e_1, x_0 = k_1 x_1 + √β_1 e_0, in the order x_0, x_1, x_2.
    s_0, s_1 = float(table.beta[1].sqrt()), float(reverse_var[2].sqrt())
    factor = np.array([[s_0, k_1 * s_1, k_1 * k_2], [0, s_1, k_2], [0, 0, 1.0]])
    joint = factor @ factor.T
    for x_0 in (-1.2, 0.0, 0.7):
        nll = -stats.norm.logpdf(x_0, 0, math.sqrt(joint[0, 0]))
        post_mean = joint[1:, 0] / joint[0, 0] * x_0
        post_cov = joint[1:, 1:] - np.outer(joint[1:, 0], joint[0, 1:]) / joint[0, 0]
        a_1, a_2, b_2 = float(table.alpha[1]), float(table.alpha[2]), float(table.beta[2])
        q_mean = np.array([a_1**0.5, (a_1 * a_2) ** 0.5]) * x_0
        v_1 = float(table.beta[1])
        q_cov = np.array([[v_1, a_2**0.5 * v_1], [a_2**0.5 * v_1, a_2 * v_1 + b_2]])
        law = torch.distributions.MultivariateNormal
        q, p = (law(torch.from_numpy(m), torch.from_numpy(c)) for m, c in ((q_mean, q_cov), (post_mean, post_cov)))
        gap = float(torch.distributions.kl_divergence(q, p))
        bound = sum(data.bound(gammas, reverse_var, torch.tensor([[x_0]], dtype=torch.float64)).values())
        assert float(bound) == pytest.approx(nll + gap, abs=1e-10)
        assert gap > 0


# The pieces


def test_discrete_divergence_and_entropy_are_scipys() -> None:
    q, p = laws(50, 6, 0), laws(50, 6, 1)
    np.testing.assert_allclose(kl_discrete(q, p), stats.entropy(q, p, axis=1), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(entropy_discrete(q), stats.entropy(q, axis=1), rtol=1e-12, atol=1e-14)
    assert kl_discrete(q, q).tolist() == pytest.approx([0.0] * 50, abs=1e-15)


def test_zero_mass_costs_nothing_where_q_has_none_and_is_refused_where_it_has() -> None:
    q, p = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.25, 0.5])
    assert float(kl_discrete(q, p)) == pytest.approx(math.log(2))
    assert float(entropy_discrete(q)) == pytest.approx(math.log(2))
    assert float(kl_discrete(q, q)) == 0.0
    with pytest.raises(ValueError, match="infinite"):
        kl_discrete(p, q)


@pytest.mark.parametrize("bad", [[0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0], [0.0, 0.0]])
def test_numbers_that_are_no_law_are_refused(bad: list[float]) -> None:
    good = torch.tensor([0.5, 0.5])
    for call in (
        lambda: entropy_discrete(torch.tensor(bad)),
        lambda: kl_discrete(torch.tensor(bad), good),
        lambda: kl_discrete(good, torch.tensor(bad)),
    ):
        with pytest.raises(ValueError, match="sum to 1"):
            call()


def test_entropy_of_a_normal_law_is_torchs() -> None:
    var = gaussians(20).exp()
    torch.testing.assert_close(
        entropy_normal(var), torch.distributions.Normal(0.0, var.sqrt()).entropy(), rtol=1e-12, atol=1e-12
    )
