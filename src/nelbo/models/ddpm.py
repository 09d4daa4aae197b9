"""Denoising diffusion probabilistic models (Ho et al. 2020): train, sample and score in T discrete steps.

The bound is that of :mod:`nelbo.bounds.denoising`, or another form of it in :mod:`nelbo.bounds`; its last term is the
discretised Gaussian decoder of DDPM (13), p_θ(x_0|x_1) = N(x̂_0(x_1), σ²) over the levels, with σ² = β_1, or learned
for each pixel.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nelbo.bounds import VARIANCES, WEIGHTS, Bound, LossProfile, prior_term
from nelbo.diffusion import PARAMETERIZATIONS, Denoised, Process, along
from nelbo.diffusion.continuous import from_eps, from_velocity, from_x_0
from nelbo.errors import InputError
from nelbo.flow import ProbabilityFlow
from nelbo.likelihoods import DiscretizedNormal, to_default_dtype, to_unit
from nelbo.models._chain import ChainBound
from nelbo.models._diffusion import Chain, DiffusionModel
from nelbo.models.forms import Forms
from nelbo.nn import UNetOptions
from nelbo.nn.unet2d import UNet2D, UNet2DOptions
from nelbo.options import IN_FILES
from nelbo.rng import Draws, Stream
from nelbo.samplers import times
from nelbo.schedules import SCHEDULES, Schedule
from nelbo.units import bits_per_dim

DECODER_SHARE = 16
"""With a weighted objective, one image in this many is seen at t = 1 to train a learned decoder variance."""
LOG_STD_RANGE = 10.0
"""How far ln σ of a learned decoder may go from ln √β_1."""
SIMPLE_WEIGHT = 5.0
"""What L_simple counts beside the bound (in nats per dimension) in the hybrid objective."""
VARIANCE_WEIGHT = 0.001
"""λ: what the bound counts beside a weighted objective, where it trains the reverse variance alone."""
VIEWS = {"v": from_velocity, "x0": from_x_0, "eps": from_eps}
"""Both views of z at any γ, from what the network predicts."""
UNIFORM_SHARE = {"bound": 0.1, "hybrid": 0.5}
"""The share of t that is drawn uniformly, and not by the loss profile."""


Beta = Annotated[float, Field(gt=0, lt=1)]


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


class DDPM(DiffusionModel):
    """A U-Net, a schedule, and the bound between them.

    Args:
        options: the settings, resolved for ``shape``.
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.

    Raises:
        InputError: a schedule that T does not allow, or a network that cannot be built.
    """

    family = "ddpm"

    def __init__(self, options: DDPMOptions, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape, levels)
        self.options = options
        schedule = schedule_of(options)
        self.process = Process(schedule)
        self.parameterization = PARAMETERIZATIONS[options.predict](schedule)
        self.reverse_variance = options.reverse_variance
        self.variance = VARIANCES[self.reverse_variance]
        self.learned_variance = options.reverse_variance == "learned"
        self.learned_decoder = options.decoder_variance == "learned"
        self.outputs = options.outputs
        self.network = network_of(options, shape[0])
        if options.objective in WEIGHTS:
            self.weight = WEIGHTS[options.objective](schedule) / schedule.snr
        self.profile = LossProfile(schedule.T, floor=UNIFORM_SHARE.get(options.objective, 1.0))

    @property
    def T(self) -> int:  # noqa: N802
        """The number of diffusion steps."""
        return self.process.schedule.T

    # Prediction

    def time(self, t: Tensor) -> Tensor:
        """t = 1 … T as the network counts it: up to 1, or as diffusers does from 0 to T − 1."""
        return t / self.T if self.options.unet2d is None else t - 1

    def ask(self, x_t: Tensor, t: Tensor) -> tuple[Denoised, Tensor]:
        """What the network says of x_t, and ln of the decoder's standard deviation (used at t = 1 only)."""
        parts = iter(to_default_dtype(self.network(x_t, self.time(t))).chunk(self.outputs, dim=1))
        denoised = self.parameterization.denoised(next(parts), x_t, t)
        log_std = 0.5 * self.process.schedule.beta[1].log().to(x_t)
        if self.learned_decoder:
            log_std = log_std + next(parts).clamp(-LOG_STD_RANGE, LOG_STD_RANGE)
        fraction = 0.5 * (next(parts) + 1.0) if self.learned_variance else None
        return denoised._replace(fraction=fraction), log_std

    def denoise(self, x_t: Tensor, t: Tensor) -> Denoised:
        """x̂_0 and ε̂ of x_t, shape (B, C, H, W), at t, shape (B,)."""
        return self.ask(x_t, t)[0]

    def decoder_nll(self, x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        """−ln p_θ(x_0|x_1), the reconstruction term, in nats, shape (B,)  [DDPM (13)]."""
        decoder = DiscretizedNormal(mean, log_std.exp(), self.levels)
        return to_default_dtype(-decoder.log_prob(x).flatten(1).sum(1))

    def decode(self, x: Tensor, x_1: Tensor) -> Tensor:
        """−ln p_θ(x_0|x_1) of each image at this x_1, in nats, shape (B,)."""
        denoised, log_std = self.ask(x_1, torch.ones(len(x), dtype=torch.long, device=x.device))
        return self.decoder_nll(x, denoised.x_0, log_std)

    def pixel_nll(self, x: Tensor, x_1: Tensor) -> Tensor:
        """−ln p_θ(x_0|x_1) of each pixel and channel, in nats, float64, shape (B, C, H, W)."""
        denoised, log_std = self.ask(x_1, torch.ones(len(x), dtype=torch.long, device=x.device))
        return -DiscretizedNormal(denoised.x_0, log_std.exp(), self.levels).log_prob(x)

    # Training

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        x_0 = to_unit(x, self.levels)
        eps = draws.normal(Stream.TRAIN_NOISE, self.shape)
        u = draws.spread(Stream.TRAIN_TIME)
        if self.options.objective in WEIGHTS:
            return self.weighted_loss(x, x_0, eps, u, draws)
        return self.bound_loss(x, x_0, eps, u, draws)

    def weighted_loss(self, x: Tensor, x_0: Tensor, eps: Tensor, u: Tensor, draws: Draws) -> Tensor:
        """E_t[w_t/SNR_t ‖ε − ε̂‖²] per dimension, t uniform on 1 … T; with w = SNR it is L_simple  [DDPM (14)].

        What is learned beside x̂_0 has its own terms, with x̂_0 held fixed, so that the weighted loss alone trains that:
        a decoder variance its likelihood, on some images at t = 1; a reverse variance λ times the bound, which together
        is L_hybrid (Nichol & Dhariwal 2021 (16)).
        """
        t = 1 + (u * self.T).long().clamp(max=self.T - 1)
        at_decoder = torch.tensor([self.learned_decoder and i % DECODER_SHARE == 0 for i in draws.indices]).to(x.device)
        t = torch.where(at_decoder, torch.ones_like(t), t)
        denoised, log_std = self.ask(self.process.diffuse(x_0, t, eps), t)
        error = (eps - denoised.eps).square().flatten(1).mean(1)
        loss = along(self.weight, t, error) * error
        held = Denoised(denoised.x_0.detach(), denoised.eps.detach(), denoised.fraction)
        if self.learned_variance and self.T > 1:
            term = self.variance.diffusion_term(self.process, held, eps, t.clamp(min=2))
            loss = loss + VARIANCE_WEIGHT * self.T / self.dims * term * (t > 1)
        if not bool(at_decoder.any()):
            return loss
        nll = self.decoder_nll(x[at_decoder], held.x_0[at_decoder], log_std[at_decoder]) / self.dims
        return loss.masked_scatter(at_decoder, nll)

    def bound_loss(self, x: Tensor, x_0: Tensor, eps: Tensor, u: Tensor, draws: Draws) -> Tensor:
        """An unbiased estimate of reconstruction + diffusion in nats per dimension, from one t per image.

        t is drawn in proportion to the root mean square of its term (Nichol & Dhariwal 2021, section 3.3). The hybrid
        objective adds 5 L_simple: their L_hybrid (16) with λ = 1/5, in these units, and with x̂_0 trained by both.
        """
        t, weight = self.profile.draw(u)
        denoised, log_std = self.ask(self.process.diffuse(x_0, t, eps), t)
        first = t == 1
        # At t = 1 the diffusion term has no meaning: it is computed at 2 and thrown away.
        loss = self.variance.diffusion_term(self.process, denoised, eps, t.clamp(min=min(2, self.T)))
        if bool(first.any()):
            log_std = log_std.expand_as(x_0)
            loss = loss.masked_scatter(first, self.decoder_nll(x[first], denoised.x_0[first], log_std[first]))
        loss = loss * self.T / self.dims
        if self.training:
            self.profile.update(*(self.gather_batch(rows.detach()) for rows in (t, loss)))
        if self.options.objective == "hybrid":
            loss = loss + SIMPLE_WEIGHT * (eps - denoised.eps).square().flatten(1).mean(1)
        return loss * weight.to(loss.dtype)

    # Scoring

    @property
    def default_timesteps(self) -> int:
        return min(8, self.all_timesteps)

    @property
    def all_timesteps(self) -> int:
        """The diffusion terms, t = 2 … T."""
        return max(1, self.T - 1)

    @property
    def chain_bound(self) -> ChainBound:
        """The chain whose bound is scored."""
        return ChainBound(
            self.process, self.variance, self.denoise, self.decode, self.levels, self.shape, self.pixel_nll
        )

    def estimate(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        return self.chain_bound.denoising(x, draws, timesteps)

    def over_t(self, x: Tensor, draws: Draws, pieces: int) -> tuple[Tensor, Tensor]:
        return self.chain_bound.over_t(x, draws, pieces)

    @property
    def forms(self) -> Forms:
        estimators = {**self.chain_bound.forms, **self.flow_forms}
        return Forms(self.family, estimators, self.default_timesteps, self.all_timesteps)

    def flow(self) -> ProbabilityFlow | None:
        """The flow of what the network predicts, with t between the steps found from γ; not of μ, which has a step."""
        if self.options.predict == "mean" or self.T < 2:
            return None
        view = VIEWS[self.options.predict]
        gamma_of = self.process.schedule.gamma.to(self.device)

        def denoise(z: Tensor, gamma: Tensor) -> Denoised:
            after = torch.searchsorted(gamma_of[1:].contiguous(), gamma.contiguous()).clamp(1, self.T - 1) + 1
            low, high = gamma_of[after - 1], gamma_of[after]
            t = after - 1 + (gamma - low) / (high - low)
            output = to_default_dtype(
                self.network(to_default_dtype(z), to_default_dtype(self.time(t)))[:, : self.shape[0]]
            )
            return view(output, to_default_dtype(z), gamma)

        return ProbabilityFlow(denoise, float(gamma_of[1]), float(gamma_of[-1]))

    def facts(self) -> dict[str, object]:
        """The ends of the schedule, and what the last one costs: the prior term where every pixel is at ±1."""
        schedule = self.process.schedule
        prior = float(prior_term(self.process, torch.ones(1, *self.shape, dtype=torch.float64)))
        return {
            "signal_rate_at_1": float(schedule.signal_rate[1]),
            "signal_rate_at_T": float(schedule.signal_rate[-1]),
            "prior_bits_per_dim_at_most": bits_per_dim(prior, self.dims),
        }

    # Sampling

    @property
    def why_not_distilled(self) -> str:  # type: ignore[override]
        """ε̂ and μ̂ say nothing of the image where there is nothing but noise, and a few steps begin there."""
        if self.options.predict in ("v", "x0"):
            return ""
        told = f"it predicts {self.options.predict}, which in pure noise says nothing of the image"
        return f"{told}; train one with --predict v"

    @property
    def quick_steps(self) -> int:
        return min(super().quick_steps, self.T)

    def chain(self, steps: int | None) -> Chain:
        return Chain(self.process, self.denoise, times(self.T, steps or self.T))


def schedule_of(options: DDPMOptions) -> Schedule:
    """The schedule that the settings name, or its β themselves.

    Raises:
        InputError: not T of them, or a schedule that T does not allow.
    """
    if not options.betas:
        return SCHEDULES[options.schedule](options.timesteps)
    if len(options.betas) != options.timesteps:
        raise InputError("betas", f"holds {len(options.betas)} numbers, and timesteps is {options.timesteps}")
    return Schedule(torch.tensor(options.betas, dtype=torch.float64))


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
            raise InputError("--label", "nelbo's own network knows no classes; leave it out")
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
        mend = "add --label CLASS" if theirs.conditional else "leave --label out"
        raise InputError("--label", f"the network knows {'classes' if theirs.conditional else 'no classes'}; {mend}")
    if theirs.num_class_embeds is not None and (options.label or 0) >= theirs.num_class_embeds:
        raise InputError("--label", f"{options.label} is not among the classes 0 … {theirs.num_class_embeds - 1}")


OPTIONS, MODEL = DDPMOptions, DDPM
