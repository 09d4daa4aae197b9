"""Divergences between the data distribution p and the generator's distribution q, bounded by a discriminator.

    V(D) = E_p[ln D(x)] + E_q[ln(1 − D(x))]                       GAN (1)
    D*(x) = p(x)/(p(x) + q(x))                                    GAN (2), the maximiser of V
    V(D*) = 2 JS(p, q) − 2 ln 2                                   GAN (6), Goodfellow et al. 2014

Any D gives a lower bound of the divergence: ½ V(D) + ln 2 ≤ JS(p, q). The best generator has q = p, D* = ½ everywhere
and V = −2 ln 2. The hinge loss gives a lower bound of the total variation. For scores f,

    L(f) = E_p[max(0, 1 − f)] + E_q[max(0, 1 + f)]                Lim & Ye 2017

For f in [−1, 1], each x contributes p(1 − f) + q(1 + f) = p + q − f(p − q); a larger |f| contributes more. The minimum
is 2 min(p, q), at f* = sign(p − q). Since ∫ min(p, q) = 1 − TV(p, q), min_f L = 2 − 2 TV and 1 − ½ L(f) ≤ TV(p, q).

A discriminator is given by its logit ℓ = ln D − ln(1 − D), which keeps its precision where D is near 0 or 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.theory.discrete import require_law

INDIFFERENT_VALUE = 2 * math.log(0.5)
"""V(½) = −2 ln 2, the value of a discriminator that always answers ½. It is the minimum of V(D*)."""


def optimal_logit(log_p: Tensor, log_q: Tensor) -> Tensor:
    """ℓ*(x) = ln p(x) − ln q(x), the logit of D*(x) = p(x)/(p(x) + q(x))  [GAN (2)].

    Args:
        log_p, log_q: ln p(x) and ln q(x), broadcastable shapes; −∞ where there is no mass.

    Returns:
        ℓ*: ±∞ where only one distribution has mass; 0 (D = ½) where neither has, because V does not depend on D there.
    """
    neither = (log_p == -torch.inf) & (log_q == -torch.inf)
    return torch.where(neither, 0.0, log_p - log_q)


def discriminator_value(logit_p: Tensor, logit_q: Tensor, p: Tensor | None = None, q: Tensor | None = None) -> Tensor:
    """V(D) = E_p[ln D(x)] + E_q[ln(1 − D(x))], in nats, at most 0  [GAN (1)].

    Args:
        logit_p: ℓ at samples of the data, or at every outcome, shape (n, …).
        logit_q: ℓ at samples of the generator, or at every outcome, shape (m, …).
        p, q: probabilities of the outcomes, shapes (n,) and (m,); None for samples, which have equal weights.

    Returns:
        V, shape (…).

    Raises:
        ValueError: p or q does not sum to 1, or has a negative entry.
    """
    return _mean(F.logsigmoid(logit_p), p) + _mean(F.logsigmoid(-logit_q), q)


def js_lower_bound(value: Tensor) -> Tensor:
    """½ V(D) + ln 2 ≤ JS(p, q), in nats, with equality at D*  [GAN (6)].

    Args:
        value: V(D), in nats. The bound holds for the expectation; a Monte Carlo estimate of V gives an estimate.
    """
    return 0.5 * (value - INDIFFERENT_VALUE)


def hinge_loss(score_p: Tensor, score_q: Tensor, p: Tensor | None = None, q: Tensor | None = None) -> Tensor:
    """L(f) = E_p[max(0, 1 − f(x))] + E_q[max(0, 1 + f(x))], the discriminator's hinge loss (Lim & Ye 2017).

    Args:
        score_p: f at samples of the data, or at every outcome, shape (n, …).
        score_q: f at samples of the generator, or at every outcome, shape (m, …).
        p, q: probabilities of the outcomes, shapes (n,) and (m,); None for samples, which have equal weights.

    Returns:
        L, at least 0, shape (…).

    Raises:
        ValueError: p or q does not sum to 1, or has a negative entry.
    """
    return _mean(F.relu(1 - score_p), p) + _mean(F.relu(1 + score_q), q)


def total_variation_lower_bound(loss: Tensor) -> Tensor:
    """1 − ½ L(f) ≤ TV(p, q), with equality at f* = sign(p − q).

    Args:
        loss: L(f). The bound holds for the expectation; a Monte Carlo estimate of L gives an estimate.
    """
    return 1 - 0.5 * loss


def _mean(values: Tensor, law: Tensor | None) -> Tensor:
    """E[values] over the first dimension; an infinite value of probability 0 counts as 0."""
    if law is None:
        return values.mean(0)
    require_law(law)
    weight = law.reshape(-1, *[1] * (values.ndim - 1))
    return torch.where(weight > 0, weight * values, 0.0).sum(0)
