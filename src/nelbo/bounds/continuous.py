"""The bound of variational diffusion models, in discrete and in continuous time (Kingma et al. 2021).

L_T = mean over i = 1 … T of (T/2) expm1(γ_t − γ_s) ‖ε − ε̂(z_t)‖²,  t = i/T, s = (i−1)/T              (14)
L_∞ = mean over t in [0, 1] of ½ γ′(t) ‖ε − ε̂(z_t)‖²                                                  (17)
prior = KL(q(z_1|x) ‖ N(0, I)),     reconstruction = E_{q(z_0|x)}[−ln p(x|z_0)]                         (11)
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.diffusion.continuous import rates
from nelbo.divergences import kl_normal


def squared_error(eps: Tensor, eps_hat: Tensor) -> Tensor:
    """‖ε − ε̂‖² of each example, shape (B,)."""
    return (eps - eps_hat).square().flatten(1).sum(1)


def discrete_weight(gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
    """½ expm1(γ_t − γ_s), the weight of one step's ‖ε − ε̂‖² in L_T  [VDM (14)]."""
    return 0.5 * torch.expm1(gamma_t - gamma_s)


def continuous_weight(slope: Tensor) -> Tensor:
    """½ γ′(t), the density over t of the weight of ‖ε − ε̂‖² in L_∞  [VDM (17)]."""
    return 0.5 * slope


def latent_prior_term(x: Tensor, gamma_1: Tensor) -> Tensor:
    """KL(q(z_1|x) ‖ N(0, I)) of each example, in nats, shape (B,).

    Args:
        x: examples, shape (B, …).
        gamma_1: γ(1), a single number.
    """
    signal, noise = rates(gamma_1.reshape(1), x.double())
    one = torch.ones_like(noise)
    return kl_normal(signal * x.double(), noise.square(), torch.zeros_like(one), one).flatten(1).sum(1).to(x.dtype)
