"""The values of γ of a model: the grid of a chain, or a schedule in continuous time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.diffusion.schedules import Between, Curve, FixedSchedule, Schedule, chain_of, gamma_range
from nelbo.diffusion.spacing import descending

FINE_STEPS = 1000
"""Steps of the chain that a model in continuous time samples with."""


@dataclass(frozen=True)
class Timeline:
    """The values of γ at which a model can be evaluated.

    Attributes:
        schedule: γ(t).
        gammas: −∞, γ_1, …, γ_T, float64, if the model is a chain; None in continuous time.
        scored_in: T, if the bound of a model in continuous time is scored in even steps; else None.
        steps: −∞, γ_1, …, float64: chosen steps, which replace those of the model; else None.
    """

    schedule: Schedule
    gammas: Tensor | None = None
    scored_in: int | None = None
    steps: Tensor | None = None

    @classmethod
    def of(cls, schedule: Schedule, timesteps: int | None, levels: int) -> Timeline:
        """The timeline of a chain of T steps, or of continuous time with γ within :func:`gamma_range`.

        Args:
            schedule: γ(t).
            timesteps: T, or None in continuous time.
            levels: L.

        Raises:
            InputError: the schedule does not allow this T.
        """
        if timesteps is not None:
            return cls(schedule, chain_of(schedule.grid(timesteps)))
        return cls(Between(schedule, *gamma_range(levels)) if isinstance(schedule, FixedSchedule) else schedule)

    @property
    def continuous(self) -> bool:
        """Whether the bound is scored in continuous time."""
        return self.gammas is None and self.scored_in is None and self.steps is None

    @torch.no_grad()
    def curve(self, t: Tensor) -> Curve:
        """γ(t) and γ′(t), without gradient."""
        return self.schedule(t)

    def gamma(self, t: Tensor) -> Tensor:
        """γ(t), float64, on the CPU, for t in [0, 1]."""
        return self.curve(t.to(getattr(self.schedule, "ends", t).device))[0].cpu()

    def latents(self, count: int) -> Tensor:
        """−∞, and γ at ``count`` evenly spaced t from 0 to 1: a chain for continuous time."""
        return chain_of(self.gamma(torch.linspace(0, 1, count, dtype=torch.float64)))

    def chain(self) -> Tensor:
        """−∞, γ_1, …, γ_T: the chain whose bound is scored, or a fine chain in continuous time."""
        if self.steps is not None:
            return self.steps
        if self.gammas is not None:
            return self.gammas
        return self.latents(FINE_STEPS if self.scored_in is None else self.scored_in + 1)

    def descending(self, steps: int | None = None) -> Tensor:
        """γ_1 > γ_2 > … > −∞: ``steps`` steps, evenly spaced in t, or all steps of :meth:`chain` if None or chosen.

        Raises:
            InputError: ``steps`` is larger than the chain's T.
        """
        if self.steps is not None and steps in (None, len(self.steps) - 1):
            return self.steps.flip(0)
        if self.gammas is None and steps is not None:
            return descending(self.latents(steps))
        return descending(self.chain(), steps)

    def gamma_at(self, t: Tensor) -> Tensor:
        """γ at t, float64, same shape; t is in [0, 1] in continuous time, else the number of a step."""
        return self.gamma(t) if self.continuous else self.chain()[t.long().cpu()]

    @property
    def has_terms(self) -> bool:
        """Whether the bound has a diffusion term; a chain whose only step is the decoder's has none."""
        return len(self.chain()) > 2
