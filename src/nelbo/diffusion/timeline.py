"""The γ of a model: a grid, which is a chain, or a schedule in continuous time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.diffusion.schedules import Between, Curve, FixedSchedule, Schedule, chain_of, gamma_range
from nelbo.diffusion.spacing import descending

FINE_STEPS = 1000
"""The steps of the chain that is walked where the bound is in continuous time."""


@dataclass(frozen=True)
class Timeline:
    """Where between image and noise a model can be asked.

    Attributes:
        schedule: γ(t).
        gammas: −∞, γ_1, …, γ_T, float64, where the model is a chain; None in continuous time.
        scored_in: T, where the bound of a model in continuous time is scored in steps.
    """

    schedule: Schedule
    gammas: Tensor | None = None
    scored_in: int | None = None

    @classmethod
    def of(cls, schedule: Schedule, timesteps: int | None, levels: int) -> Timeline:
        """That of a chain in so many steps; in continuous time, within the γ that matter to so many levels, if None.

        Raises:
            InputError: a schedule that T does not allow.
        """
        if timesteps is not None:
            return cls(schedule, chain_of(schedule.grid(timesteps)))
        return cls(Between(schedule, *gamma_range(levels)) if isinstance(schedule, FixedSchedule) else schedule)

    @property
    def continuous(self) -> bool:
        """Whether the bound is scored in continuous time."""
        return self.gammas is None and self.scored_in is None

    @torch.no_grad()
    def curve(self, t: Tensor) -> Curve:
        """γ(t) and γ′(t), without gradient."""
        return self.schedule(t)

    def gamma(self, t: Tensor) -> Tensor:
        """γ(t), float64, on the CPU, for t in [0, 1]."""
        return self.curve(t.to(getattr(self.schedule, "ends", t).device))[0].cpu()

    def latents(self, count: int) -> Tensor:
        """−∞, and γ at so many t, evenly from 0 to 1: a chain in continuous time."""
        return chain_of(self.gamma(torch.linspace(0, 1, count, dtype=torch.float64)))

    def chain(self) -> Tensor:
        """−∞, γ_1, …, γ_T: the chain whose bound is scored, or a fine one in continuous time."""
        if self.gammas is not None:
            return self.gammas
        return self.latents(FINE_STEPS if self.scored_in is None else self.scored_in + 1)

    def descending(self, steps: int | None = None) -> Tensor:
        """So many steps down, even in t, or those of :meth:`chain` if None: γ_1 > γ_2 > … > −∞.

        Raises:
            InputError: a chain has not so many.
        """
        if self.gammas is None and steps is not None:
            return descending(self.latents(steps))
        return descending(self.chain(), steps)

    def gamma_at(self, t: Tensor) -> Tensor:
        """γ at t as it is counted: in [0, 1] in continuous time, else the number of the step; float64, same shape."""
        return self.gamma(t) if self.continuous else self.chain()[t.long().cpu()]

    @property
    def has_terms(self) -> bool:
        """Whether the bound has a diffusion term: not where the only step is the decoder's."""
        return len(self.chain()) > 2
