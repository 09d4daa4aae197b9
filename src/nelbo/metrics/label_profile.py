"""How the costs of two labels differ on held-out images, and which draws tell most about a difference.

A difference of two labels is Σ_k d_k over pieces of the bound (:mod:`nelbo.metrics.label_costs`). On held-out images

    d ~ N(s Δ, C),   a draw of the piece k ~ N(d_k, ν_k)

with Δ the difference of ‖x̄ − m‖², the squared distance of the image to the cluster that each label has (0 without
clusters). Given draws r = (r_1, …, r_n) of the pieces k_1, …, k_n, with H the rows k_i of the identity, the rest is
Gaussian conditioning (Bayesian quadrature: O'Hagan 1991; Rasmussen & Ghahramani 2003):

    L Lᵀ = H C Hᵀ + diag ν,   e = L⁻¹ (r − H s Δ),   b = L⁻¹ H C 1
    E[Σ d | r] = Σ s Δ + Σ_i b_i e_i,   Var[Σ d | r] = 1ᵀ C 1 − Σ_i b_i²

So each draw adds one term to both sums, and the variances are known in advance. Each next piece is the one that makes
the variance least. With many draws the mean tends to the average of the draws: the law of held-out images is a start.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-6
"""nats²: the least ν, of the round-off of a network in float32."""


@dataclass(frozen=True)
class Plan:
    """Draws in the order in which they are made, and what each tells.

    Args:
        pieces: k_i of each draw, N of them.
        slope: s of each piece, in nats per unit of Δ, float64, shape (n,).
        factor: L, float64, shape (N, N).
        weight: b, in nats, float64, shape (N,).
        variance: of Σ d after 0 … N draws, in nats², float64, shape (N + 1,).
    """

    pieces: list[int]
    slope: Tensor
    factor: Tensor
    weight: Tensor
    variance: Tensor

    def news(self, number: int, drawn: Tensor, distance: Tensor, before: Tensor) -> Tensor:
        """e_i of a draw of one label; that of a difference is the difference of two of them.

        Args:
            number: i, from 0.
            drawn: r_i, in nats, shape (B, K).
            distance: ‖x̄ − m‖² of each label, shape (B, K).
            before: e_0 … e_{i−1}, shape (B, i, K).
        """
        row = self.factor[number].to(drawn.device)
        known = float(self.slope[self.pieces[number]]) * distance + (row[:number, None] * before).sum(1)
        return (drawn - known) / row[number]


@dataclass(frozen=True)
class CostProfile:
    """The law of the differences of two labels on held-out images.

    Args:
        edges: the edges of the pieces of t, float64; the last piece is the reconstruction, after them.
        slope: s of each of the n pieces, in nats per unit of Δ, float64, shape (n,).
        covariance: C, in nats², float64, shape (n, n).
        noise: ν, in nats², float64, shape (n,).
    """

    edges: Tensor
    slope: Tensor
    covariance: Tensor
    noise: Tensor

    def plan(self, most: int) -> Plan:
        """The best next piece, and the next, ….

        Args:
            most: N, the number of draws.
        """
        noise, pieces = self.noise.clamp(min=FLOOR), []
        left = self.covariance.clone()
        for _ in range(most):
            gain = left.sum(1).square() / (left.diagonal() + noise)
            pieces.append(int(gain.argmax()))
            column = left[:, pieces[-1]]
            left = left - torch.outer(column, column) / (column[pieces[-1]] + noise[pieces[-1]])
        rows = self.covariance[pieces]
        factor = torch.linalg.cholesky(rows[:, pieces] + noise[pieces].diag())
        weight = torch.linalg.solve_triangular(factor, rows.sum(1, keepdim=True), upper=False)[:, 0]
        told = torch.cat([weight.new_zeros(1), weight.square().cumsum(0)])
        return Plan(pieces, self.slope, factor, weight, (self.covariance.sum() - told).clamp(min=0))


def profile_of(drawn: Tensor, distance: Tensor, edges: Tensor) -> CostProfile:
    """The profile from two draws of each difference.

    s is that of least squares; C is the mean product of the two draws less s Δ, with its negative eigenvalues set to
    0; ν is half their mean squared difference.

    Args:
        drawn: two draws of d_k for P pairs of labels, in nats, float64, shape (2, P, n), P ≥ 1.
        distance: Δ of each pair, float64, shape (P,).
        edges: as in :class:`CostProfile`.
    """
    mean, squared = drawn.mean(0), float(distance.square().sum())
    slope = distance @ mean / squared if squared > 0 else torch.zeros_like(mean[0])
    one, two = drawn - slope * distance[:, None]
    product = one.T @ two / len(distance)
    values, vectors = torch.linalg.eigh((product + product.T) / 2)
    covariance = (vectors * values.clamp(min=0)) @ vectors.T
    return CostProfile(edges, slope, covariance, (one - two).square().mean(0) / 2)
