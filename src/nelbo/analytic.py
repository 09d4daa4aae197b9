"""Exact oracles: Gaussian data, for which the denoiser, the log-likelihood and every term of the bound are known.

For x_0 ~ N(m, Σ) and x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε, in the eigenbasis of Σ (eigenvalue λ, coordinate y = x_0 − m):

    E[x_0 | x_t] = m + k (x_t − √ᾱ_t m),   k = √ᾱ_t λ/(ᾱ_t λ + 1 − ᾱ_t)
    E_ε (x_0 − x̂_0)² = ((1−ᾱ_t)/(ᾱ_t λ + 1−ᾱ_t))² y² + k² (1−ᾱ_t),        ‖ε − ε̂‖² = SNR(t) ‖x_0 − x̂_0‖²
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.bounds import consistency_prior_term, denoising_weight, prior_term
from nelbo.diffusion import Denoised, Denoiser, Process, along
from nelbo.divergences import kl_of_variances


class GaussianData:
    """x_0 ~ N(m, Σ), for any covariance. All in float64.

    Args:
        mean: m, shape (D,).
        cov: Σ, symmetric positive definite, shape (D, D).
    """

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        self.mean, self.cov = mean.double(), cov.double()
        self.eigenvalues, self.basis = torch.linalg.eigh(self.cov)

    def sample(self, noise: Tensor) -> Tensor:
        """x_0 from standard normal noise of shape (N, D)."""
        return self.mean + (noise.double() * self.eigenvalues.sqrt()) @ self.basis.T

    def log_prob(self, x_0: Tensor) -> Tensor:
        """ln p(x_0) in nats, shape (B,) for x_0 of shape (B, D)."""
        y = self.coordinates(x_0)
        return -0.5 * (y.square() / self.eigenvalues + (2 * math.pi * self.eigenvalues).log()).sum(1)

    def coordinates(self, x_0: Tensor) -> Tensor:
        """y, the coordinates of x_0 − m in the eigenbasis, shape (B, D)."""
        return (x_0.double() - self.mean) @ self.basis

    def denoiser(self, process: Process) -> Denoiser:
        """The exact denoiser, x̂_0 = E[x_0 | x_t], as a function of (x_t, t) with x_t of shape (B, D)."""
        table = process.schedule

        def denoise(x_t: Tensor, t: Tensor) -> Denoised:
            signal, noise = along(table.signal_rate, t, x_t), along(table.noise_rate, t, x_t)
            gain = signal * self.eigenvalues / (signal.square() * self.eigenvalues + noise.square())
            x_0 = self.mean + (gain * ((x_t - signal * self.mean) @ self.basis)) @ self.basis.T
            return Denoised(x_0, (x_t - signal * x_0) / noise)

        return denoise

    def squared_error(self, process: Process, t: Tensor, y_squared: Tensor) -> Tensor:
        """E_ε ‖x_0 − x̂_0(x_t)‖² for given y², shape (B, D), at t, shape (B,); with y² = λ the mean over the data."""
        table = process.schedule
        alpha_bar, noise_var = along(table.alpha_bar, t, y_squared), along(table.noise_var, t, y_squared)
        total = alpha_bar * self.eigenvalues + noise_var
        gain_squared = alpha_bar * (self.eigenvalues / total).square()
        return ((noise_var / total).square() * y_squared + gain_squared * noise_var).sum(1)

    def bound(self, process: Process, reverse_var: Tensor, x_0: Tensor) -> dict[str, Tensor]:
        """Each term of the denoising form for the exact denoiser, with the decoder p(x_0|x_1) = N(x̂_0(x_1), β_1 I).

        Args:
            process: the forward process.
            reverse_var: σ_t², shape (T + 1,).
            x_0: shape (B, D).

        Returns:
            reconstruction, diffusion and prior: expectations over all noise, in nats, shape (B,).
        """
        table = process.schedule
        y_squared = self.coordinates(x_0).square()
        dims = x_0.shape[1]
        weight = denoising_weight(table, reverse_var) * table.snr
        of_variances = 0.5 * dims * kl_of_variances(table.beta_tilde, reverse_var)[2:].sum()
        diffusion = of_variances + torch.zeros(x_0.shape[0], dtype=torch.float64)
        for t in range(2, table.T + 1):
            at_t = torch.full((x_0.shape[0],), t)
            diffusion = diffusion + weight[t] * self.squared_error(process, at_t, y_squared)
        return {
            "reconstruction": self.reconstruction(process, x_0),
            "diffusion": diffusion,
            "prior": prior_term(process, x_0.double()),
        }

    def reconstruction(self, process: Process, x_0: Tensor) -> Tensor:
        """E_{q(x_1|x_0)}[−ln N(x_0; x̂_0(x_1), β_1 I)] in nats, shape (B,) for x_0 of shape (B, D)."""
        y_squared, beta_1 = self.coordinates(x_0).square(), process.schedule.beta[1]
        error = self.squared_error(process, torch.ones(x_0.shape[0], dtype=torch.long), y_squared)
        return 0.5 * error / beta_1 + 0.5 * x_0.shape[1] * (2 * math.pi * beta_1).log()

    def consistency(self, process: Process, reverse_var: Tensor, x_0: Tensor) -> dict[str, Tensor]:
        """Each term of the consistency form for the exact denoiser, with the decoder of :meth:`bound`.

        With z_t = x_t − √ᾱ_t m, the means of q(x_t|x_{t−1},x_{t+1}) and p_θ(x_t|x_{t+1}) differ by
        a z_{t−1} + b z_{t+1}.

        Args:
            process: the forward process.
            reverse_var: σ_t², shape (T + 1,).
            x_0: shape (B, D).

        Returns:
            reconstruction, diffusion and prior: expectations over all noise, in nats, shape (B,).
        """
        table = process.schedule
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
            "reconstruction": self.reconstruction(process, x_0),
            "diffusion": diffusion,
            "prior": consistency_prior_term(process, x_0.double()),
        }
