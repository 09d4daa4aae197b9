"""What the images that a diffusion model draws are told: their cluster, the class that is asked for, and guidance."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nelbo.diffusion.guidance import EVERYWHERE, Guided
from nelbo.errors import InputError, nearest
from nelbo.models._diffusion_clusters import shown_drawn_clusters
from nelbo.models.sampling import SampleSettings

if TYPE_CHECKING:
    from nelbo.models.diffusion import Diffusion

ALL = "all"
"""The label that stands for every class."""
MOST_LISTED = 20
"""The largest number of classes in a message."""


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes.

    Raises:
        InputError: they are not different names.
    """
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise InputError("classes", f"{classes!r} is not a sequence of names, such as ('cat', 'dog')")
    if len(set(classes)) < len(classes):
        raise InputError("classes", f"has a name twice: {', '.join(classes)}")
    return tuple(classes)


def listed(classes: Sequence[str]) -> str:
    """The names of the classes for a message."""
    return ", ".join(classes[:MOST_LISTED]) + ", …" * (len(classes) > MOST_LISTED)


def named_classes(classes: Sequence[str], label: str | Sequence[str]) -> list[str]:
    """The classes that a setting names, in its order.

    Args:
        classes: the model's classes.
        label: a name, names separated by commas, ``all``, or a sequence of names.

    Raises:
        InputError: a name is not one of the classes.
    """
    if isinstance(label, str):
        if label == ALL and ALL not in classes:
            return list(classes)
        label = [label] if label in classes else [name.strip() for name in label.split(",")]
    for name in label:
        if name not in classes:
            fix = f"{nearest(str(name), classes)} ({listed(classes)})"
            raise InputError("label", f"{name!r} is not one of the classes{fix}")
    if not label:
        raise InputError("label", f"names no class; give one of {listed(classes)}")
    return list(label)


def drawn_classes(model: Diffusion, settings: SampleSettings) -> list[str]:
    """The classes to draw, one image of each in turn; none without a label.

    Raises:
        InputError: the model has no such class, or guidance has no label or is out of range.
    """
    guidance, interval = settings.guidance, settings.guidance_interval
    if guidance is not None and settings.label is None and model.clusters is None:
        raise InputError("guidance", "is towards a label or a cluster; add `label`, or leave it out")
    if guidance is None and interval is not None:
        raise InputError("guidance_interval", "is for guidance; add `guidance`, or leave it out")
    if guidance is not None and not 0 <= guidance < math.inf:
        raise InputError("guidance", f"{guidance:g} must be at least 0 and finite; 1 is no guidance")
    if interval is not None and not interval[0] < interval[1]:
        raise InputError("guidance_interval", f"{interval[0]:g},{interval[1]:g} must be LOW,HIGH with LOW < HIGH")
    if settings.label is None:
        return []
    if not model.classes:
        raise InputError("label", f"this {model.family} was trained without labels; leave it out")
    return named_classes(model.classes, settings.label)


def drawn_labels(model: Diffusion, indices: Sequence[int], settings: SampleSettings) -> Tensor | None:
    """The label of each sample, 1 … K, shape (B,): image i is of class i mod the number of classes to draw."""
    names = drawn_classes(model, settings)
    if not names:
        return None
    rows = [model.classes.index(name) + 1 for name in names]
    return torch.tensor([rows[i % len(rows)] for i in indices], dtype=torch.int64, device=model.device)


def drawn_model(model: Diffusion, indices: Sequence[int], seed: int, settings: SampleSettings) -> Diffusion:
    """The model of the images to draw: p(x|c, y) with c drawn, y from the settings, and guidance.

    Raises:
        InputError: a setting cannot be used.
    """
    told = shown_drawn_clusters(model, indices, seed, drawn_labels(model, indices, settings))
    if settings.guidance is None:
        return told
    told = copy.copy(told)
    told.denoiser = Guided(told.denoiser, settings.guidance, settings.guidance_interval or EVERYWHERE)
    return told


def label_words(model: Diffusion, settings: SampleSettings) -> str:
    """The labels and the guidance of samples, as the end of a sentence, or ""."""
    names, words = drawn_classes(model, settings), ""
    if names:
        named = ", ".join(names) if len(names) <= MOST_LISTED else f"of {len(names):,} classes"
        words = f", given label{'s' * (len(names) > 1)} {named}"
    if settings.guidance is None:
        return words
    where = ""
    if settings.guidance_interval is not None:
        where = " for γ from {:g} to {:g}".format(*settings.guidance_interval)
    return f"{words}, guidance {settings.guidance:g}{where}: these samples are from no law that is scored"
