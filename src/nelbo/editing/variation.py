"""Variations of an image: noised to γ, and drawn again (Meng et al. 2022, SDEdit, algorithm 1).

z ~ q(z|x) at γ, and x_0 ~ p(x_0|z) by the sampler's steps from γ to the image. With an exact denoiser and many small
steps x_0 has the law p(x_0|z), and if x has the law of the data, x_0 has it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoiser
from nelbo.diffusion.process import diffuse
from nelbo.diffusion.samplers import Sampler, State, trajectory


def lower_part(gammas: Tensor, strength: float) -> Tensor:
    """The last steps of a sampler, from about t = S to the image, float64.

    >>> lower_part(torch.tensor([4.0, 3.0, 2.0, 1.0, -torch.inf]), 0.5)
    tensor([2., 1., -inf])

    Args:
        gammas: γ_1 > γ_2 > … > −∞, shape (K + 1,), of steps that are even in t.
        strength: S, above 0 and at most 1; at least one step is taken.
    """
    steps = len(gammas) - 1
    return gammas[steps - max(1, round(strength * steps)) :]


def vary(
    sampler: Sampler,
    informed: Callable[[Tensor, Tensor], Denoiser],
    x: Tensor,
    gammas: Tensor,
    noise: Callable[[int], Tensor],
    clip: bool,
) -> Iterator[State]:
    """Noise images to the first γ, draw them again, and yield the state after every step.

    Args:
        sampler: the rule of a step.
        informed: z at the first γ, and γ of shape (B,) → the denoiser, (z, γ) → x̂_0 and ε̂, told what follows from z.
        x: images in [−1, 1], shape (B, …).
        gammas: γ_1 > γ_2 > … > −∞, float64.
        noise: 0, 1, … → standard normal noise of x's shape.
        clip: whether to clamp x̂_0 to [−1, 1].
    """
    gamma = torch.full((len(x),), float(gammas[0]), dtype=torch.float64, device=x.device)
    z = diffuse(x, gamma, noise(0))
    return trajectory(sampler, informed(z, gamma), z, gammas, lambda k: noise(k + 1), clip)
