"""The bound of a Markovian hierarchy p(z_T) ∏ p(z_{t−1}|z_t) p(x|z_1), with bottom-up or top-down inference.

Bottom-up, q(z_1|x) ∏ q(z_t|z_{t−1}), with z_0 = x and p(z_T|z_{T+1}) = p(z_T):

    −ln p(x) ≤ E[−ln p(x|z_1)] + Σ_{t=1}^T E[ln q(z_t|z_{t−1}) − ln p(z_t|z_{t+1})]            reconstruction + level_t

For T > 1, a level_t is not a divergence, because its two distributions have different conditions; it can be negative.
Top-down, q(z_T|x) ∏ q(z_{t−1}|z_t, x) (Sønderby et al. 2016):

    −ln p(x) ≤ E[−ln p(x|z_1)] + KL(q(z_T|x) ‖ p(z_T)) + Σ_{t<T} E KL(q(z_t|z_{t+1}, x) ‖ p(z_t|z_{t+1}))     … + kl_t

A diffusion model is the bottom-up hierarchy with a fixed q and latents z_t of the size of x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.theory.normal import Gaussian, kl_normal

Level = Callable[[Tensor, int], Gaussian]
"""(z, t) → the distribution of z_{t+1} or z_{t−1} given z."""
Decoder = Callable[[Tensor], Tensor]
"""z_1, shape (B, …) → −ln p(x|z_1) in nats, of each example, shape (B,), or of each of its pixels."""


class BottomUpPass(NamedTuple):
    """One sample of z_1 … z_T from q, and its log-densities in nats.

    Attributes:
        reconstruction: −ln p(x|z_1) as the decoder gives it, shape (B,), or of each pixel.
        log_q: ln q(z_t|z_{t−1}), shape (T, B).
        log_p: ln p(z_t|z_{t+1}); the last row is ln p(z_T); shape (T, B).
    """

    reconstruction: Tensor
    log_q: Tensor
    log_p: Tensor


def infer_bottom_up(
    up: Level, down: Level, last: Gaussian, decoder: Decoder, x_0: Tensor, noise: Iterable[Tensor]
) -> BottomUpPass:
    """Sample z_1 … z_T bottom-up, and compute the log-density of every step under q and p.

    Args:
        up: (z_{t−1}, t) → q(z_t|z_{t−1}), with z_0 = ``x_0``.
        down: (z_t, t) → p(z_{t−1}|z_t), t ≥ 2.
        last: p(z_T).
        decoder: z_1 → −ln p(x|z_1) for these x.
        x_0: the input of the first step, shape (B, …).
        noise: T standard normal tensors, of the shapes of z_1, z_2, …
    """
    z, reconstruction, log_q, log_p = x_0, x_0.new_zeros(len(x_0)), [], []
    for t, eps in enumerate(noise, 1):
        law = up(z, t)
        above = law.sample(eps)
        log_q.append(total(law.log_prob(above)))
        if t == 1:
            reconstruction = decoder(above)
        else:
            log_p.append(total(down(above, t).log_prob(z)))
        z = above
    log_p.append(total(last.log_prob(z)))
    return BottomUpPass(reconstruction, torch.stack(log_q), torch.stack(log_p))


def bottom_up_terms(walk: BottomUpPass) -> dict[str, Tensor]:
    """The terms reconstruction and level_1 … level_T, in nats, shape (B,)."""
    levels = {f"level_{t}": cost for t, cost in enumerate(walk.log_q - walk.log_p, 1)}
    return {"reconstruction": walk.reconstruction, **levels}


class TopDownPass(NamedTuple):
    """One sample of z_T … z_1 from q, and its terms in nats.

    Attributes:
        reconstruction: −ln p(x|z_1) as the decoder gives it, shape (B,), or of each pixel.
        kl: KL(q(z_t|z_{t+1}, x) ‖ p(z_t|z_{t+1})), shape (T, B), t = 1 first.
        log_ratio: ln q(z_t|z_{t+1}, x) − ln p(z_t|z_{t+1}) at the sampled z_t, shape (T, B); its mean is kl.
        latents: z_1 … z_T.
    """

    reconstruction: Tensor
    kl: Tensor
    log_ratio: Tensor
    latents: list[Tensor]


def infer_top_down(
    laws: Callable[[Tensor | None, int], tuple[Gaussian, Gaussian]], decoder: Decoder, noise: Sequence[Tensor]
) -> TopDownPass:
    """Sample z_T … z_1 top-down, and compute the terms of every step.

    Args:
        laws: (z_{t+1}, t) → q(z_t|z_{t+1}, x) and p(z_t|z_{t+1}); z is None at t = T.
        decoder: z_1 → −ln p(x|z_1) for these x.
        noise: T standard normal tensors, of the shapes of z_1 … z_T.
    """
    z, kl, log_ratio, latents = None, [], [], []
    for t in range(len(noise), 0, -1):
        q, p = laws(z, t)
        z = q.sample(noise[t - 1])
        kl.append(total(kl_normal(q.mean, q.var, p.mean, p.var)))
        log_ratio.append(total(q.log_prob(z) - p.log_prob(z)))
        latents.append(z)
    assert z is not None
    return TopDownPass(decoder(z), torch.stack(kl[::-1]), torch.stack(log_ratio[::-1]), latents[::-1])


def top_down_terms(walk: TopDownPass, costs: Tensor) -> dict[str, Tensor]:
    """The terms reconstruction and kl_1 … kl_T, in nats, shape (B,); ``costs`` is the pass's kl or log_ratio."""
    return {"reconstruction": walk.reconstruction, **{f"kl_{t}": cost for t, cost in enumerate(costs, 1)}}


def total(parts: Tensor) -> Tensor:
    """The sum over all dimensions but the batch, shape (B,)."""
    return parts.flatten(1).sum(1)
