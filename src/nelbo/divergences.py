"""Divergences between distributions, and entropies, in closed form.

KL(N(μ_q, σ_q²) ‖ N(μ_p, σ_p²)) = ½ [ (μ_q − μ_p)²/σ_p² + δ − ln(1 + δ) ],   δ = σ_q²/σ_p² − 1
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_normal(mean_q: Tensor, var_q: Tensor, mean_p: Tensor, var_p: Tensor) -> Tensor:
    """KL(q‖p) between normal distributions, element by element, in nats.

    Args:
        mean_q, var_q: μ_q and σ_q² > 0; any shapes that broadcast with the others.
        mean_p, var_p: μ_p and σ_p² > 0.

    Returns:
        The divergence of each element, ≥ 0; sum over dimensions for a diagonal Gaussian.
    """
    return 0.5 * ((mean_q - mean_p).square() / var_p + kl_of_variances(var_q, var_p))


def kl_of_variances(var_q: Tensor, var_p: Tensor) -> Tensor:
    """Twice the part of KL(q‖p) that the variances alone cost: δ − ln(1 + δ) with δ = σ_q²/σ_p² − 1.

    For D dimensions and σ_q² = β̃_t, σ_p² = σ_t², half of it times D is (D/2)(β̃_t/σ_t² − 1 + ln(σ_t²/β̃_t)).
    """
    delta = (var_q - var_p) / var_p
    return delta - torch.log1p(delta)


def entropy_normal(var: Tensor) -> Tensor:
    """The differential entropy of N(·, σ²), element by element, in nats: ½ ln(2πe σ²)."""
    return 0.5 * (2 * math.pi * math.e * var).log()


def kl_discrete(q: Tensor, p: Tensor) -> Tensor:
    """KL(q‖p) = Σ_k q_k ln(q_k/p_k) between laws over the last dimension, in nats; 0 ln 0 = 0.

    Args:
        q, p: probabilities, shapes (…, n) that broadcast.

    Raises:
        ValueError: numbers that are no law, or a k that q allows and p does not: the divergence is infinite there.
    """
    _require_law(q)
    _require_law(p)
    if bool(((p == 0) & (q > 0)).any()):
        raise ValueError("KL(q‖p) is infinite: q gives mass to what p gives none")
    ratio = torch.where(q > 0, q / torch.where(q > 0, p, 1.0), 1.0)
    return (q * ratio.log()).sum(-1)


def entropy_discrete(p: Tensor) -> Tensor:
    """H(p) = −Σ_k p_k ln p_k of laws over the last dimension, in nats; 0 ln 0 = 0.

    Raises:
        ValueError: numbers that are no law.
    """
    _require_law(p)
    return -torch.xlogy(p, p).sum(-1)


def _require_law(p: Tensor) -> None:
    """Check that every row is a law: no negative mass, and a sum of one to round-off."""
    close = 16 * p.shape[-1] * torch.finfo(p.dtype).eps
    if not bool((p >= 0).all() and ((p.sum(-1) - 1).abs() <= close).all()):
        raise ValueError("probabilities must be at least 0 and sum to 1")
