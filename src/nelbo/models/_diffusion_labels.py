"""Labels of a diffusion model: the model of the images to draw, with guidance."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nelbo.diffusion.guidance import EVERYWHERE, Guided
from nelbo.errors import InputError
from nelbo.models._diffusion_clusters import shown_drawn_clusters
from nelbo.models._labels import class_words, drawn_labels
from nelbo.models.sampling import SampleSettings

if TYPE_CHECKING:
    from nelbo.models.diffusion import Diffusion


def require_guidance(settings: SampleSettings) -> None:
    """Check the guidance of samples.

    Raises:
        InputError: guidance has no label, or is out of range.
    """
    guidance, interval = settings.guidance, settings.guidance_interval
    if settings.label is None and guidance is not None:
        raise InputError("guidance", "is towards a label; add `label`, or leave it out")
    if guidance is None and interval is not None:
        raise InputError("guidance_interval", "is for guidance; add `guidance`, or leave it out")
    if guidance is not None and not 0 <= guidance < math.inf:
        raise InputError("guidance", f"{guidance:g} must be at least 0 and finite; 1 is p(x|y) without guidance")
    if interval is not None and not interval[0] < interval[1]:
        raise InputError("guidance_interval", f"{interval[0]:g},{interval[1]:g} must be LOW,HIGH with LOW < HIGH")


def drawn_model(model: Diffusion, indices: Sequence[int], seed: int, settings: SampleSettings) -> Diffusion:
    """The model of the images to draw: p(x|c, y) with c drawn, y from the settings, and guidance.

    Raises:
        InputError: a setting cannot be used.
    """
    require_guidance(settings)
    told = shown_drawn_clusters(model, indices, seed, drawn_labels(model, indices, settings))
    if settings.guidance is None:
        return told
    told = copy.copy(told)
    told.denoiser = Guided(told.denoiser, settings.guidance, settings.guidance_interval or EVERYWHERE)
    return told


def label_words(model: Diffusion, settings: SampleSettings) -> str:
    """The labels and the guidance of samples, as the end of a sentence, or ""."""
    require_guidance(settings)
    words = class_words(model, settings)
    if settings.guidance is None:
        return words
    where = ""
    if settings.guidance_interval is not None:
        where = " for γ from {:g} to {:g}".format(*settings.guidance_interval)
    return f"{words}, guidance {settings.guidance:g}{where}: these samples are from no law that is scored"
