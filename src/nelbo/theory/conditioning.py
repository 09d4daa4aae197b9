"""Exact results for data given linear measurements: the conditional law of a Gaussian, and of a mixture of Gaussians.

For x ~ N(m, Σ) and y = A x:

    x | y ~ N(m + G (y − A m), Σ − G A Σ),   G = Σ Aᵀ (A Σ Aᵀ)⁻¹,   y ~ N(A m, A Σ Aᵀ)

For a mixture Σ_k w_k N(m_k, Σ_k), each component is conditioned, and its weight becomes ∝ w_k p_k(y). Like
:mod:`nelbo.theory.exact`, this module does not use the code that it verifies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.theory.exact import GaussianData


class Conditional(NamedTuple):
    """The law of x given A x = y, float64.

    Attributes:
        mean: shape (D,).
        cov: shape (D, D); of rank D − m.
        log_evidence: ln p(y), in nats, a scalar.
    """

    mean: Tensor
    cov: Tensor
    log_evidence: Tensor


def conditional(mean: Tensor, cov: Tensor, A: Tensor, y: Tensor) -> Conditional:
    """The law of x ~ N(m, Σ) given A x = y.

    Args:
        mean: m, shape (D,).
        cov: Σ, symmetric positive definite, shape (D, D).
        A: shape (m, D), of rank m.
        y: shape (m,).
    """
    mean, cov, A, y = mean.double(), cov.double(), A.double(), y.double()
    seen, miss = A @ cov @ A.T, y - A @ mean
    gain = torch.linalg.solve(seen, A @ cov).T
    log_evidence = -0.5 * (miss @ torch.linalg.solve(seen, miss) + torch.logdet(2 * math.pi * seen))
    return Conditional(mean + gain @ miss, cov - gain @ A @ cov, log_evidence)


class MixtureConditional(NamedTuple):
    """The law of a mixture given A x = y: a mixture again.

    Attributes:
        weights: shape (K,).
        parts: the law of each component.
    """

    weights: Tensor
    parts: list[Conditional]

    @property
    def mean(self) -> Tensor:
        """E[x | y], shape (D,)."""
        return self.weights @ torch.stack([part.mean for part in self.parts])

    @property
    def cov(self) -> Tensor:
        """The covariance of x given y, shape (D, D): the mean of the covariances and the covariance of the means."""
        away = torch.stack([part.mean for part in self.parts]) - self.mean
        within = torch.stack([part.cov for part in self.parts])
        return torch.einsum("k,kij->ij", self.weights, within) + away.T @ (self.weights[:, None] * away)


class MixtureData:
    """x_0 ~ Σ_k w_k N(m_k, Σ_k), with its optimal denoiser. All computations are in float64.

    E[x_0 | z] = Σ_k r_k(z) E_k[x_0 | z],   r_k(z) ∝ w_k N(z; √ᾱ m_k, ᾱ Σ_k + (1 − ᾱ) I)

    Args:
        weights: w, shape (K,), with sum 1.
        parts: the components.
    """

    def __init__(self, weights: Tensor, parts: list[GaussianData]) -> None:
        self.weights, self.parts = weights.double(), parts

    def sample(self, noise: Tensor, u: Tensor) -> Tensor:
        """x_0 from standard normal noise, shape (N, D), and uniform numbers, shape (N,)."""
        chosen = torch.searchsorted(self.weights.cumsum(0)[:-1].contiguous(), u.double())
        return torch.stack([part.sample(noise) for part in self.parts])[chosen, torch.arange(len(u))]

    def responsibilities(self, z: Tensor, gamma: Tensor) -> Tensor:
        """r_k(z), shape (B, K), for z of shape (B, D) at γ of shape (B,); γ = −∞ gives those of x_0."""
        alpha_bar = (1 / (1 + gamma.double().exp()))[:, None]
        noise_var = 1 - alpha_bar
        logs = []
        for weight, part in zip(self.weights, self.parts, strict=True):
            y = (z.double() - alpha_bar.sqrt() * part.mean) @ part.basis
            var = alpha_bar * part.eigenvalues + noise_var
            logs.append(weight.log() - 0.5 * (y.square() / var + (2 * math.pi * var).log()).sum(1))
        return torch.stack(logs, 1).softmax(1)

    def denoise(self, z: Tensor, gamma: Tensor) -> Tensor:
        """E[x_0 | z], the optimal denoiser's x̂_0, for z of shape (B, D) and γ of shape (B,)."""
        each = torch.stack([part.denoise(z, gamma) for part in self.parts], 1)
        return (self.responsibilities(z, gamma)[:, :, None] * each).sum(1)

    def conditional(self, A: Tensor, y: Tensor) -> MixtureConditional:
        """The law of x_0 given A x_0 = y, for A of shape (m, D) and y of shape (m,)."""
        parts = [conditional(part.mean, part.cov, A, y) for part in self.parts]
        logs = self.weights.log() + torch.stack([part.log_evidence for part in parts])
        return MixtureConditional(logs.softmax(0), parts)


def kl_gaussian(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> Tensor:
    """KL(N(μ_q, Σ_q) ‖ N(μ_p, Σ_p)) = ½[tr(Σ_p⁻¹Σ_q) + (μ_p − μ_q)ᵀ Σ_p⁻¹ (μ_p − μ_q) − D + ln |Σ_p|/|Σ_q|], in nats.

    Args:
        mean_q, mean_p: shape (D,).
        cov_q, cov_p: symmetric positive definite, shape (D, D).
    """
    away = mean_p - mean_q
    trace = torch.linalg.solve(cov_p, cov_q).trace()
    return 0.5 * (
        trace + away @ torch.linalg.solve(cov_p, away) - len(away) + torch.logdet(cov_p) - torch.logdet(cov_q)
    )
