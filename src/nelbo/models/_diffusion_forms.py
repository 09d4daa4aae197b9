"""The forms of a diffusion model's bound, for a chain or continuous time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nelbo.diffusion.bound import ChainBound, ContinuousBound
from nelbo.diffusion.ode import FlowLikelihood
from nelbo.diffusion.rare import crossing
from nelbo.models._diffusion_clusters import shown_clusters, with_cluster_term
from nelbo.models.forms import Estimator, Forms
from nelbo.rng import Draws
from nelbo.theory.bound import Bound

if TYPE_CHECKING:
    from nelbo.models.diffusion import Diffusion

FAR_BETWEEN = 6.0
"""Farther than this from every level, in standard deviations of z_0, a z between two levels has no density."""
TIMESTEPS = 8
"""The default number of t for one estimate."""


def bound_of(model: Diffusion, uniform: bool = True) -> ChainBound | ContinuousBound:
    """The estimator of the bound, for the scored chain or continuous time.

    Args:
        model: the model.
        uniform: whether a continuous-time model that is scored in steps, or a model in chosen steps, draws t uniformly.
    """
    timeline = model.timeline
    shared: Any = {"denoiser": model.denoiser, "decoder": model.decoder, "levels": model.levels, "shape": model.shape}
    if timeline.continuous:
        return ContinuousBound(schedule=timeline.curve, profile=model.profile, device=model.device, **shared)
    uniform = uniform and (timeline.gammas is None or timeline.steps is not None)
    return ChainBound(gammas=timeline.chain(), variance=model.variance, uniform=uniform, **shared)


def diffusion_forms(model: Diffusion) -> Forms:
    """The forms of the bound; with clusters, that of p(x|c(x)) and the term −ln P(c(x)); all given y, if known."""
    forms = plain_forms(model)
    if model.clusters is None and not model.classes:
        return forms
    named = {name: form._replace(estimate=partial(by_known, model, name)) for name, form in forms.items()}
    return replace(forms, estimators=named)


def by_known(model: Diffusion, name: str, x: Tensor, draws: Draws, count: int) -> Bound:
    """One estimate in the form ``name`` of −ln P(c(x)|y) and the bound of p(x|c(x), y), with y the labels of draws."""
    told = plain_forms(shown_clusters(model, x, draws.labels))
    return with_cluster_term(model, x, told[name].estimate(x, draws, count), draws.labels)


def plain_forms(model: Diffusion) -> Forms:
    """The denoising form, the further forms of a chain, and the likelihood of the flow, of one denoiser."""
    timeline, bound, absent = model.timeline, bound_of(model, uniform=False), absent_forms(model)
    forms = {"denoising": Estimator(bound_of(model).denoising)}
    if isinstance(bound, ChainBound):
        forms |= {
            "consistency": Estimator(bound.consistency),
            "trajectory": Estimator(bound.trajectory, counts=None),
            "iw": Estimator(bound.importance_weighted, counts="k", kind="iw_bound"),
            "entropy": Estimator(bound.entropy, kind="estimate", why="not a bound, because it has no decoder"),
        }
    if model.predicts != "mean" and timeline.has_terms:
        flow, why = (
            FlowLikelihood(bound),
            "the likelihood of the probability flow, another model with the same denoiser",
        )
        for name, estimate in {"ode": flow.by_noise, "ode-uniform": flow.by_uniform}.items():
            if name not in absent:
                forms[name] = Estimator(estimate, counts=None, kind="estimate", why=why)
    every = None if timeline.continuous else max(1, len(timeline.chain()) - 2)
    more = "; a bound in steps has more, see `T`" if timeline.continuous else ""
    return Forms(model.family, forms, min(TIMESTEPS, every or TIMESTEPS), every, more, absent)


def absent_forms(model: Diffusion) -> Mapping[str, str]:
    """Uniform dequantisation is absent if a law over levels consists of peaks as narrow as the noise.

    The flow's density between levels then only reflects this width: with a, half a spacing in standard deviations of
    z_0, a uniform z costs a²/6 nats per pixel for every image.
    """
    a = crossing(bound_of(model).first, model.levels)
    if model.predicts != "levels" or a <= FAR_BETWEEN:
        return {}
    why = f"a uniform z is up to {a:.0f} standard deviations from every level, which costs {a**2 / 6:.0f} nats"
    return {"ode-uniform": f"{why} per pixel for every image; use ode"}
