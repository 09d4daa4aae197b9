"""How much samples vary compared with images, by pixels, features and classes, to detect mode collapse.

Each ratio is near 1 if samples and images have the same distribution, and 0 if all samples are equal, or of one class.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nelbo.theory.discrete import entropy_discrete

LEFT = 0.25
"""Samples have collapsed if a ratio of variance or classes is below this, or one of distances below its root."""

TOO_EARLY = 200
"""Before this step samples vary little because training has just begun."""


def variance_ratio(samples: Tensor, images: Tensor) -> float | None:
    """The mean variance of a pixel over samples, divided by that over images; None if images do not vary."""
    one, other = (float(x.var(0, correction=0).mean()) for x in (samples, images))
    return one / other if other else None


def distance_ratio(samples: Tensor, images: Tensor) -> float | None:
    """The median distance between two samples, divided by that between two images; None if the latter is 0.

    A few outliers can raise a variance, but not a median.
    """
    if min(len(samples), len(images)) < 2:
        return None
    one, other = (float(torch.pdist(x.flatten(1).float()).median()) for x in (samples, images))
    return one / other if other else None


def class_ratio(samples: Tensor, images: Tensor) -> float | None:
    """(number of classes − 1) of samples, divided by that of images; None if images have one class.

    The number of classes is exp(entropy) of the class frequencies.

    Args:
        samples, images: the class of each, integers, shapes (n,) and (m,).
    """
    shares = (torch.bincount(x).double() / len(x) for x in (samples, images))
    one, other = (float(entropy_discrete(each).exp()) - 1 for each in shares)
    return one / other if other > 1e-9 else None


def spread(samples: Tensor, images: Tensor) -> dict[str, object]:
    """Both ratios of pixels, under the names that :func:`collapse_line` uses."""
    return {
        "variance_of_samples_over_images": variance_ratio(samples, images),
        "distance_of_samples_over_images": distance_ratio(samples, images),
    }


def collapse_line(found: Mapping[str, object]) -> str | None:
    """A line about collapse, from the ratios of :func:`spread`; None without collapse."""
    signs = (
        ("variance", LEFT, "samples vary {:.2f} times as much as images"),
        ("distance", LEFT**0.5, "two samples are {:.2f} times as far apart as two images"),
        ("classes", LEFT, "beyond the first, samples have {:.2f} times as many classes as images"),
        ("features", LEFT, "samples' features vary {:.2f} times as much as those of images"),
    )
    for name, least, words in signs:
        value = found.get(f"{name}_of_samples_over_images")
        if isinstance(value, float) and value < least:
            return f"mode collapse: {words.format(value)}"
    return None
