"""Variational diffusion models (Kingma et al. 2021): continuous time through γ(t) = −ln SNR(t), likelihoods first.

A preset of :class:`~nelbo.models.diffusion.Diffusion`: a γ that is a straight line or learned, a law over the levels of
each pixel, and a categorical decoder p(x|z_0); the bound is in continuous time, or scored in T steps.
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
    "T, the number of steps of the bound that is scored; 0 is continuous time."
    gamma: Literal["linear", "learned"] = "linear"
    "γ(t) = −ln SNR(t): a straight line, or monotone and learned."
    gamma_min: Annotated[float, Field(ge=-30, le=0)] = -13.3
    "γ(0), how little noise z_0 has."
    gamma_max: Annotated[float, Field(ge=0, le=30)] = 8.0
    "γ(1), how little signal z_1 has."
    head: Literal["levels", "v"] = "levels"
    "What the network gives: a law over the levels of each pixel, or v."
    fourier: tuple[Annotated[int, Field(ge=0, le=12)], ...] = (2, 3, 4, 5, 6)
    "Powers n of the features sin(2ⁿ π x) and cos(2ⁿ π x) that the network sees beside z: their means given z."
    every_decoder: Annotated[float, Field(ge=0, le=1000)] | None = None
    "λ: training adds λ E[−ln p(x|z_t)], a decoder at every t; 0.3 if left out, 0 with `gamma` learned or `head` v."

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """The same settings with everything that depends on the data, or on other settings, filled in.

        Raises:
            InputError: a λ above 0 where γ is learned, which it would change, or where there is no law over levels.
        """
        possible = self.head == "levels" and self.gamma == "linear"
        if self.every_decoder and not possible:
            raise InputError("every_decoder", "needs `head` levels and `gamma` linear; set it to 0")
        share = (0.3 if possible else 0.0) if self.every_decoder is None else self.every_decoder
        return super().resolved(shape).model_copy(update={"every_decoder": share})


class VDM(Diffusion):
    """A U-Net that is told γ, γ(t), and the bound between them."""

    family = "vdm"

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        """The model that settings, resolved for ``shape``, describe.

        Raises:
            InputError: a network that cannot be built.
        """
        outputs = OUTPUTS if options.head == "levels" else 1
        model = cls(
            options.network(shape[0], shape[0] * outputs, fading=True),
            shape,
            levels,
            schedule=CURVES[options.gamma](options.gamma_min, options.gamma_max),
            predict=options.head,
            decoder="categorical",
            condition=by_time_and_gamma,
            **parts,
        )
        model.options, model.parts = options, {}
        model.timeline = replace(model.timeline, scored_in=options.timesteps or None)
        model.every_decoder = options.every_decoder or 0.0
        return model


OPTIONS, MODEL = VDMOptions, VDM
