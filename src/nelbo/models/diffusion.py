"""Diffusion models with any schedule, prediction, objective and decoder, in T steps or continuous time.

:mod:`nelbo.diffusion.bound` has the bound, in the coordinate γ = −ln SNR. ``ddpm`` and ``vdm`` are presets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from nelbo.check import checked
from nelbo.diffusion.decoders import DECODERS
from nelbo.diffusion.denoiser import PREDICTIONS, Conditioning, LevelLaw, NetworkDenoiser, by_gamma
from nelbo.diffusion.known import NOTHING, Known
from nelbo.diffusion.named import in_words
from nelbo.diffusion.objectives import OBJECTIVES, Objective, as_objective
from nelbo.diffusion.objectives import Bound as BoundObjective
from nelbo.diffusion.schedules import SCHEDULES, BetaTable, LearnedGamma, Schedule, as_schedule
from nelbo.diffusion.steps import StepCosts, refined
from nelbo.diffusion.timeline import Timeline
from nelbo.diffusion.timesteps import LossProfile
from nelbo.diffusion.variances import VARIANCES, LearnedMoments
from nelbo.errors import InputError, nearest
from nelbo.models._diffusion_clusters import shown_most_clusters
from nelbo.models._diffusion_forms import diffusion_forms
from nelbo.models._diffusion_inspector import DiffusionInspector, DiffusionRecipe
from nelbo.models._diffusion_labels import drawn_model
from nelbo.models._diffusion_loss import chain_loss, continuous_loss
from nelbo.models._labels import checked_classes, label_settings
from nelbo.models._sampling import make_sampler, walk
from nelbo.models.base import LikelihoodModel
from nelbo.models.forms import Forms
from nelbo.models.recipe import full_name
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.nn import UNetOptions
from nelbo.nn.clusters import Clusters
from nelbo.options import LABEL_DROPOUT, Shape, Variance
from nelbo.rng import Draws

PROFILE_STEPS = 1024
"""Pieces of [0, 1] of the loss profile that draws t in continuous time."""


NO_MOMENTS = "moments needs Var(x|z), from a law over levels or from a learned variance; use beta_tilde"
FROM_PYTHON = "from-python"
"""The setting of a part that was given from Python."""


class DiffusionOptions(UNetOptions):
    """The settings of a diffusion model."""

    timesteps: Annotated[int, Field(ge=0, le=100_000)] = 0
    "T, the number of diffusion steps; 0 for continuous time."
    schedule: str = "linear_gamma"
    "γ(t): linear (in β), cosine, sigmoid, linear_gamma, learned, karras or rectified_flow, or e.g. cosine(s=0.01)."
    predict: Literal["eps", "x0", "mean", "v", "levels"] = "v"
    "What the network predicts; levels is a law over the levels of each pixel."
    objective: str = "bound"
    "w(γ): bound, hybrid, simple, min_snr, max_snr, sigmoid, edm or flow_matching, or e.g. min_snr(k=3)."
    decoder: Literal["gaussian", "learned_gaussian", "categorical"] = "gaussian"
    "p(x|z) at the least noise: a normal about x̂_0, with fixed or learned variance, or a categorical law over levels."
    reverse_variance: Variance = "beta_tilde"
    "σ² of the reverse step: β, β̃, learned between them, or by moments, which a law over levels has."

    @property
    def outputs(self) -> int:
        """Outputs of the network per pixel and channel: a prediction, and each learned variance."""
        extras = (self.decoder == "learned_gaussian") + (self.reverse_variance == "learned")
        return (LevelLaw.outputs if self.predict == "levels" else 1) + extras


def by_time_and_gamma(network: nn.Module, z: Tensor, gamma: Tensor, known: Known = NOTHING) -> Tensor:
    """nelbo's own network, with γ scaled to [0, 1] as its time and γ for its Fourier features."""
    output: Tensor = network(z, ((gamma + 20.0) / 40.0).to(z.dtype), gamma, known.picture, known.label)
    return output


class Diffusion(LikelihoodModel):
    """A network with a schedule, a prediction, an objective and a decoder, and its bound.

    Args:
        network: a module called as network(z, γ), with z of shape (B, C, H, W) and γ of shape (B,). It outputs C
            channels, plus those that ``predict``, ``decoder`` and ``reverse_variance`` add.
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.
        schedule: γ(t) as a name, a schedule, or an increasing function of t of torch operations.
        predict: ``eps``, ``x0``, ``mean``, ``v`` or ``levels`` (a law over levels, 8 C channels).
        objective: w(γ) as a name, an objective, or a function of γ of torch operations.
        decoder: ``gaussian``, ``learned_gaussian`` (C additional channels) or ``categorical``.
        timesteps: T, or None for continuous time.
        reverse_variance: ``beta``, ``beta_tilde`` or ``learned`` (C additional channels) of a chain, or ``moments``,
            β̃ + c² Var(x|z), with ``predict`` levels.
        clusters: the largest number K of clusters of training images, which makes the model
            :mod:`nelbo.models._diffusion_clusters`; the network is then also called as network(z, γ, m), with m the
            mean image of a cluster, of z's shape. 0 for none.
        classes: the names of the K classes of the images' labels, which makes the model p(x|y) and p(x); the network is
            then called as network(z, γ[, m], label=y), with y int64 of shape (B,): 1 … K, or 0 if unknown, and without
            ``label`` if all are unknown, which must have the output of zeros.
        label_dropout: the fraction of training images whose label is hidden.
        condition: (network, z, γ[, known]) → the network's output, for a network with another signature, with a
            :class:`~nelbo.diffusion.known.Known` where anything is known.

    Raises:
        InputError: the parts do not fit together, or the schedule does not allow this T.
    """

    family = "diffusion"

    def __init__(
        self,
        network: nn.Module,
        shape: Shape,
        levels: int,
        *,
        schedule: str | Schedule | Callable[[Tensor], Tensor] = "linear_gamma",
        predict: str = "v",
        objective: str | Objective | Callable[[Tensor], Tensor] = "bound",
        decoder: str = "gaussian",
        timesteps: int | None = None,
        reverse_variance: str = "beta_tilde",
        clusters: int = 0,
        classes: Sequence[str] = (),
        label_dropout: float = LABEL_DROPOUT,
        condition: Conditioning = by_gamma,
    ) -> None:
        super().__init__(shape, levels)
        require_parts(network, predict, decoder, reverse_variance)
        self.objective, self.reverse_variance, self.predicts = as_objective(objective), reverse_variance, predict
        curve = as_schedule(schedule, levels)
        by_name = schedule if isinstance(schedule, str) else in_words(schedule, SCHEDULES)
        settings: dict[str, object] = {"predict": predict, "decoder": decoder, "reverse_variance": reverse_variance}
        settings |= {"timesteps": timesteps or 0, "schedule": by_name or FROM_PYTHON, "clusters": clusters}
        settings["objective"] = in_words(self.objective, OBJECTIVES) or FROM_PYTHON
        self.classes, self.label_dropout = checked_classes(classes), label_dropout
        settings |= label_settings(self.classes, label_dropout)
        self.options: UNetOptions = checked(DiffusionOptions, settings)
        given: dict[str, object] = {"network": network} if condition is by_gamma else {}
        given |= {"schedule": schedule} if by_name is None else {}
        given |= {"objective": objective} if in_words(self.objective, OBJECTIVES) is None else {}
        self.parts = {name: full_name(part) for name, part in given.items()}
        require_together(curve, self.objective, reverse_variance, predict, timesteps)
        self.variance = VARIANCES[reverse_variance]
        self.timeline = Timeline.of(curve, timesteps, levels)
        self.schedule, gammas = self.timeline.schedule, self.timeline.gammas  # a learned one is part of the module
        # γ of a schedule from Python is saved with the weights: a function may change and keep its name.
        if by_name is None and not isinstance(curve, BetaTable):
            t = torch.linspace(0, 1, 33, dtype=torch.float64)
            self.register_buffer(
                "gamma_kept", self.timeline.chain()[1:] if gammas is not None else self.timeline.gamma(t)
            )
            self.register_load_state_dict_pre_hook(require_same_schedule)  # type: ignore[no-untyped-call]
        self.every_decoder = 0.0
        self.clusters = Clusters(shape, clusters, len(self.classes)) if clusters else None
        self.network = network
        self.decoder = DECODERS[decoder](levels, predict == "levels")
        extras = [*self.decoder.extras, *["fraction"] * (reverse_variance == "learned")]
        self.denoiser = NetworkDenoiser(network, PREDICTIONS[predict](levels, gammas), extras, condition)
        if gammas is not None:
            self.profile = LossProfile(len(gammas) - 1, floor=self.objective.uniform_share)
        else:  # the learned shape of γ already equalises the loss over t
            self.profile = LossProfile(PROFILE_STEPS, floor=1.0 if isinstance(curve, LearnedGamma) else 0.1)

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        """The model for the settings, with nelbo's own network unless ``parts`` has one."""
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
            clusters=options.clusters or 0,
            **options.of_labels,
            condition=condition,
            **{"schedule": options.schedule, "objective": options.objective, **parts},
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """As of any module; a new ``network`` also replaces the denoiser's network."""
        super().__setattr__(name, value)
        if name == "network" and "denoiser" in self.__dict__:
            self.denoiser.network = value

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        told = shown_most_clusters(self, x, draws)
        return continuous_loss(told, x, draws) if self.timeline.gammas is None else chain_loss(told, x, draws)

    @property
    def forms(self) -> Forms:
        return diffusion_forms(self)

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        told = drawn_model(self, indices, seed, settings)
        return walk(told, *make_sampler(told, settings), indices, seed, settings.clip)

    @property
    def inspector(self) -> DiffusionInspector:
        return DiffusionInspector(self)

    @property
    def recipe(self) -> DiffusionRecipe:
        return DiffusionRecipe(self)


def require_parts(network: nn.Module, predict: str, decoder: str, reverse_variance: str) -> None:
    """Check the network's type and the names of the parts.

    Raises:
        InputError: the network is no module, or a name is unknown.
    """
    if not isinstance(network, nn.Module):
        kind = f"the class {network.__name__}; pass an instance" if isinstance(network, type) else f"{network!r}"
        raise InputError("network", f"is {kind}, but must be an nn.Module")
    for field, value, known in (
        ("predict", predict, PREDICTIONS),
        ("decoder", decoder, DECODERS),
        ("reverse_variance", reverse_variance, VARIANCES),
    ):
        if value not in known:
            raise InputError(field, f"{value!r} is not one of {', '.join(known)}{nearest(value, known)}")


def in_steps(
    model: LikelihoodModel, T: int, *, reverse_variance: str | None = None, costs: StepCosts | None = None
) -> Diffusion:
    """A model with its bound in T steps: t on the grid 0, 1/T, …, 1, or the best steps for measured costs.

    In continuous time there are T steps between T + 1 latents, and the decoder; the T steps of a chain include the
    decoder's, as its own T does.

    Args:
        model: a diffusion model: in continuous time, or a chain with ``costs``.
        T: the number of steps.
        reverse_variance: σ² of the steps, as in :class:`Diffusion`; None for the model's own.
        costs: the costs among which to choose; None for even steps.

    Raises:
        InputError: the model cannot be scored in these steps, or does not have this variance.
    """
    if not isinstance(model, Diffusion) or (model.timeline.gammas is not None and costs is None):
        why = f"only a diffusion model in continuous time can be scored in other even steps, but this is {model.family}"
        fix = "add `spacing` best, or leave it out" if isinstance(model, Diffusion) else "leave it out"
        raise InputError("T", f"{why}; {fix}")
    scored = model if reverse_variance is None else with_variance(model, reverse_variance)
    scored = copy.copy(scored)
    if costs is None:
        scored.timeline = replace(model.timeline, scored_in=T)
    else:
        scored.timeline = replace(model.timeline, steps=best_steps(model, costs, T))
    return scored


def best_steps(model: Diffusion, costs: StepCosts, T: int) -> Tensor:
    """−∞, γ_1, …: the best steps for these costs, finer than they were measured in continuous time if T is large.

    Raises:
        InputError: T is larger than the number of γ of a chain.
    """
    count, most = (T + 1 if model.timeline.gammas is None else T), len(costs.gammas)
    if count <= most // 2 or (model.timeline.gammas is not None and count <= most):
        return costs.best(count)
    if model.timeline.gammas is not None:
        raise InputError("T", f"{T} is more than the {most} steps among which the best are chosen")
    return refined(costs.best(most // 2), count)


def knows_image_var(model: Diffusion) -> bool:
    """Whether Var(x|z) follows from a law over levels, or from the learned variance of a chain."""
    return model.predicts == "levels" or model.reverse_variance == "learned"


def with_variance(model: Diffusion, name: str) -> Diffusion:
    """The model with another σ² of its steps.

    Args:
        model: the model.
        name: ``beta``, ``beta_tilde``, ``learned`` or ``moments``.

    Raises:
        InputError: the model does not have it.
    """
    if name == "learned" and model.reverse_variance != "learned":
        raise InputError("reverse_variance", "the model has not learned one; use beta_tilde")
    if name == "moments" and not knows_image_var(model):
        raise InputError("reverse_variance", NO_MOMENTS)
    other, gammas = copy.copy(model), model.timeline.gammas
    other.reverse_variance, other.variance = name, VARIANCES[name]
    if name == "moments" and model.predicts != "levels" and gammas is not None:
        other.variance = LearnedMoments(gammas)
    return other


def require_same_schedule(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Check that the model has the schedule with which the weights were trained.

    Raises:
        InputError: the schedules differ.
    """
    own, kept = model.state_dict()["gamma_kept"].cpu(), state.get(f"{prefix}gamma_kept")
    if kept is not None and (own.shape != kept.shape or not torch.allclose(own, kept.cpu(), rtol=1e-9, atol=1e-9)):
        ends = [f"from {float(gamma[0]):.3g} to {float(gamma[-1]):.3g}" for gamma in (own, kept)]
        raise InputError("schedule", f"runs {ends[0]}, but the weights were trained with one that runs {ends[1]}")


def require_together(
    schedule: Schedule, objective: Objective, reverse_variance: str, predict: str, timesteps: int | None
) -> None:
    """Check that the parts of a model fit together.

    Raises:
        InputError: they do not fit.
    """
    if isinstance(schedule, LearnedGamma) and timesteps is not None:
        raise InputError("schedule", "a learned γ needs continuous time; leave `timesteps` out")
    if isinstance(schedule, LearnedGamma) and not isinstance(objective, BoundObjective):
        raise InputError("objective", "a learned γ is trained by the bound, which does not depend on it; use bound")
    if reverse_variance == "learned" and timesteps is None:
        raise InputError("reverse_variance", "applies to a chain, but the model is in continuous time; leave it out")
    if reverse_variance == "moments" and predict != "levels":
        raise InputError("reverse_variance", NO_MOMENTS)


OPTIONS, MODEL = DiffusionOptions, Diffusion
