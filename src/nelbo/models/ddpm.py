"""Denoising diffusion probabilistic models (Ho et al. 2020): training, sampling and scoring in T discrete steps.

A preset of :class:`~nelbo.models.diffusion.Diffusion`: a table of β, the discretised Gaussian decoder of DDPM (13),
p_θ(x_0|x_1) = N(x̂_0(x_1), σ²) over the levels, with σ² = β_1 or learned for each pixel, and a network of (z, t).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from nelbo.diffusion.denoiser import Conditioning
from nelbo.diffusion.known import NOTHING, Known
from nelbo.diffusion.process import on_device
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
    "The schedule of β_t."
    predict: Literal["eps", "x0", "mean", "v"] = "v"
    "What the network predicts."
    objective: Literal["simple", "min_snr", "max_snr", "sigmoid", "bound", "hybrid"] = "hybrid"
    "L_simple, another weight per SNR, or the bound with t drawn by the loss profile; hybrid: bound + 5 L_simple."
    reverse_variance: Literal["beta", "beta_tilde", "learned"] = "learned"
    "σ_t² of the reverse step: β_t, the posterior's β̃_t, or learned between them; beta has a worse bound at any T."
    decoder_variance: Literal["beta_1", "learned"] = "learned"
    "The variance of p(x_0|x_1): β_1, or learned for each pixel."
    betas: Annotated[tuple[Beta, ...], IN_FILES] = ()
    "β_1 … β_T, instead of a schedule."
    unet2d: Annotated[UNet2DOptions | None, IN_FILES] = None
    "diffusers' UNet2DModel instead of nelbo's network, with its settings in diffusers."
    label: Annotated[int | None, Field(ge=0)] = None
    "The class to sample and score, for a class-conditional network."

    def resolved(self, shape: Shape) -> Self:
        """The settings with every value that depends on the data; diffusers' network sees no clusters."""
        found = super().resolved(shape)
        return found if self.unet2d is None else found.model_copy(update={"clusters": self.clusters or 0})

    @property
    def outputs(self) -> int:
        """Outputs of the network per pixel and channel: a prediction, and each learned variance."""
        return 1 + (self.decoder_variance == "learned") + (self.reverse_variance == "learned")


class DDPM(Diffusion):
    """A U-Net of (z, t), a table of β, and their bound."""

    family = "ddpm"

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        """The model for settings that are resolved for ``shape``.

        Raises:
            InputError: the schedule does not allow this T, or the network cannot be built.
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
            clusters=options.clusters or 0,
            **options.of_labels,
            condition=by_step(chain_of(schedule.grid(options.timesteps)), options.unet2d is not None),
            **parts,
        )
        model.options, model.parts = options, {}
        return model


def by_step(gammas: Tensor, from_zero: bool) -> Conditioning:
    """A conditioning on t: t/T, or 0 … T − 1 as in diffusers, interpolated between the steps.

    Args:
        gammas: −∞, γ_1, …, γ_T.
        from_zero: whether the network counts steps as diffusers does.
    """
    T = len(gammas) - 1

    def condition(network: nn.Module, z: Tensor, gamma: Tensor, known: Known = NOTHING) -> Tensor:
        t = step_of(on_device(gammas, gamma.device), gamma.double())
        parts = {"picture": known.picture, "label": known.label}
        told = {name: part for name, part in parts.items() if part is not None}
        output: Tensor = network(z, (t - 1 if from_zero else t / T).to(torch.get_default_dtype()), **told)
        return output

    return condition


def step_of(gammas: Tensor, gamma: Tensor) -> Tensor:
    """t of each γ, float64: an integer at γ_1 … γ_T, linear in γ between them."""
    T = len(gammas) - 1
    after = torch.searchsorted(gammas[1:].contiguous(), gamma.contiguous()).clamp(max=T - 1) + 1
    low, high = gammas[(after - 1).clamp(min=1)], gammas[after]
    between = torch.where(after > 1, (gamma - low) / (high - low), torch.ones_like(gamma))
    return after - 1 + between


def network_of(options: DDPMOptions, channels: int) -> nn.Module:
    """nelbo's own network or that of diffusers, for images with this number of channels.

    Raises:
        InputError: the settings of diffusers' network do not fit the model.
    """
    require_network(options, channels)
    if options.unet2d is None:
        return options.network(channels, options.outputs * channels)
    return UNet2D(options.unet2d, options.label)


def require_network(options: DDPMOptions, channels: int) -> None:
    """Check that the settings of diffusers' network, if given, fit the model.

    Raises:
        InputError: they do not fit.
    """
    theirs = options.unet2d
    if theirs is None:
        if options.label is not None:
            raise InputError("label", "is of diffusers' network; to learn p(x|y), add `labels` instead")
        return
    if options.clusters:
        raise InputError("clusters", "diffusers' network sees none; leave it out")
    if options.labels:
        raise InputError("labels", "diffusers' network has its own classes, see `label`; leave it out")
    needed = {"in_channels": channels, "out_channels": options.outputs * channels}
    for name, count in needed.items():
        if getattr(theirs, name) != count:
            raise InputError(
                f"unet2d: {name}", f"is {getattr(theirs, name)}, but this model of these images needs {count}"
            )
    if theirs.time_embedding_type == "fourier":
        raise InputError("unet2d: time_embedding_type", "fourier embeds noise levels, but a ddpm counts steps")
    if theirs.class_embed_type == "identity":
        raise InputError("unet2d: class_embed_type", "identity takes features, but a run only has a class number")
    if theirs.conditional != (options.label is not None):
        fix = "add `label`" if theirs.conditional else "leave `label` out"
        raise InputError("label", f"the network has {'classes' if theirs.conditional else 'no classes'}; {fix}")
    if theirs.num_class_embeds is not None and (options.label or 0) >= theirs.num_class_embeds:
        raise InputError("label", f"{options.label} is not one of the classes 0 … {theirs.num_class_embeds - 1}")


OPTIONS, MODEL = DDPMOptions, DDPM
