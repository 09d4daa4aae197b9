"""Where to stop on the way down: some of a chain's latents, as γ_1 > γ_2 > … > −∞."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.diffusion.process import CLEAN
from nelbo.errors import InputError


def even_steps(T: int, steps: int) -> list[int]:
    """T = t_1 > t_2 > … > 0: ``steps`` steps, evenly spaced up to rounding.

    >>> even_steps(1000, 4)
    [1000, 750, 500, 250, 0]

    Raises:
        InputError: steps < 1 or steps > T.
    """
    if not 1 <= steps <= T:
        raise InputError("steps", f"{steps} is not between 1 and the model's T = {T}")
    return [round(T * (steps - k) / steps) for k in range(steps + 1)]


def descending(gammas: Tensor, steps: int | None = None) -> Tensor:
    """Steps of a chain that are even in t, all of them if None, float64, shape (steps + 1,).

    Args:
        gammas: −∞, γ_1, …, γ_T, rising.
        steps: how many.

    Raises:
        InputError: steps < 1 or steps > T.
    """
    return gammas[even_steps(len(gammas) - 1, steps or len(gammas) - 1)]


def karras_steps(gammas: Tensor, steps: int, rho: float = 7.0) -> Tensor:
    """Those of a chain nearest to equal steps in σ^{1/ρ}, σ = e^{γ/2}  [Karras et al. 2022 (5)].

    Args:
        gammas: −∞, γ_1, …, γ_T, rising.
        steps: how many; fewer where two would meet in one γ.
        rho: ρ; the larger, the more of the steps are at low noise.

    Raises:
        InputError: steps < 1 or steps > T.
    """
    even_steps(len(gammas) - 1, steps)  # refuses what cannot be
    low, high = (math.exp(float(end) / (2 * rho)) for end in (gammas[1], gammas[-1]))
    roots = torch.linspace(high, low, steps, dtype=torch.float64)
    return nearest_steps(gammas, 2 * rho * roots.log())


def cosine_steps(gammas: Tensor, steps: int) -> Tensor:
    """Those of a chain nearest to equal steps of u in γ = 2 ln tan(π u/2), where ᾱ is cos²(π u/2).

    Args:
        gammas: −∞, γ_1, …, γ_T, rising.
        steps: how many.

    Raises:
        InputError: steps > T, or two of them would meet in one γ.
    """
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    found = nearest_steps(gammas, 2 * (torch.pi / 2 * u).tan().log())
    if len(found) != steps + 1:
        raise InputError("teacher_steps", f"{steps} steps are too many for the {len(gammas) - 1} of the model")
    return found


def nearest_steps(gammas: Tensor, wanted: Tensor) -> Tensor:
    """The last γ, then those nearest to all but the first of the wanted ones, falling, each once, and −∞."""
    latents = gammas[1:].double()
    nearest = (latents[None, :] - wanted[1:, None]).abs().argmin(1)
    last = len(latents) - 1
    places = [last, *sorted({int(k) for k in nearest} - {last}, reverse=True)]
    return torch.cat([latents[places], latents.new_tensor([CLEAN])])
