"""Exact results for Gaussian data: the optimal denoiser, the log-likelihood and every term of the bound.

For x_0 ~ N(m, Σ) and z = √ᾱ x_0 + √(1−ᾱ) ε, in the eigenbasis of Σ (eigenvalue λ, coordinate y = x_0 − m):

    E[x_0 | z] = m + k (z − √ᾱ m),   k = √ᾱ λ/(ᾱ λ + 1 − ᾱ)
    E_ε (x_0 − x̂_0)² = ((1−ᾱ)/(ᾱ λ + 1−ᾱ))² y² + k² (1−ᾱ),        ‖ε − ε̂‖² = SNR ‖x_0 − x̂_0‖²

This module does not use the code that it verifies: it computes its coefficients from ᾱ = 1/(1 + e^γ).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.theory.normal import kl_of_variances


class Coefficients:
    """DDPM's tables for a chain: α_t, β_t, ᾱ_t and 1 − ᾱ_t for t = 0 … T, float64.

    Args:
        gammas: −∞, γ_1, …, γ_T, increasing, shape (T + 1,).
    """

    def __init__(self, gammas: Tensor) -> None:
        gammas = gammas.double()
        self.alpha_bar, self.noise_var = 1 / (1 + gammas.exp()), 1 / (1 + (-gammas).exp())
        self.snr = (-gammas).exp()
        share = torch.ones_like(gammas)  # β_t/(1 − ᾱ_t)
        share[1:] = -torch.expm1(gammas[:-1] - gammas[1:])
        self.beta = share * self.noise_var
        self.alpha = 1 - self.beta
        self.beta_tilde = self.beta.clone()
        self.beta_tilde[1:] = share[1:] * self.noise_var[:-1]


class GaussianData:
    """x_0 ~ N(m, Σ) with any covariance Σ. All computations are in float64.

    Args:
        mean: m, shape (D,).
        cov: Σ, symmetric positive definite, shape (D, D).
    """

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        self.mean, self.cov = mean.double(), cov.double()
        self.eigenvalues, self.basis = torch.linalg.eigh(self.cov)

    def sample(self, noise: Tensor) -> Tensor:
        """x_0 from standard normal noise, both of shape (N, D)."""
        return self.mean + (noise.double() * self.eigenvalues.sqrt()) @ self.basis.T

    def log_prob(self, x_0: Tensor) -> Tensor:
        """ln p(x_0) in nats, shape (B,) for x_0 of shape (B, D)."""
        y = self.coordinates(x_0)
        return -0.5 * (y.square() / self.eigenvalues + (2 * math.pi * self.eigenvalues).log()).sum(1)

    def coordinates(self, x_0: Tensor) -> Tensor:
        """y, the coordinates of x_0 − m in the eigenbasis, shape (B, D)."""
        return (x_0.double() - self.mean) @ self.basis

    def denoise(self, z: Tensor, gamma: Tensor) -> Tensor:
        """E[x_0 | z], the optimal denoiser's x̂_0, for z of shape (B, D) and γ of shape (B,)."""
        alpha_bar = (1 / (1 + gamma.double().exp()))[:, None].to(z)
        noise_var = (1 / (1 + (-gamma.double()).exp()))[:, None].to(z)
        signal = alpha_bar.sqrt()
        gain = signal * self.eigenvalues / (alpha_bar * self.eigenvalues + noise_var)
        return self.mean + (gain * ((z - signal * self.mean) @ self.basis)) @ self.basis.T

    def squared_error(self, gamma: Tensor, y_squared: Tensor) -> Tensor:
        """E_ε ‖x_0 − x̂_0(z)‖², shape (B,), for y² of shape (B, D) at γ of shape (B,); y² = λ gives the data's mean."""
        alpha_bar = (1 / (1 + gamma.double().exp()))[:, None]
        noise_var = (1 / (1 + (-gamma.double()).exp()))[:, None]
        total = alpha_bar * self.eigenvalues + noise_var
        gain_squared = alpha_bar * (self.eigenvalues / total).square()
        return ((noise_var / total).square() * y_squared + gain_squared * noise_var).sum(1)

    def bound(self, gammas: Tensor, reverse_var: Tensor, x_0: Tensor) -> dict[str, Tensor]:
        """Each term of the denoising form for the optimal denoiser, with the decoder p(x_0|x_1) = N(x̂_0(x_1), β_1 I).

        Args:
            gammas: −∞, γ_1, …, γ_T, shape (T + 1,).
            reverse_var: σ_t², shape (T + 1,).
            x_0: shape (B, D).

        Returns:
            reconstruction, diffusion and prior: expectations over all noise, in nats, shape (B,).
        """
        table = Coefficients(gammas)
        y_squared, dims = self.coordinates(x_0).square(), x_0.shape[1]
        weight = table.beta.square() / (2 * reverse_var * table.alpha * table.noise_var) * table.snr  # DDPM (12)
        of_variances = 0.5 * dims * kl_of_variances(table.beta_tilde[2:], reverse_var[2:]).sum()
        diffusion = of_variances + torch.zeros(x_0.shape[0], dtype=torch.float64)
        for t in range(2, len(gammas)):
            diffusion = diffusion + weight[t] * self.squared_error(gammas[t].expand(len(x_0)), y_squared)
        alpha_bar, noise_var = table.alpha_bar[-1], table.noise_var[-1]
        prior = 0.5 * (alpha_bar * x_0.double().square() + noise_var - 1 - noise_var.log()).sum(1)
        return {"reconstruction": self.reconstruction(gammas, x_0), "diffusion": diffusion, "prior": prior}

    def reconstruction(self, gammas: Tensor, x_0: Tensor) -> Tensor:
        """E_{q(x_1|x_0)}[−ln N(x_0; x̂_0(x_1), β_1 I)] in nats, shape (B,) for x_0 of shape (B, D)."""
        y_squared, beta_1 = self.coordinates(x_0).square(), Coefficients(gammas).beta[1]
        error = self.squared_error(gammas[1].expand(len(x_0)), y_squared)
        return 0.5 * error / beta_1 + 0.5 * x_0.shape[1] * (2 * math.pi * beta_1).log()

    def consistency(self, gammas: Tensor, reverse_var: Tensor, x_0: Tensor) -> dict[str, Tensor]:
        """Each term of the consistency form for the optimal denoiser, with the decoder of :meth:`bound`.

        With z_t = x_t − √ᾱ_t m, the means of q(x_t|x_{t−1},x_{t+1}) and p_θ(x_t|x_{t+1}) differ by
        a z_{t−1} + b z_{t+1}.

        Args:
            gammas: −∞, γ_1, …, γ_T, shape (T + 1,).
            reverse_var: σ_t², shape (T + 1,).
            x_0: shape (B, D).

        Returns:
            reconstruction, diffusion and prior: expectations over all noise, in nats, shape (B,).
        """
        table = Coefficients(gammas)
        # One row for each t = 1 … T − 1; "next" is t + 1, "prev" is t − 1.
        alpha, beta, alpha_next, beta_next = (
            part[:, None] for part in (table.alpha[1:-1], table.beta[1:-1], table.alpha[2:], table.beta[2:])
        )
        alpha_bar_prev, noise_prev = table.alpha_bar[:-2, None], table.noise_var[:-2, None]
        alpha_bar, noise = table.alpha_bar[1:-1, None], table.noise_var[1:-1, None]
        alpha_bar_next, noise_next = table.alpha_bar[2:, None], table.noise_var[2:, None]
        var = beta * beta_next / (beta_next + alpha_next * beta)
        gain = alpha_bar_next.sqrt() * self.eigenvalues / (alpha_bar_next * self.eigenvalues + noise_next)
        p_mean = (alpha_bar.sqrt() * beta_next * gain + alpha_next.sqrt() * noise) / noise_next
        a, b = var * alpha.sqrt() / beta, var * alpha_next.sqrt() / beta_next - p_mean
        carried = (alpha * alpha_next).sqrt()  # from z_{t−1} to z_{t+1}
        signal = a * alpha_bar_prev.sqrt() + b * alpha_bar_next.sqrt()
        spread = (a + b * carried).square() * noise_prev + b.square() * (beta_next + alpha_next * beta)
        weight = 0.5 / reverse_var[2:, None]
        constant = 0.5 * kl_of_variances(var, reverse_var[2:, None]) - 0.5 * torch.log1p(alpha_next * beta / beta_next)
        of_y = (weight * signal.square()).sum(0)
        diffusion = self.coordinates(x_0).square() @ of_y + (weight * spread + constant).sum()
        return {
            "reconstruction": self.reconstruction(gammas, x_0),
            "diffusion": diffusion,
            "prior": self.consistency_prior(table, x_0),
        }

    @staticmethod
    def consistency_prior(table: Coefficients, x_0: Tensor) -> Tensor:
        """E KL(q(x_T|x_{T−1}) ‖ N(0, I)), in nats, shape (B,) for x_0 of shape (B, D)."""
        alpha, beta = table.alpha[-1], table.beta[-1]
        second_moment = table.alpha_bar[-2] * x_0.double().square() + table.noise_var[-2]
        return 0.5 * (alpha * second_moment + beta - 1 - beta.log()).sum(1)
