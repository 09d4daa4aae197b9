"""Diffusion models of any schedule, prediction, objective and decoder, in T steps or in continuous time.

The bound is that of :mod:`nelbo.diffusion.bound`, in the coordinate γ = −ln SNR. ``ddpm`` and ``vdm`` are presets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from nelbo.diffusion.bound import ChainBound, ContinuousBound
from nelbo.diffusion.decoders import DECODERS
from nelbo.diffusion.denoiser import PREDICTIONS, Conditioning, LevelLaw, NetworkDenoiser, by_gamma
from nelbo.diffusion.objectives import Bound as BoundObjective
from nelbo.diffusion.objectives import Objective, as_objective
from nelbo.diffusion.ode import FlowLikelihood
from nelbo.diffusion.process import prior_term, signal_rate
from nelbo.diffusion.rare import crossing
from nelbo.diffusion.schedules import (
    Between,
    Curve,
    FixedSchedule,
    LearnedGamma,
    Schedule,
    as_schedule,
    chain_of,
    gamma_range,
)
from nelbo.diffusion.spacing import descending
from nelbo.diffusion.timesteps import LossProfile
from nelbo.diffusion.variances import VARIANCES
from nelbo.errors import InputError, nearest
from nelbo.models._diffusion_loss import chain_loss, continuous_loss
from nelbo.models._sampling import GLANCE_STEPS, described, make_sampler, quick_steps, walk
from nelbo.models.base import Form, Frame, LikelihoodModel, SampleSettings
from nelbo.nn import UNetOptions
from nelbo.rng import Draws
from nelbo.theory.bound import Bound
from nelbo.units import bits_per_dim

PROFILE_STEPS = 1024
"""In continuous time t is drawn by a loss profile over this many pieces of [0, 1]."""
FINE_STEPS = 1000
"""The steps of ancestral sampling where the bound is in continuous time."""
FAR_BETWEEN = 6.0
"""Standard deviations of z_0 from a level to the middle of two, from where on there is no density between levels."""


class DiffusionOptions(UNetOptions):
    """The settings of a diffusion model."""

    timesteps: Annotated[int, Field(ge=0, le=100_000)] = 0
    "T, the number of diffusion steps; 0 is continuous time."
    schedule: str = "linear_gamma"
    "γ(t): linear (in β), cosine, sigmoid, linear_gamma, learned, karras or rectified_flow; cosine(s=0.01) is one too."
    predict: Literal["eps", "x0", "mean", "v", "levels"] = "v"
    "What the network predicts; levels is a law over the levels of each pixel."
    objective: str = "bound"
    "w(γ): bound, hybrid, simple, min_snr, max_snr, sigmoid, edm or flow_matching; min_snr(k=3) is one too."
    decoder: Literal["gaussian", "learned_gaussian", "categorical"] = "gaussian"
    "p(x|z) at the least noise: a normal law about x̂_0, its variance learned or not; or what z says of the levels."
    reverse_variance: Literal["beta", "beta_tilde", "learned"] = "beta_tilde"
    "σ² of the reverse step, where there are steps."

    @property
    def outputs(self) -> int:
        """What the network gives for each pixel and channel: a prediction, and each variance that is learned."""
        extras = (self.decoder == "learned_gaussian") + (self.reverse_variance == "learned")
        return (LevelLaw.outputs if self.predict == "levels" else 1) + extras


def by_time_and_gamma(network: nn.Module, z: Tensor, gamma: Tensor) -> Tensor:
    """nelbo's own network, which is told γ as a time in [0, 1] and for its waves."""
    output: Tensor = network(z, ((gamma + 20.0) / 40.0).to(z.dtype), gamma)
    return output


class Diffusion(LikelihoodModel):
    """A network, a schedule, what it predicts, what it is trained by, and the bound between them.

    Args:
        network: any module, called as network(z, γ) with z of shape (B, C, H, W) and γ of shape (B,): its output has
            C channels, or as many times more as ``predict``, ``decoder`` and ``reverse_variance`` together need.
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.
        schedule: γ(t) by name, as a schedule, or as a rising function of t written with torch.
        predict: ``eps``, ``x0``, ``mean``, ``v`` or ``levels`` (a law over levels, 8 C channels).
        objective: w(γ) by name, as an objective, or as a function of γ written with torch.
        decoder: ``gaussian``, ``learned_gaussian`` (C channels more) or ``categorical``.
        timesteps: T; continuous time if None.
        reverse_variance: ``beta``, ``beta_tilde`` or ``learned`` (C channels more), where there are steps.
        condition: another way to tell the network γ.

    Raises:
        InputError: parts that do not go together, or a schedule that T does not allow.
    """

    family = "diffusion"

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, int, int],
        levels: int,
        *,
        schedule: str | Schedule | Callable[[Tensor], Tensor] = "linear_gamma",
        predict: str = "v",
        objective: str | Objective | Callable[[Tensor], Tensor] = "bound",
        decoder: str = "gaussian",
        timesteps: int | None = None,
        reverse_variance: str = "beta_tilde",
        condition: Conditioning = by_gamma,
    ) -> None:
        super().__init__(shape, levels)
        for field, value, known in (
            ("predict", predict, PREDICTIONS),
            ("decoder", decoder, DECODERS),
            ("reverse_variance", reverse_variance, VARIANCES),
        ):
            if value not in known:
                raise InputError(field, f"{value!r} is none of {', '.join(known)}{nearest(value, known)}")
        self.objective, self.reverse_variance, self.predicts = as_objective(objective), reverse_variance, predict
        whole = as_schedule(schedule, levels)
        require_together(whole, self.objective, reverse_variance, timesteps)
        self.gammas = None if timesteps is None else chain_of(whole.grid(timesteps))
        fixed = timesteps is None and isinstance(whole, FixedSchedule)
        self.schedule: Schedule = Between(whole, *gamma_range(levels)) if fixed else whole  # type: ignore[arg-type]
        self.scored_in: int | None = None
        self.every_decoder = 0.0
        self.network = network
        self.decoder = DECODERS[decoder](levels, predict == "levels")
        extras = [*self.decoder.extras, *["fraction"] * (reverse_variance == "learned")]
        self.denoiser = NetworkDenoiser(network, PREDICTIONS[predict](levels, self.gammas), extras, condition)
        if self.gammas is not None:
            self.profile = LossProfile(len(self.gammas) - 1, floor=self.objective.uniform_share)
        else:  # a learned shape of γ does what the profile would do: it evens out the loss over t
            self.profile = LossProfile(PROFILE_STEPS, floor=1.0 if isinstance(whole, LearnedGamma) else 0.1)

    @classmethod
    def from_options(
        cls,
        options: DiffusionOptions,
        shape: tuple[int, int, int],
        levels: int,
        **parts: Any,
    ) -> Self:
        """The model that settings describe, with nelbo's own network unless another is among the parts."""
        network = parts.pop("network", None)
        condition = by_gamma if network is not None else by_time_and_gamma
        return cls(
            network or options.network(shape[0], shape[0] * options.outputs, fading=True),
            shape,
            levels,
            predict=options.predict,
            decoder=options.decoder,
            timesteps=options.timesteps or None,
            reverse_variance=options.reverse_variance,
            condition=condition,
            **{"schedule": options.schedule, "objective": options.objective, **parts},
        )

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        return continuous_loss(self, x, draws) if self.gammas is None else chain_loss(self, x, draws)

    # The chain

    @torch.no_grad()
    def curve(self, t: Tensor) -> Curve:
        """γ(t) and γ′(t), without gradient."""
        return self.schedule(t)

    def latents(self, count: int) -> Tensor:
        """−∞, and γ at so many t, evenly from 0 to 1, on the CPU: a chain in continuous time."""
        return chain_of(self.curve(torch.linspace(0, 1, count, dtype=torch.float64, device=self.device))[0].cpu())

    def chain(self) -> Tensor:
        """−∞, γ_1, …, γ_T: the chain whose bound is scored, or a fine one in continuous time."""
        if self.gammas is not None:
            return self.gammas
        return self.latents(FINE_STEPS if self.scored_in is None else self.scored_in + 1)

    def descending(self, steps: int | None) -> Tensor:
        """So many steps down, even in t, or those of :meth:`chain` if None: γ_1 > γ_2 > … > −∞.

        Raises:
            InputError: it has not so many.
        """
        if self.gammas is None and steps is not None:
            return descending(self.latents(steps))
        return descending(self.chain(), steps)

    def in_steps(self, T: int) -> Self:
        if self.gammas is not None:
            return super().in_steps(T)
        model = copy.copy(self)
        model.scored_in = T
        return model

    # Scoring

    @property
    def default_timesteps(self) -> int:
        return min(8, self.all_timesteps or 8)

    @property
    def all_timesteps(self) -> int | None:
        """The terms of the diffusion sum, or None in continuous time."""
        return self.scored_in if self.gammas is None else max(1, len(self.gammas) - 2)

    def estimator(self, uniform: bool = True) -> ChainBound | ContinuousBound:
        """What estimates the bound: of the chain that is scored, or in continuous time."""
        shared: Any = {"denoiser": self.denoiser, "decoder": self.decoder, "levels": self.levels, "shape": self.shape}
        if self.gammas is None and self.scored_in is None:
            return ContinuousBound(schedule=self.curve, profile=self.profile, device=self.device, **shared)
        variance = VARIANCES[self.reverse_variance]
        return ChainBound(gammas=self.chain(), variance=variance, uniform=uniform and self.gammas is None, **shared)

    def estimate(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        return self.estimator().denoising(x, draws, timesteps)

    @property
    def forms(self) -> Mapping[str, Form]:
        """The denoising form; of a chain all that it has; and the likelihood of the flow."""
        chain = self.estimator(uniform=False)
        forms = {"denoising": Form(self.estimate)}
        if isinstance(chain, ChainBound):
            forms |= {
                "consistency": Form(chain.consistency),
                "trajectory": Form(chain.trajectory, counts=None),
                "iw": Form(chain.importance_weighted, counts="k", kind="iw_bound"),
                "entropy": Form(chain.entropy, kind="estimate", why="not a bound by itself: it has no decoder"),
            }
        if self.predicts != "mean" and (self.gammas is None or len(self.gammas) > 2):
            flow = FlowLikelihood(chain)
            why = "the likelihood of the probability flow, another model with the same denoiser"
            ode = {"ode": flow.by_noise, "ode-uniform": flow.by_uniform}
            forms |= {
                name: Form(estimate, counts=None, kind="estimate", why=why)
                for name, estimate in ode.items()
                if name not in self.why_not_forms
            }
        return forms

    @property
    def more_forms(self) -> str:  # type: ignore[override]
        """In continuous time there are no trajectories."""
        return "; in steps there are more, see `T`" if self.gammas is None and self.scored_in is None else ""

    @property
    def why_not_forms(self) -> Mapping[str, str]:  # type: ignore[override]
        """A law over levels is spikes as narrow as the noise: of a z between them the flow's density says that alone.

        With a, half a spacing in standard deviations of z_0, a uniform z costs a²/6 nats per pixel, whatever the image.
        """
        a = crossing(self.estimator().first, self.levels)
        if self.predicts != "levels" or a <= FAR_BETWEEN:
            return {}
        why = f"a uniform z lies up to {a:.0f} standard deviations from every level, which costs {a**2 / 6:.0f} nats"
        return {"ode-uniform": f"{why} per pixel whatever the image, and hides all else; use ode"}

    def over_t(self, x: Tensor, draws: Draws, pieces: int) -> tuple[Tensor, Tensor]:
        """The diffusion term piece by piece of t, each estimated from one random t in it.

        Args:
            x: integer levels, shape (B, C, H, W).
            draws: the random numbers; ``draws.step`` is the replicate.
            pieces: K, how many; fewer where there are not so many t.

        Returns:
            The K + 1 edges of the pieces, and their nats, float64, shape (B, K): the sum is the diffusion term.
        """
        return self.estimator().diffusion_profile(x, draws, pieces)

    def gamma_at(self, t: Tensor) -> Tensor:
        """γ = −ln SNR at t as :meth:`over_t` counts it, float64, same shape."""
        if self.gammas is None and self.scored_in is None:
            return self.curve(t.to(self.device))[0].cpu()
        return self.chain()[t.long().cpu()]

    @property
    def has_t(self) -> bool:
        """Whether the bound has a diffusion term: not where the only step is the decoder's."""
        return len(self.chain()) > 2

    def facts(self) -> dict[str, object]:
        """The ends of the schedule, and what the last one costs: the prior term where every pixel is at ±1."""
        first, last = self.estimator().first, self.estimator().last
        ends = torch.tensor([first, last], dtype=torch.float64)
        prior = float(prior_term(torch.ones(1, *self.shape, dtype=torch.float64), ends[1]))
        if self.gammas is None:
            said: dict[str, object] = {"gamma_at_0": first, "gamma_at_1": last}
        else:
            low, high = signal_rate(ends).tolist()
            said = {"signal_rate_at_1": low, "signal_rate_at_T": high}
        return {**said, "prior_bits_per_dim_at_most": bits_per_dim(prior, self.dims)}

    # Sampling

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        return walk(self, *make_sampler(self, settings), indices, seed, settings.clip)

    def describe_sampling(self, settings: SampleSettings) -> str:
        return described(self, settings)

    @property
    def compilable(self) -> list[nn.Module]:
        return [self.network]

    @property
    def sample_evaluations(self) -> int:
        return quick_steps(self)

    @property
    def glance(self) -> SampleSettings:
        return SampleSettings(steps=min(GLANCE_STEPS, quick_steps(self)))

    @property
    def why_not_distilled(self) -> str:
        """ε̂ and μ̂ say nothing of the image where there is nothing but noise, and a few steps begin there."""
        if self.predicts not in ("eps", "mean"):
            return ""
        told = f"it predicts {self.predicts}, which in pure noise says nothing of the image"
        return f"{told}; train one with `predict` v"


def require_together(schedule: Schedule, objective: Objective, reverse_variance: str, timesteps: int | None) -> None:
    """See to it that the parts of a model go together.

    Raises:
        InputError: they do not.
    """
    if isinstance(schedule, LearnedGamma) and timesteps is not None:
        raise InputError("schedule", "a learned γ needs continuous time; leave `timesteps` out")
    if isinstance(schedule, LearnedGamma) and not isinstance(objective, BoundObjective):
        raise InputError("objective", "a learned γ is trained by the bound, which does not depend on it; use bound")
    if reverse_variance == "learned" and timesteps is None:
        raise InputError("reverse_variance", "is of steps, and this is continuous time; leave it out")


OPTIONS, MODEL = DiffusionOptions, Diffusion
