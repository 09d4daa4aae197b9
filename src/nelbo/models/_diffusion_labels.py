"""What the images that a diffusion model draws are told: their cluster, the class that is asked for, and guidance."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nelbo.diffusion.guidance import EVERYWHERE, Guided
from nelbo.errors import InputError
from nelbo.models._diffusion_clusters import shown_drawn_clusters
from nelbo.models._labels import class_words, drawn_labels
from nelbo.models.sampling import SampleSettings

if TYPE_CHECKING:
    from nelbo.models.diffusion import Diffusion


GUIDANCE = 2.0
"""g where a cluster or a label is known: samples are more readable and nearer to images (docs/pictures.md)."""

MOST_GUIDANCE = 1e6
"""Far beyond what changes an image, and far below what overflows."""


def guidance_of(model: Diffusion, settings: SampleSettings) -> float:
    """g of the samples; 1 is no guidance.

    Raises:
        InputError: guidance has nothing to be towards, or is out of range.
    """
    guidance, interval = settings.guidance, settings.guidance_interval
    towards = settings.label is not None or model.clusters is not None or settings.weaker is not None
    if not towards and (guidance, interval) != (None, None):
        field = "guidance" if guidance is not None else "guidance_interval"
        raise InputError(
            field, "is towards a label or a cluster, or away from a weaker model; add `label`, or leave it out"
        )
    if guidance is not None:
        require_guidance(guidance)
    if interval is not None and not interval[0] < interval[1]:
        raise InputError("guidance_interval", f"{interval[0]:g},{interval[1]:g} must be LOW,HIGH with LOW < HIGH")
    return (GUIDANCE if towards else 1.0) if guidance is None else guidance


def require_guidance(guidance: float) -> None:
    """Check that g is in its range.

    Raises:
        InputError: it is not.
    """
    if not 0 <= guidance <= MOST_GUIDANCE:
        raise InputError("guidance", f"{guidance:g} must be from 0 to {MOST_GUIDANCE:,.0f}; 1 is no guidance")


def drawn_model(model: Diffusion, indices: Sequence[int], seed: int, settings: SampleSettings) -> Diffusion:
    """The model of the images to draw: p(x|c, y) with c drawn, y from the settings, and guidance.

    Raises:
        InputError: a setting cannot be used.
    """
    guidance, labels = guidance_of(model, settings), drawn_labels(model, indices, settings)
    weaker = weaker_of(model, settings)
    told = shown_drawn_clusters(model, indices, seed, labels)
    if guidance == 1:
        return told
    away_from = None if weaker is None else shown_drawn_clusters(weaker, indices, seed, labels).denoiser
    told = copy.copy(told)
    told.denoiser = Guided(told.denoiser, guidance, settings.guidance_interval or EVERYWHERE, away_from)
    return told


def weaker_of(model: Diffusion, settings: SampleSettings) -> Diffusion | None:
    """The weaker model of the settings, on the model's device; None without one.

    Raises:
        InputError: it is not a diffusion model of such images and classes.
    """
    weaker = settings.weaker
    if weaker is None:
        return None
    same = ("shape", "levels", "classes")
    if type(weaker) is not type(model) or any(getattr(weaker, name) != getattr(model, name) for name in same):
        raise InputError("weaker", f"must be a {model.family} of images of the same shape, levels and classes")
    moved: Diffusion = weaker.to(model.device).eval()
    return moved


def label_words(model: Diffusion, settings: SampleSettings) -> str:
    """The labels and the guidance of samples, as the end of a sentence, or ""."""
    guidance, words = guidance_of(model, settings), class_words(model, settings)
    if guidance == 1:
        return words
    where = "" if settings.weaker is None else " away from a weaker model"
    if settings.guidance_interval is not None:
        where += " for γ from {:g} to {:g}".format(*settings.guidance_interval)
    return f"{words}, guidance {guidance:g}{where}: these samples are from no law that is scored"
