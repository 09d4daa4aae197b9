"""Divergences and entropy of discrete distributions: sums over the last dimension."""

from __future__ import annotations

import torch
from torch import Tensor

INFINITE = "KL(q‖p) is infinite: q has mass where p has none"


def kl_discrete(q: Tensor, p: Tensor) -> Tensor:
    """KL(q‖p) = Σ_k q_k ln(q_k/p_k) over the last dimension, in nats; 0 ln 0 = 0.

    Args:
        q, p: probabilities, shapes (…, n) that broadcast.

    Returns:
        The divergence in nats, shape (…).

    Raises:
        ValueError: q or p is not a distribution, or some q_k > 0 where p_k = 0, so that the divergence is infinite.
    """
    require_law(q)
    require_law(p)
    if bool(((p == 0) & (q > 0)).any()):
        raise ValueError(INFINITE)
    ratio = torch.where(q > 0, q / torch.where(q > 0, p, 1.0), 1.0)
    return (q * ratio.log()).sum(-1)


def js_discrete(q: Tensor, p: Tensor) -> Tensor:
    """JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m) with m = ½(q + p), over the last dimension, in nats (Lin 1991).

    JS is symmetric and finite: 0 for q = p, and ln 2 if q and p have no common outcome.

    Args:
        q, p: probabilities, shapes (…, n) that broadcast.

    Returns:
        The divergence in nats, shape (…).

    Raises:
        ValueError: q or p is not a distribution.
    """
    require_law(q)
    require_law(p)
    both = q + p
    return js_part(0.5 * both, (q - p) / torch.where(both > 0, both, 1.0)).sum(-1)


def js_part(m: Tensor, u: Tensor) -> Tensor:
    """One outcome's term of JS: ½ m [(1 + u) ln(1 + u) + (1 − u) ln(1 − u)], where q = m(1 + u) and p = m(1 − u).

    Near u = 0 it is computed as ½ m [ln(1 − u²) + 2u artanh u], where both terms are of order u² and do not cancel.

    Args:
        m: ½(q + p), mass or density.
        u: (q − p)/(q + p), in [−1, 1]; any value where m = 0.
    """
    near = torch.log1p(-u * u) + 2 * u * torch.atanh(u)
    far = torch.special.xlog1py(1 + u, u) + torch.special.xlog1py(1 - u, -u)
    return 0.5 * m * torch.where(u.abs() < 0.5, near, far)


def total_variation_discrete(q: Tensor, p: Tensor) -> Tensor:
    """TV(q, p) = max_A |q(A) − p(A)| = ½ Σ_k |q_k − p_k| over the last dimension, in [0, 1].

    Args:
        q, p: probabilities, shapes (…, n) that broadcast.

    Returns:
        The distance, without a unit, shape (…).

    Raises:
        ValueError: q or p is not a distribution.
    """
    require_law(q)
    require_law(p)
    return 0.5 * (q - p).abs().sum(-1)


def entropy_discrete(p: Tensor) -> Tensor:
    """H(p) = −Σ_k p_k ln p_k over the last dimension, in nats; 0 ln 0 = 0.

    Args:
        p: probabilities, shape (…, n).

    Returns:
        The entropy in nats, shape (…).

    Raises:
        ValueError: p is not a distribution.
    """
    require_law(p)
    return -torch.xlogy(p, p).sum(-1)


def require_law(p: Tensor) -> None:
    """Check that every row is a distribution: no negative entry, and a sum of 1 up to round-off.

    Args:
        p: probabilities, shape (…, n).

    Raises:
        ValueError: a row is not a distribution.
    """
    close = 16 * p.shape[-1] * torch.finfo(p.dtype).eps
    if not bool((p >= 0).all() and ((p.sum(-1) - 1).abs() <= close).all()):
        raise ValueError("probabilities must be at least 0 and sum to 1")
