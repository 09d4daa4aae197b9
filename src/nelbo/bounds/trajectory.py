"""The bound before any rearrangement, from whole trajectories (Ho et al. 2020, (3)).

    −ln p(x_0) ≤ E_q[ln q(x_{1:T}|x_0) − ln p_θ(x_{0:T})]
               = E_q[−ln p(x_T)]                                                               prior
               + E_q[Σ_{t=1}^T ln q(x_t|x_{t−1}) − Σ_{t=2}^T ln p_θ(x_{t−1}|x_t)]              diffusion
               + E_q[−ln p_θ(x_0|x_1)]                                                         reconstruction

Every x_t comes from x_{t−1} by one step, and the network is asked at each: T evaluations for one estimate. The
reconstruction is that of the denoising form; prior and diffusion are that form's plus and minus H_q(X_T|X_0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from nelbo.bounds.denoising import Reverse
from nelbo.diffusion import Process

Decoder = Callable[[Tensor], Tensor]
"""x_1, shape (B, …) → −ln p_θ(x_0|x_1) of each example in nats, shape (B,)."""


def trajectory_terms(
    process: Process,
    reverse: Reverse,
    decoder: Decoder,
    x_0: Tensor,
    noise: Iterable[Tensor],
) -> dict[str, Tensor]:
    """ln q(x_{1:T}|x_0) − ln p_θ(x_{0:T}) of one trajectory per example  [DDPM (3)].

    Args:
        process: the forward process.
        reverse: p_θ(x_{t−1}|x_t) at x_t and t ≥ 2.
        decoder: −ln p_θ(x_0|x_1) for these x_0.
        x_0: clean examples, float64, shape (B, …): densities at neighbouring t cancel to a small difference.
        noise: standard normal, of the shape of x_0, for the steps to x_1, x_2, … in turn.

    Returns:
        reconstruction, diffusion and prior, in nats, shape (B,).
    """
    T, x_prev = process.schedule.T, x_0
    diffusion = torch.zeros(len(x_0), dtype=x_0.dtype, device=x_0.device)
    reconstruction = diffusion
    for t, eps in zip(range(1, T + 1), noise, strict=False):
        at_t = torch.full((len(x_0),), t, device=x_0.device)
        forward = process.step(x_prev, at_t)
        x_t = forward.sample(eps)
        diffusion = diffusion + forward.log_prob(x_t).flatten(1).sum(1)
        if t == 1:
            reconstruction = decoder(x_t)
        else:
            diffusion = diffusion - reverse(x_t, at_t).log_prob(x_prev).flatten(1).sum(1)
        x_prev = x_t
    prior = 0.5 * (x_prev.square() + math.log(2 * math.pi)).flatten(1).sum(1)
    return {"reconstruction": reconstruction, "diffusion": diffusion, "prior": prior}
