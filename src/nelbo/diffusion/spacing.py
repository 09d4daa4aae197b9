"""The steps of a sampler: a part of a chain's latents, as γ_1 > γ_2 > … > −∞."""

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
    """Steps of a chain that are evenly spaced in t, float64, shape (steps + 1,).

    Args:
        gammas: −∞, γ_1, …, γ_T, increasing.
        steps: the number of steps; None for all T.

    Raises:
        InputError: steps < 1 or steps > T.
    """
    return gammas[even_steps(len(gammas) - 1, steps or len(gammas) - 1)]


def karras_steps(gammas: Tensor, steps: int, rho: float = 7.0) -> Tensor:
    """The steps of a chain nearest to equal steps in σ^{1/ρ}, σ = e^{γ/2}  [Karras et al. 2022 (5)].

    Where a chain is coarser than these steps, it has its own steps one by one.

    Args:
        gammas: −∞, γ_1, …, γ_T, increasing.
        steps: the number of steps.
        rho: ρ; a larger ρ puts more steps at low noise.

    Returns:
        γ_T > … > −∞, float64, shape (steps + 1,).

    Raises:
        InputError: steps < 1 or steps > T.
    """
    even_steps(len(gammas) - 1, steps)  # raises if steps is out of range
    low, high = (math.exp(float(end) / (2 * rho)) for end in (gammas[1], gammas[-1]))
    roots = torch.linspace(high, low, steps, dtype=torch.float64)
    return nearest_steps(gammas, 2 * rho * roots.log())


def cosine_steps(gammas: Tensor, steps: int) -> Tensor:
    """The steps of a chain nearest to equal steps of u in γ = 2 ln tan(π u/2), where ᾱ = cos²(π u/2).

    Args:
        gammas: −∞, γ_1, …, γ_T, increasing.
        steps: the number of steps.

    Returns:
        γ_T > … > −∞, float64, shape (steps + 1,).

    Raises:
        InputError: steps > T.
    """
    if steps > len(gammas) - 1:
        raise InputError("teacher_steps", f"{steps} steps are too many for the {len(gammas) - 1} of the model")
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    return nearest_steps(gammas, 2 * (torch.pi / 2 * u).tan().log())


def nearest_steps(gammas: Tensor, wanted: Tensor) -> Tensor:
    """The last γ, the latents nearest to the rest of ``wanted``, and −∞; a latent that is taken gives way to the next.

    >>> nearest_steps(torch.tensor([-torch.inf, -6.0, -2.0, 0.0, 2.0, 6.0]), torch.tensor([6.0, -5.5, -6.0])).tolist()
    [6.0, -2.0, -6.0, -inf]

    Args:
        gammas: −∞, γ_1, …, γ_T, increasing.
        wanted: γ, decreasing, at most T.
    """
    latents, last = gammas[1:].double(), len(wanted) - 1
    places = [len(latents) - 1, *places_near(latents, wanted[1:]).tolist()]
    for k in range(1, last + 1):
        places[k] = min(places[k], places[k - 1] - 1)
    places = [max(place, last - k) for k, place in enumerate(places)]
    return torch.cat([latents[places], latents.new_tensor([CLEAN])])


def nearest_latents(gammas: Tensor, wanted: Tensor) -> Tensor:
    """The latents of a chain nearest to ``wanted``, increasing and without repetition, float64.

    Args:
        gammas: −∞, γ_1, …, γ_T, increasing.
        wanted: γ, shape (n,).
    """
    latents = gammas[1:].double()
    return latents[torch.unique(places_near(latents, wanted))]


def places_near(latents: Tensor, wanted: Tensor) -> Tensor:
    """The index of the latent nearest to each γ."""
    return (latents[None, :] - wanted[:, None]).abs().argmin(1)
