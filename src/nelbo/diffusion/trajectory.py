"""The bound before any rearrangement, from whole trajectories (Ho et al. 2020, (3)).

    −ln p(x_0) ≤ E_q[ln q(x_{1:T}|x_0) − ln p_θ(x_{0:T})]
               = E_q[−ln p(x_T)]                                                               prior
               + E_q[Σ_{t=1}^T ln q(x_t|x_{t−1}) − Σ_{t=2}^T ln p_θ(x_{t−1}|x_t)]              diffusion
               + E_q[−ln p_θ(x_0|x_1)]                                                         reconstruction

This is the bottom-up bound of :mod:`nelbo.theory.hierarchy` with a fixed q and a different grouping of the sum. Every
x_t comes from x_{t−1} by one step, so one estimate needs T network evaluations. The reconstruction equals that of the
denoising form; prior and diffusion are those of that form plus and minus H_q(X_T|X_0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import Tensor

from nelbo.diffusion.process import transition
from nelbo.theory.hierarchy import Decoder, infer_bottom_up
from nelbo.theory.normal import Gaussian

Reverse = Callable[[Tensor, Tensor, Tensor], Gaussian]
"""(z_t of shape (B, …), γ_s, γ_t of shape (B,)) → p_θ(z_s|z_t)."""


def trajectory_terms(
    gammas: Tensor, reverse: Reverse, decoder: Decoder, x_0: Tensor, noise: Iterable[Tensor]
) -> dict[str, Tensor]:
    """ln q(x_{1:T}|x_0) − ln p_θ(x_{0:T}) of one trajectory per example  [DDPM (3)].

    Args:
        gammas: −∞, γ_1, …, γ_T.
        reverse: p_θ(x_{t−1}|x_t) at x_t, t ≥ 2.
        decoder: x_1 → −ln p_θ(x_0|x_1) for these x_0.
        x_0: clean examples, shape (B, …), float64 because densities at neighbouring t cancel to a small difference.
        noise: standard normal, of the shape of x_0, for the steps to x_1, x_2, … in turn.

    Returns:
        reconstruction, diffusion and prior, in nats, shape (B,).
    """
    start = Gaussian(torch.zeros_like(x_0), torch.ones_like(x_0))
    grid = gammas.to(x_0.device)[:, None].expand(-1, len(x_0))
    walk = infer_bottom_up(
        lambda x, t: transition(x, grid[t - 1], grid[t]),
        lambda x, t: reverse(x, grid[t - 1], grid[t]),
        start,
        decoder,
        x_0,
        islice(noise, len(gammas) - 1),
    )
    diffusion = walk.log_q.sum(0) - walk.log_p[:-1].sum(0)
    return {"reconstruction": walk.reconstruction, "diffusion": diffusion, "prior": -walk.log_p[-1]}
