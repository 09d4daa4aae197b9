"""The bound in its consistency form: the two directions must agree on every x_t.

    −ln p(x_0) ≤ E KL(q(x_T|x_{T−1}) ‖ p(x_T))                                                    prior
               + Σ_{t=1}^{T−1} E_q[ln q(x_t|x_{t−1}) − ln p_θ(x_t|x_{t+1})]                        diffusion
               + E[−ln p_θ(x_0|x_1)]                                                              reconstruction

The expectation is over q(x_{t−1}, x_t, x_{t+1}|x_0). With x_t integrated out its summand is

    E KL(q(x_t|x_{t−1},x_{t+1}) ‖ p_θ(x_t|x_{t+1})) − (D/2) ln(1 + α_{t+1} β_t/β_{t+1})

and not E KL(q(x_t|x_{t−1}) ‖ p_θ(x_t|x_{t+1})), which is often written: x_t and x_{t+1} are not independent given
x_{t−1}. A summand may be negative. The prior costs more than that of the denoising form, since q(x_T|x_{T−1}) is
narrow, and the diffusion term as much less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.diffusion import Gaussian, Process, along
from nelbo.divergences import kl_normal, kl_of_variances


def neighbours(process: Process, x_0: Tensor, t: Tensor, noise: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """x_{t−1}, x_t and x_{t+1} of one trajectory: a jump, then two single steps.

    Args:
        process: the forward process.
        x_0: clean examples, shape (B, …).
        t: 1 ≤ t < T, shape (B,).
        noise: standard normal, three of the shape of x_0.
    """
    x_prev = process.diffuse(x_0, t - 1, noise[0])
    x_t = process.step(x_prev, t).sample(noise[1])
    return [x_prev, x_t, process.step(x_t, t + 1).sample(noise[2])]


def consistency_log_ratio(process: Process, reverse: Gaussian, x_prev: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """ln q(x_t|x_{t−1}) − ln p_θ(x_t|x_{t+1}), one sample of the summand, in nats, shape (B,).

    Args:
        process: the forward process.
        reverse: p_θ(x_t|x_{t+1}) at x_{t+1}.
        x_prev, x_t: x_{t−1} and x_t, float64, shape (B, …).
        t: 1 ≤ t < T, shape (B,).
    """
    return (process.step(x_prev, t).log_prob(x_t) - reverse.log_prob(x_t)).flatten(1).sum(1)


def consistency_term(process: Process, reverse: Gaussian, x_prev: Tensor, x_next: Tensor, t: Tensor) -> Tensor:
    """The same with x_t integrated out, equal on average over x_{t+1} given x_{t−1}; in nats, shape (B,).

    = KL(q(x_t|x_{t−1},x_{t+1}) ‖ p_θ(x_t|x_{t+1})) − (D/2) ln(1 + α_{t+1} β_t/β_{t+1}); the arguments are those of
    :func:`consistency_log_ratio`, with x_{t+1} in the place of x_t.
    """
    q, p = process.bridge(x_prev, x_next, t), reverse
    table = process.schedule
    known = 0.5 * torch.log1p(table.alpha.roll(-1) * table.beta / table.beta.roll(-1))
    return (kl_normal(q.mean, q.var, p.mean, p.var) - along(known, t, x_prev)).flatten(1).sum(1)


def consistency_prior_term(process: Process, x_0: Tensor) -> Tensor:
    """E KL(q(x_T|x_{T−1}) ‖ N(0, I)) of each example, in nats, shape (B,); no network is asked.

    = ½ Σ [α_T E x_{T−1}² + (β_T − 1) − ln β_T] with E x_{T−1}² = ᾱ_{T−1} x_0² + 1 − ᾱ_{T−1}.
    """
    table, last = process.schedule, process.schedule.T
    second_moment = table.alpha_bar[last - 1] * x_0.double().square() + table.noise_var[last - 1]
    of_variances = kl_of_variances(table.beta[last], torch.ones_like(table.beta[last]))
    return (0.5 * (table.alpha[last] * second_moment + of_variances)).flatten(1).sum(1).to(x_0.dtype)
