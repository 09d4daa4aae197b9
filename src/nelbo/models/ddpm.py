"""Denoising diffusion probabilistic models (Ho et al. 2020): train, sample and score in T discrete steps.

A preset of :class:`~nelbo.models.diffusion.Diffusion`: a table of β, the discretised Gaussian decoder of DDPM (13),
p_θ(x_0|x_1) = N(x̂_0(x_1), σ²) over the levels, with σ² = β_1 or learned for each pixel, and a network that is told t.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from nelbo.diffusion.denoiser import Conditioning
from nelbo.diffusion.schedules import BetaTable, Schedule, as_schedule, chain_of
from nelbo.errors import InputError
from nelbo.models.diffusion import Diffusion
from nelbo.nn import UNetOptions
from nelbo.nn.unet2d import UNet2D, UNet2DOptions
from nelbo.options import IN_FILES, Shape

Beta = Annotated[float, Field(gt=0, lt=1)]
DECODERS = {"beta_1": "gaussian", "learned": "learned_gaussian"}


class DDPMOptions(UNetOptions):
    """The settings of a DDPM."""

    timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000
    "T, the number of diffusion steps."
    schedule: Literal["linear", "cosine", "sigmoid"] = "sigmoid"
    "How β_t grows with t."
    predict: Literal["eps", "x0", "mean", "v"] = "v"
    "What the network predicts."
    objective: Literal["simple", "min_snr", "max_snr", "sigmoid", "bound", "hybrid"] = "hybrid"
    "L_simple or another weight on each SNR; the bound itself, t drawn by the loss profile; hybrid: bound + 5 L_simple."
    reverse_variance: Literal["beta", "beta_tilde", "learned"] = "learned"
    "σ_t² of the reverse step; beta costs bits on images at any T, as it is not the posterior's; learned lies between."
    decoder_variance: Literal["beta_1", "learned"] = "learned"
    "The variance of p(x_0|x_1): β_1, or learned for each pixel."
    betas: Annotated[tuple[Beta, ...], IN_FILES] = ()
    "β_1 … β_T themselves, instead of a schedule."
    unet2d: Annotated[UNet2DOptions | None, IN_FILES] = None
    "diffusers' UNet2DModel instead of nelbo's own network, by the settings that it has there."
    label: Annotated[int | None, Field(ge=0)] = None
    "The class whose images are drawn and scored, of a network that has to be told one."

    @property
    def outputs(self) -> int:
        """What the network gives for each pixel and channel: a prediction, and each variance that is learned."""
        return 1 + (self.decoder_variance == "learned") + (self.reverse_variance == "learned")


class DDPM(Diffusion):
    """A U-Net that is told t, a table of β, and the bound between them."""

    family = "ddpm"

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        """The model that settings, resolved for ``shape``, describe.

        Raises:
            InputError: a schedule that T does not allow, or a network that cannot be built.
        """
        schedule: Schedule = BetaTable(options.betas) if options.betas else as_schedule(options.schedule)
        model = cls(
            network_of(options, shape[0]),
            shape,
            levels,
            schedule=schedule,
            predict=options.predict,
            objective=options.objective,
            decoder=DECODERS[options.decoder_variance],
            timesteps=options.timesteps,
            reverse_variance=options.reverse_variance,
            condition=by_step(chain_of(schedule.grid(options.timesteps)), options.unet2d is not None),
            **parts,
        )
        model.options, model.parts = options, {}
        return model


def by_step(gammas: Tensor, from_zero: bool) -> Conditioning:
    """The network is told t as it counts it: up to 1, or as diffusers does from 0 to T − 1; between steps, in between.

    Args:
        gammas: −∞, γ_1, …, γ_T.
        from_zero: as diffusers does.
    """
    T = len(gammas) - 1

    def condition(network: nn.Module, z: Tensor, gamma: Tensor) -> Tensor:
        t = step_of(gammas.to(gamma.device), gamma.double())
        output: Tensor = network(z, (t - 1 if from_zero else t / T).to(torch.get_default_dtype()))
        return output

    return condition


def step_of(gammas: Tensor, gamma: Tensor) -> Tensor:
    """t of each γ, float64, whole at γ_1 … γ_T and between them in proportion."""
    T = len(gammas) - 1
    after = torch.searchsorted(gammas[1:].contiguous(), gamma.contiguous()).clamp(max=T - 1) + 1
    low, high = gammas[(after - 1).clamp(min=1)], gammas[after]
    between = torch.where(after > 1, (gamma - low) / (high - low), torch.ones_like(gamma))
    return after - 1 + between


def network_of(options: DDPMOptions, channels: int) -> nn.Module:
    """nelbo's own network, or that of diffusers, for images of so many channels.

    Raises:
        InputError: the settings of the latter do not fit the model.
    """
    require_network(options, channels)
    if options.unet2d is None:
        return options.network(channels, options.outputs * channels)
    return UNet2D(options.unet2d, options.label)


def require_network(options: DDPMOptions, channels: int) -> None:
    """See to it that the settings of diffusers' network, if that is asked for, fit the model.

    Raises:
        InputError: they do not.
    """
    theirs = options.unet2d
    if theirs is None:
        if options.label is not None:
            raise InputError("label", "nelbo's own network knows no classes; leave it out")
        return
    needed = {"in_channels": channels, "out_channels": options.outputs * channels}
    for name, count in needed.items():
        if getattr(theirs, name) != count:
            raise InputError(
                f"unet2d: {name}", f"{getattr(theirs, name)}, where this model of these images needs {count}"
            )
    if theirs.time_embedding_type == "fourier":
        raise InputError("unet2d: time_embedding_type", "fourier is of noise levels, and a ddpm counts steps")
    if theirs.class_embed_type == "identity":
        raise InputError("unet2d: class_embed_type", "identity takes features, and a run has a class's number only")
    if theirs.conditional != (options.label is not None):
        fix = "add `label`" if theirs.conditional else "leave `label` out"
        raise InputError("label", f"the network knows {'classes' if theirs.conditional else 'no classes'}; {fix}")
    if theirs.num_class_embeds is not None and (options.label or 0) >= theirs.num_class_embeds:
        raise InputError("label", f"{options.label} is not among the classes 0 … {theirs.num_class_embeds - 1}")


OPTIONS, MODEL = DDPMOptions, DDPM
