"""Settings of sampling, and the intermediate states of a sample."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from torch import Tensor
from torch.nn import Module

from nelbo.diffusion.samplers import Sampler


class SampleSettings(NamedTuple):
    """How to sample. ``None`` leaves the choice to the family.

    Attributes:
        sampler: a name or a sampler.
        steps: network evaluations per image.
        eta: η of ``ddim``, from 0 (deterministic) to 1 (ancestral, the default).
        clip: whether to clamp x̂_0 to [−1, 1] while sampling.
        temperature: standard deviation of latents from a prior, relative to the prior's own.
        label: the class of the images: a name, names separated by commas or in a sequence, or ``all``; image i is of
            the class i mod their number. None for p(x).
        guidance: g of ε̂ = ε̂(∅) + g (ε̂(c, y) − ε̂(∅)); 1 for none. None for 2 with clusters or a label, else 1.
        guidance_interval: (low, high), the γ = −ln SNR with guidance; None for all.
        weaker: a weaker model of the same images, whose ε̂(c, y) takes the place of ε̂(∅): autoguidance. None for none.
    """

    sampler: str | Sampler | None = None
    steps: int | None = None
    eta: float | None = None
    clip: bool = True
    temperature: float | None = None
    label: str | tuple[str, ...] | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    weaker: Module | None = None


class SampleKeywords(TypedDict, total=False):
    """The fields of :class:`SampleSettings`, as keyword arguments."""

    sampler: str | Sampler | None
    steps: int | None
    eta: float | None
    clip: bool
    temperature: float | None
    label: str | tuple[str, ...] | None
    guidance: float | None
    guidance_interval: tuple[float, float] | None
    weaker: Module | None


class Frame(NamedTuple):
    """One state of sampling.

    Attributes:
        done, of: steps taken, and their total.
        x: the state on the scale where pixels fill [−1, 1], shape (B, C, H, W).
        x_0: the image predicted at this state, same shape.
    """

    done: int
    of: int
    x: Tensor
    x_0: Tensor
