"""The bound in its denoising form: every term is conditioned on x_0 (Ho et al. 2020, (5)).

    −ln p(x_0) ≤ KL(q(x_T|x_0) ‖ p(x_T))                                                     prior
               + Σ_{t=2}^T E_{q(x_t|x_0)} KL(q(x_{t−1}|x_t,x_0) ‖ p_θ(x_{t−1}|x_t))          diffusion
               + E_{q(x_1|x_0)}[−ln p_θ(x_0|x_1)]                                            reconstruction

The reverse step p_θ(x_{t−1}|x_t) = N(μ_θ(x_t, t), σ_t² I) has a fixed variance: σ_t² = β_t or β̃_t (DDPM, section 3.2).
The reconstruction belongs to the decoder: see :mod:`nelbo.likelihoods`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.diffusion import Gaussian, Process, along
from nelbo.divergences import kl_normal, kl_of_variances
from nelbo.schedules import Schedule

REVERSE_VARIANCES: dict[str, Callable[[Schedule], Tensor]] = {
    "beta": lambda schedule: schedule.beta,
    "beta_tilde": lambda schedule: schedule.beta_tilde,
}
"""σ_t² as a table over t, read for t ≥ 2 only."""
Reverse = Callable[[Tensor, Tensor], Gaussian]
"""(x_t of shape (B, …), t ≥ 2 of shape (B,)) → p_θ(x_{t−1}|x_t)."""


def prior_term(process: Process, x_0: Tensor) -> Tensor:
    """KL(q(x_T|x_0) ‖ N(0, I)) of each example, in nats: what the schedule's end costs; no network is asked.

    Args:
        process: the forward process.
        x_0: clean examples, shape (B, …).

    Returns:
        Nats, shape (B,).
    """
    last = torch.full((x_0.shape[0],), process.schedule.T)
    q = process.jump(x_0.double(), last)
    one = torch.ones_like(q.var)
    return kl_normal(q.mean, q.var, torch.zeros_like(one), one).flatten(1).sum(1).to(x_0.dtype)


def denoising_weight(schedule: Schedule, reverse_var: Tensor) -> Tensor:
    """β_t²/(2 σ_t² α_t (1 − ᾱ_t)), the bound's weight on ‖ε − ε_θ‖² (DDPM (12)), for t ≥ 2; zero below.

    With σ_t² = β̃_t it is ½ (SNR(t−1)/SNR(t) − 1).

    Args:
        schedule: β_t, α_t and ᾱ_t.
        reverse_var: σ_t², shape (T + 1,).

    Returns:
        The weights in float64, shape (T + 1,).
    """
    weight = torch.zeros_like(schedule.beta)
    weight[2:] = (schedule.beta.square() / (2.0 * reverse_var * schedule.alpha * schedule.noise_var))[2:]
    return weight


def diffusion_term(process: Process, reverse_var: Tensor, eps: Tensor, eps_hat: Tensor, t: Tensor) -> Tensor:
    """KL(q(x_{t−1}|x_t,x_0) ‖ p_θ(x_{t−1}|x_t)) at one t ≥ 2 per example  [DDPM (8), (12)].

    = β_t²/(2σ_t² α_t (1−ᾱ_t)) ‖ε − ε̂‖² + (D/2)(β̃_t/σ_t² − 1 + ln(σ_t²/β̃_t)); the last part vanishes for σ_t² = β̃_t.

    Args:
        process: the forward process.
        reverse_var: σ_t², shape (T + 1,).
        eps: ε, the noise that made x_t, shape (B, …).
        eps_hat: ε̂, what the denoiser says it was.
        t: 2 ≤ t ≤ T, shape (B,).

    Returns:
        Nats, shape (B,).
    """
    schedule = process.schedule
    squared_error = (eps - eps_hat).square().flatten(1).sum(1)
    dims = eps[0].numel()
    of_variances = 0.5 * dims * kl_of_variances(schedule.beta_tilde, reverse_var)
    weight = along(denoising_weight(schedule, reverse_var), t, squared_error)
    return weight * squared_error + along(of_variances, t, squared_error)
