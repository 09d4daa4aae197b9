"""What a discriminator knows of the distance between the data's law p and the generator's law q.

    V(D) = E_p[ln D(x)] + E_q[ln(1 − D(x))]                       GAN (1)
    D*(x) = p(x)/(p(x) + q(x))                                    GAN (2), it maximises V
    V(D*) = 2 JS(p, q) − 2 ln 2                                   GAN (6), Goodfellow et al. 2014

So any D bounds the divergence from below, ½ V(D) + ln 2 ≤ JS(p, q), and the best generator has q = p, where D* = ½
everywhere and V = −2 ln 2. The hinge loss does the same for total variation. For scores f,

    L(f) = E_p[max(0, 1 − f)] + E_q[max(0, 1 + f)]                Lim & Ye 2017

Where f is in [−1, 1], x adds p(1 − f) + q(1 + f) = p + q − f(p − q); beyond that it adds more. The least is at
f* = sign(p − q) with 2 min(p, q), and ∫ min(p, q) = 1 − TV(p, q): min_f L = 2 − 2 TV, so 1 − ½ L(f) ≤ TV(p, q).

Discriminators are given by their logits ℓ = ln D − ln(1 − D), which lose no digits where D is near 0 or 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.theory.discrete import require_law

INDIFFERENT_VALUE = 2 * math.log(0.5)
"""V(½) = −2 ln 2: the value of a discriminator that always answers ½, and the least that V(D*) can be."""


def optimal_logit(log_p: Tensor, log_q: Tensor) -> Tensor:
    """ℓ*(x) = ln p(x) − ln q(x), the logit of D*(x) = p(x)/(p(x) + q(x))  [GAN (2)].

    Args:
        log_p, log_q: ln p(x) and ln q(x), shapes that broadcast; −∞ where there is no mass.

    Returns:
        ℓ*, ±∞ where one law alone has mass, and 0 (D = ½) where neither has: V does not depend on it there.
    """
    neither = (log_p == -torch.inf) & (log_q == -torch.inf)
    return torch.where(neither, 0.0, log_p - log_q)


def discriminator_value(logit_p: Tensor, logit_q: Tensor, p: Tensor | None = None, q: Tensor | None = None) -> Tensor:
    """V(D) = E_p[ln D(x)] + E_q[ln(1 − D(x))], in nats, at most 0  [GAN (1)].

    Args:
        logit_p: ℓ at samples of the data, or at every outcome of it, shape (n, …).
        logit_q: ℓ at samples of the generator, or at every outcome of it, shape (m, …).
        p, q: the outcomes' probabilities, shapes (n,) and (m,); samples weigh the same.

    Returns:
        V, shape (…).

    Raises:
        ValueError: p or q is no law.
    """
    return _mean(F.logsigmoid(logit_p), p) + _mean(F.logsigmoid(-logit_q), q)


def js_lower_bound(value: Tensor) -> Tensor:
    """½ V(D) + ln 2 ≤ JS(p, q), in nats, with equality at D*  [GAN (6)].

    Args:
        value: V(D), an expectation; of an estimate it is an estimate.
    """
    return 0.5 * (value - INDIFFERENT_VALUE)


def hinge_loss(score_p: Tensor, score_q: Tensor, p: Tensor | None = None, q: Tensor | None = None) -> Tensor:
    """L(f) = E_p[max(0, 1 − f(x))] + E_q[max(0, 1 + f(x))], what a discriminator minimises (Lim & Ye 2017).

    Args:
        score_p: f at samples of the data, or at every outcome of it, shape (n, …).
        score_q: f at samples of the generator, or at every outcome of it, shape (m, …).
        p, q: the outcomes' probabilities, shapes (n,) and (m,); samples weigh the same.

    Returns:
        L, at least 0, shape (…).

    Raises:
        ValueError: p or q is no law.
    """
    return _mean(F.relu(1 - score_p), p) + _mean(F.relu(1 + score_q), q)


def total_variation_lower_bound(loss: Tensor) -> Tensor:
    """1 − ½ L(f) ≤ TV(p, q), with equality at f* = sign(p − q).

    Args:
        loss: L(f), an expectation; of an estimate it is an estimate.
    """
    return 1 - 0.5 * loss


def _mean(values: Tensor, law: Tensor | None) -> Tensor:
    """E[values] over the first dimension; what has no probability has no say, be it infinite."""
    if law is None:
        return values.mean(0)
    require_law(law)
    weight = law.reshape(-1, *[1] * (values.ndim - 1))
    return torch.where(weight > 0, weight * values, 0.0).sum(0)
