"""How images are to be drawn, and the states on the way to one."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from torch import Tensor

from nelbo.diffusion.samplers import Sampler


class SampleSettings(NamedTuple):
    """How to draw. ``None`` leaves the choice to the family.

    Attributes:
        sampler: its name, or a sampler of one's own.
        steps: network evaluations per image.
        eta: the η of ``ddim`` by name, from 0 (deterministic) to 1 (ancestral), which it is if None.
        clip: hold x̂_0 to [−1, 1] while sampling.
        temperature: standard deviation of latents that are drawn from a prior, 1 being the prior's own.
    """

    sampler: str | Sampler | None = None
    steps: int | None = None
    eta: float | None = None
    clip: bool = True
    temperature: float | None = None


class SampleKeywords(TypedDict, total=False):
    """The fields of :class:`SampleSettings`, as keyword arguments."""

    sampler: str | Sampler | None
    steps: int | None
    eta: float | None
    clip: bool
    temperature: float | None


class Frame(NamedTuple):
    """One state on the way to an image.

    Attributes:
        done, of: steps taken, and how many there are.
        x: the state itself on the scale where pixels fill [−1, 1], shape (B, C, H, W).
        x_0: the image that it promises, same shape.
    """

    done: int
    of: int
    x: Tensor
    x_0: Tensor
