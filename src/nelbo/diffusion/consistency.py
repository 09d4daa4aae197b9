"""The bound in its consistency form: the forward and the reverse step must agree on every x_t.

    −ln p(x_0) ≤ E KL(q(x_T|x_{T−1}) ‖ p(x_T))                                                    prior
               + Σ_{t=1}^{T−1} E_q[ln q(x_t|x_{t−1}) − ln p_θ(x_t|x_{t+1})]                        diffusion
               + E[−ln p_θ(x_0|x_1)]                                                              reconstruction

The expectation is over q(x_{t−1}, x_t, x_{t+1}|x_0). With x_t integrated out, the summand is

    E KL(q(x_t|x_{t−1},x_{t+1}) ‖ p_θ(x_t|x_{t+1})) − (D/2) ln(1 + α_{t+1} β_t/β_{t+1})

The often-written E KL(q(x_t|x_{t−1}) ‖ p_θ(x_t|x_{t+1})) is wrong, because x_t and x_{t+1} are not independent given
x_{t−1}. A summand can be negative. The prior term is larger than in the denoising form, since q(x_T|x_{T−1}) is narrow;
the diffusion term is smaller by the same amount.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.diffusion.process import bridge, diffuse, noise_var, per_image, step_signal, step_var, transition
from nelbo.theory.normal import Gaussian, kl_normal, kl_of_variances


class Three(NamedTuple):
    """γ_{t−1}, γ_t and γ_{t+1} of each example, shape (B,)."""

    prev: Tensor
    here: Tensor
    next: Tensor


def neighbours(x_0: Tensor, gamma: Three, noise: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """x_{t−1}, x_t and x_{t+1} of one trajectory: x_{t−1} from x_0, then two single steps.

    Args:
        x_0: clean examples, shape (B, …).
        gamma: γ_{t−1}, γ_t and γ_{t+1}.
        noise: three standard normal tensors of the shape of x_0.
    """
    x_prev = diffuse(x_0, gamma.prev, noise[0])
    x_t = transition(x_prev, gamma.prev, gamma.here).sample(noise[1])
    return [x_prev, x_t, transition(x_t, gamma.here, gamma.next).sample(noise[2])]


def consistency_log_ratio(reverse: Gaussian, x_prev: Tensor, x_t: Tensor, gamma: Three) -> Tensor:
    """ln q(x_t|x_{t−1}) − ln p_θ(x_t|x_{t+1}), one sample of the summand, in nats, shape (B,).

    Args:
        reverse: p_θ(x_t|x_{t+1}) at x_{t+1}.
        x_prev, x_t: x_{t−1} and x_t, float64, shape (B, …).
        gamma: γ_{t−1}, γ_t and γ_{t+1}.
    """
    forward = transition(x_prev, gamma.prev, gamma.here)
    return (forward.log_prob(x_t) - reverse.log_prob(x_t)).flatten(1).sum(1)


def consistency_term(reverse: Gaussian, x_prev: Tensor, x_next: Tensor, gamma: Three) -> Tensor:
    """The summand with x_t integrated out; the same mean over x_{t+1} given x_{t−1}; in nats, shape (B,).

    = KL(q(x_t|x_{t−1},x_{t+1}) ‖ p_θ(x_t|x_{t+1})) − (D/2) ln(1 + α_{t+1} β_t/β_{t+1}). The arguments are those of
    :func:`consistency_log_ratio`, with x_{t+1} instead of x_t.
    """
    q, p = bridge(x_prev, x_next, *gamma), reverse
    signal, var = step_signal(gamma.here, gamma.next), step_var(gamma.prev, gamma.here)
    known = 0.5 * torch.log1p(signal.square() * var / step_var(gamma.here, gamma.next))
    return (kl_normal(q.mean, q.var, p.mean, p.var) - per_image(known, x_prev)).flatten(1).sum(1)


def consistency_prior_term(gammas: Tensor, x_0: Tensor) -> Tensor:
    """E KL(q(x_T|x_{T−1}) ‖ N(0, I)) of each example, in nats, shape (B,), without a network evaluation.

    = ½ Σ [α_T E x_{T−1}² + (β_T − 1) − ln β_T] with E x_{T−1}² = ᾱ_{T−1} x_0² + 1 − ᾱ_{T−1}.

    Args:
        gammas: −∞, γ_1, …, γ_T.
        x_0: clean examples, shape (B, …).
    """
    before, last = gammas[-2], gammas[-1]
    second_moment = torch.sigmoid(-before) * x_0.double().square() + noise_var(before)
    var = step_var(before, last)
    of_variances = kl_of_variances(var, torch.ones_like(var))
    cost = 0.5 * (step_signal(before, last).square() * second_moment + of_variances)
    return cost.flatten(1).sum(1).to(x_0.dtype)
