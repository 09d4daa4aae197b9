"""The settings of a diffusion model's codec: the latents of its chain, and the bins of each."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field

from nelbo.check import checked
from nelbo.codec.batches import THINNEST, InFlight
from nelbo.diffusion.process import noise_rate, posterior_var, signal_rate, step_signal, step_var
from nelbo.errors import InputError
from nelbo.models.diffusion import Diffusion
from nelbo.options import Options, Variance

IN_FLIGHT = 4
"""Images per batch: each needs bits for two latents to begin with."""
BIN = 0.5
"""δ in standard deviations of the narrower law."""
MOST_STEPS = 1000
"""K of a file."""

Positive = Annotated[float, Field(gt=0)]


class Step(Options):
    """A latent, and the law by which it is sampled given the one before: N(signal · z, std²), with the image as z_0."""

    gamma: float
    "γ = −ln SNR."
    width: Annotated[float, Field(ge=THINNEST)]
    "δ, the width of its bins."
    signal: Positive
    "√α of the step."
    std: Positive
    "√β of the step."


class ChainSettings(Options):
    """The settings of a diffusion model's codec. They hold coefficients, because exp differs between machines."""

    coder: Literal["chain"] = "chain"
    "Bits-back with a chain of latents."
    in_flight: InFlight = IN_FLIGHT
    "Images per batch."
    reverse_variance: Variance
    "σ² of p(z_k|z_{k+1}), as in the family's options."
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=MOST_STEPS)]
    "z_1 … z_K."


def chain_settings(model: Diffusion) -> ChainSettings:
    """The settings for a model in the steps that its timeline has.

    Raises:
        InputError: they are too many.
    """
    gammas = model.timeline.chain()[1:]
    if len(gammas) > MOST_STEPS:
        raise InputError("steps", f"{len(gammas):,} are more than {MOST_STEPS:,}, the most of a file; give fewer")
    signals, stds = [signal_rate(gammas[:1])], [noise_rate(gammas[:1])]
    narrow = []
    for before, here in pairwise(torch.split(gammas, 1)):
        signals.append(step_signal(before, here))
        stds.append(step_var(before, here).sqrt())
        narrow.append(posterior_var(before, here).sqrt())
    narrow.append(torch.ones(1, dtype=torch.float64))
    steps = [
        Step(
            gamma=float(gamma),
            width=max(THINNEST, BIN * float(torch.minimum(std, other))),
            signal=float(signal),
            std=float(std),
        )
        for gamma, signal, std, other in zip(gammas, signals, stds, narrow, strict=True)
    ]
    return checked(ChainSettings, {"reverse_variance": model.reverse_variance, "steps": tuple(steps)})
