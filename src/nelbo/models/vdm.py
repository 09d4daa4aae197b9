"""Variational diffusion models (Kingma et al. 2021) in continuous time with γ(t) = −ln SNR(t).

A preset of :class:`~nelbo.models.diffusion.Diffusion`: a linear or learned γ, a law over the levels of each pixel, and
a categorical decoder p(x|z_0). The bound is in continuous time, or scored in T steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from nelbo.diffusion.levels import OUTPUTS
from nelbo.diffusion.schedules import LearnedGamma, LinearGamma
from nelbo.errors import InputError
from nelbo.models.diffusion import Diffusion, by_time_and_gamma
from nelbo.nn import UNetOptions
from nelbo.options import Shape

CURVES = {"linear": LinearGamma, "learned": LearnedGamma}


class VDMOptions(UNetOptions):
    """The settings of a VDM."""

    timesteps: Annotated[int, Field(ge=0, le=100_000)] = 0
    "T, the number of steps of the scored bound; 0 for continuous time."
    gamma: Literal["linear", "learned"] = "linear"
    "γ(t) = −ln SNR(t): linear, or monotone and learned."
    gamma_min: Annotated[float, Field(ge=-30, le=0)] = -13.3
    "γ(0), at the least noise."
    gamma_max: Annotated[float, Field(ge=0, le=30)] = 8.0
    "γ(1), at the most noise."
    head: Literal["levels", "v"] = "levels"
    "What the network predicts: a law over the levels of each pixel, or v."
    fourier: tuple[Annotated[int, Field(ge=0, le=12)], ...] = (2, 3, 4, 5, 6)
    "Powers n of the Fourier features sin(2ⁿ π x) and cos(2ⁿ π x) that the network receives, as means given z."
    every_decoder: Annotated[float, Field(ge=0, le=1000)] | None = None
    "λ: training adds λ E[−ln p(x|z_t)], a decoder at every t; default 0.3, or 0 with `gamma` learned or `head` v."

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """The settings with every value that depends on the data or on other settings.

        Raises:
            InputError: λ > 0 although γ is learned, which λ would change, or although there is no law over levels.
        """
        possible = self.head == "levels" and self.gamma == "linear"
        if self.every_decoder and not possible:
            raise InputError("every_decoder", "needs `head` levels and `gamma` linear; set it to 0")
        share = (0.3 if possible else 0.0) if self.every_decoder is None else self.every_decoder
        return super().resolved(shape).model_copy(update={"every_decoder": share})


class VDM(Diffusion):
    """A U-Net of (z, γ), γ(t), and their bound."""

    family = "vdm"

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        """The model for settings that are resolved for ``shape``.

        Raises:
            InputError: the network cannot be built.
        """
        outputs = OUTPUTS if options.head == "levels" else 1
        model = cls(
            options.network(shape[0], shape[0] * outputs, fading=True),
            shape,
            levels,
            schedule=CURVES[options.gamma](options.gamma_min, options.gamma_max),
            predict=options.head,
            decoder="categorical",
            clusters=options.clusters or 0,
            **options.of_labels,
            condition=by_time_and_gamma,
            **parts,
        )
        model.options, model.parts = options, {}
        model.timeline = replace(model.timeline, scored_in=options.timesteps or None)
        model.every_decoder = options.every_decoder or 0.0
        return model


OPTIONS, MODEL = VDMOptions, VDM
