"""Denoising diffusion probabilistic models (Ho et al. 2020): train, sample and score in T discrete steps.

The bound is that of :mod:`nelbo.bounds.denoising`, or another form of it in :mod:`nelbo.bounds`; its last term is the
discretised Gaussian decoder of DDPM (13), p_θ(x_0|x_1) = N(x̂_0(x_1), σ²) over the levels, with σ² = β_1, or learned
for each pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from nelbo.bounds import (
    REVERSE_VARIANCES,
    Bound,
    LossProfile,
    consistency_prior_term,
    consistency_term,
    diffusion_term,
    entropy_difference,
    entropy_terms,
    harmonic,
    neighbours,
    prior_term,
    stratified,
    trajectory_terms,
)
from nelbo.diffusion import PARAMETERIZATIONS, Denoised, Process
from nelbo.likelihoods import DiscretizedNormal, to_unit
from nelbo.models._diffusion import Chain, DiffusionModel
from nelbo.models.base import Form
from nelbo.nn import UNetOptions
from nelbo.rng import Draws, Stream
from nelbo.samplers import times
from nelbo.schedules import SCHEDULES
from nelbo.units import bits_per_dim

DECODER_SHARE = 16
"""With L_simple, one image in this many is seen at t = 1 to train a learned decoder variance."""
LOG_STD_RANGE = 10.0
"""How far ln σ of a learned decoder may go from ln √β_1."""
SIMPLE_WEIGHT = 5.0
"""What L_simple counts beside the bound (in nats per dimension) in the hybrid objective."""
UNIFORM_SHARE = {"bound": 0.1, "hybrid": 0.5}
"""The share of t that is drawn uniformly, and not by the loss profile."""


class DDPMOptions(UNetOptions):
    """The settings of a DDPM."""

    timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000
    "T, the number of diffusion steps."
    schedule: Literal["linear", "cosine", "sigmoid"] = "sigmoid"
    "How β_t grows with t."
    predict: Literal["eps", "x0", "mean", "v"] = "v"
    "What the network predicts."
    objective: Literal["simple", "bound", "hybrid"] = "hybrid"
    "L_simple; the bound itself, with t drawn by the loss profile; or both together."
    reverse_variance: Literal["beta", "beta_tilde"] = "beta_tilde"
    "σ_t², the variance of the reverse step; beta costs bits on images at any T, because it is not the posterior's."
    decoder_variance: Literal["beta_1", "learned"] = "learned"
    "The variance of p(x_0|x_1): β_1, or learned for each pixel."


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
        schedule = SCHEDULES[options.schedule](options.timesteps)
        self.process = Process(schedule)
        self.parameterization = PARAMETERIZATIONS[options.predict](schedule)
        self.reverse_variance = options.reverse_variance
        self.reverse_var = REVERSE_VARIANCES[options.reverse_variance](schedule)
        self.learned_decoder = options.decoder_variance == "learned"
        channels = shape[0]
        self.network = options.network(
            channels,
            2 * channels if self.learned_decoder else channels,
        )
        self.profile = LossProfile(schedule.T, floor=UNIFORM_SHARE.get(options.objective, 1.0))

    @property
    def T(self) -> int:  # noqa: N802
        """The number of diffusion steps."""
        return self.process.schedule.T

    # Prediction

    def ask(self, x_t: Tensor, t: Tensor) -> tuple[Denoised, Tensor]:
        """x̂_0 and ε̂, and the logarithm of the decoder's standard deviation (used at t = 1 only)."""
        output = self.network(x_t, t / self.T).float()
        log_std = 0.5 * self.process.schedule.beta[1].log().to(x_t)
        if self.learned_decoder:
            output, excess = output.chunk(2, dim=1)
            log_std = log_std + excess.clamp(-LOG_STD_RANGE, LOG_STD_RANGE)
        return self.parameterization.denoised(output, x_t, t), log_std

    def denoise(self, x_t: Tensor, t: Tensor) -> Denoised:
        """x̂_0 and ε̂ of x_t, shape (B, C, H, W), at t, shape (B,)."""
        return self.ask(x_t, t)[0]

    def decoder_nll(self, x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        """−ln p_θ(x_0|x_1), the reconstruction term, in nats, shape (B,)  [DDPM (13)]."""
        decoder = DiscretizedNormal(mean, log_std.exp(), self.levels)
        return -decoder.log_prob(x).flatten(1).sum(1).float()

    # Training

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        x_0 = to_unit(x, self.levels)
        eps = draws.normal(Stream.TRAIN_NOISE, self.shape)
        u = draws.spread(Stream.TRAIN_TIME)
        if self.options.objective != "simple":
            return self.bound_loss(x, x_0, eps, u)
        return self.simple_loss(x, x_0, eps, u, draws)

    def simple_loss(self, x: Tensor, x_0: Tensor, eps: Tensor, u: Tensor, draws: Draws) -> Tensor:
        """L_simple = E‖ε − ε_θ(x_t, t)‖² per dimension, t uniform on 1 … T  [DDPM (14), Algorithm 1].

        A learned decoder variance has its own likelihood term, on some images at t = 1; the mean is held fixed there,
        so that what the network predicts is trained by L_simple alone.
        """
        t = 1 + (u * self.T).long().clamp(max=self.T - 1)
        at_decoder = torch.tensor([self.learned_decoder and i % DECODER_SHARE == 0 for i in draws.indices]).to(x.device)
        t = torch.where(at_decoder, torch.ones_like(t), t)
        denoised, log_std = self.ask(self.process.diffuse(x_0, t, eps), t)
        loss = (eps - denoised.eps).square().flatten(1).mean(1)
        if not bool(at_decoder.any()):
            return loss
        nll = self.decoder_nll(x[at_decoder], denoised.x_0[at_decoder].detach(), log_std[at_decoder]) / self.dims
        return loss.masked_scatter(at_decoder, nll)

    def bound_loss(self, x: Tensor, x_0: Tensor, eps: Tensor, u: Tensor) -> Tensor:
        """An unbiased estimate of reconstruction + diffusion in nats per dimension, from one t per image.

        t is drawn in proportion to the root mean square of its term (Nichol & Dhariwal 2021, section 3.3). The hybrid
        objective adds 5 L_simple: their L_hybrid (16) with λ = 1/5, in these units.
        """
        t, weight = self.profile.draw(u)
        denoised, log_std = self.ask(self.process.diffuse(x_0, t, eps), t)
        first = t == 1
        # At t = 1 the diffusion term has no meaning: it is computed at 2 and thrown away.
        loss = diffusion_term(self.process, self.reverse_var, eps, denoised.eps, t.clamp(min=min(2, self.T)))
        if bool(first.any()):
            log_std = log_std.expand_as(x_0)
            loss = loss.masked_scatter(first, self.decoder_nll(x[first], denoised.x_0[first], log_std[first]))
        loss = loss * self.T / self.dims
        if self.training:
            self.profile.update(t, loss)
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

    def evaluations(self, timesteps: int) -> int:
        return 1 + (timesteps if self.T > 1 else 0)

    def proposal(self, timesteps: int) -> Tensor:
        """The law of t = 2 … T: more often where the bound is made, or each once if all are asked for."""
        count = self.T - 1
        return torch.full((count,), 1.0 / count).double() if timesteps == count else harmonic(2, self.T)

    def estimate(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """−ln p(x_0) ≤ prior + diffusion + reconstruction  [DDPM (5)]: stratified t for the sum, one draw of x_1."""
        x_0 = to_unit(x, self.levels)
        eps = draws.normal(Stream.SCORE_NOISE, (timesteps + 1, *self.shape))
        first = torch.ones(len(x), dtype=torch.long, device=x.device)
        denoised, log_std = self.ask(self.process.diffuse(x_0, first, eps[:, 0]), first)
        terms = {"reconstruction": self.decoder_nll(x, denoised.x_0, log_std)}
        terms["diffusion"] = torch.zeros_like(terms["reconstruction"])
        if self.T > 1:
            index, weight = stratified(draws.uniform(Stream.SCORE_TIME, (timesteps,)), self.proposal(timesteps))
            for k in range(timesteps):
                t, noise = index[:, k] + 2, eps[:, k + 1]
                eps_hat = self.denoise(self.process.diffuse(x_0, t, noise), t).eps
                term = diffusion_term(self.process, self.reverse_var, noise, eps_hat, t)
                terms["diffusion"] += weight[:, k].to(term.dtype) * term
        terms["prior"] = prior_term(self.process, x_0)
        return Bound(terms)

    @property
    def forms(self) -> Mapping[str, Form]:
        return {
            "denoising": Form(self.estimate, self.evaluations),
            "consistency": Form(self.consistency, self.evaluations),
            "trajectory": Form(self.trajectory, lambda timesteps: self.T, whole=True),
            "entropy": Form(self.entropy, self.evaluations, why="not a bound by itself: it has no decoder"),
        }

    def denoise_double(self, x_t: Tensor, t: Tensor) -> Denoised:
        """:meth:`denoise` for float64 x_t: the network itself stays in float32."""
        denoised = self.denoise(x_t.float(), t)
        return Denoised(denoised.x_0.double(), denoised.eps.double())

    def reconstruct(self, x: Tensor, x_1: Tensor) -> Tensor:
        """−ln p_θ(x_0|x_1) of each image at this x_1, in nats, shape (B,)."""
        denoised, log_std = self.ask(x_1.float(), torch.ones(len(x), dtype=torch.long, device=x.device))
        return self.decoder_nll(x, denoised.x_0, log_std).double()

    def trajectory(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """The bound before any rearrangement, from one whole trajectory: T evaluations, whatever ``timesteps`` says."""
        x_0 = to_unit(x, self.levels).double()
        noise = draws.normals(Stream.SCORE_NOISE, self.shape)
        return Bound(
            trajectory_terms(
                self.process, self.reverse_var, self.denoise_double, lambda x_1: self.reconstruct(x, x_1), x_0, noise
            )
        )

    def consistency(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """The consistency form, x_t integrated out: stratified t for the sum, one draw of x_1."""
        x_0 = to_unit(x, self.levels).double()
        noise = draws.normals(Stream.SCORE_NOISE, self.shape)
        first = torch.ones(len(x), dtype=torch.long, device=x.device)
        terms = {"reconstruction": self.reconstruct(x, self.process.diffuse(x_0, first, next(noise)))}
        terms["diffusion"] = torch.zeros_like(terms["reconstruction"])
        if self.T > 1:
            index, weight = stratified(draws.uniform(Stream.SCORE_TIME, (timesteps,)), self.proposal(timesteps))
            for k in range(timesteps):
                t = index[:, k] + 1
                x_prev, _, x_next = neighbours(self.process, x_0, t, (next(noise), next(noise), next(noise)))
                x_0_hat = self.denoise_double(x_next, t + 1).x_0
                term = consistency_term(self.process, self.reverse_var, x_prev, x_next, x_0_hat, t)
                terms["diffusion"] += weight[:, k] * term
        terms["prior"] = consistency_prior_term(self.process, x_0)
        return Bound(terms)

    def entropy(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """The entropy form, and beside it ``difference``, Δ: what it lacks of the bound with the same noise."""
        bound, x_0 = self.estimate(x, draws, timesteps), to_unit(x, self.levels)
        terms = {"diffusion": bound.terms["diffusion"].double(), **entropy_terms(self.process, x_0)}
        return Bound(
            {name: terms[name] for name in ("edge", "diffusion", "prior")},
            {"difference": entropy_difference(self.process, x_0, bound.terms["reconstruction"])},
        )

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
    def quick_steps(self) -> int:
        return min(super().quick_steps, self.T)

    def chain(self, steps: int | None) -> Chain:
        return Chain(self.process, self.denoise, times(self.T, steps or self.T))


OPTIONS, MODEL = DDPMOptions, DDPM
