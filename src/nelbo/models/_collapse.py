"""How much samples differ beside images, by pixels, features and classes: samples that collapse do so in one of them.

All ratios are near 1 where samples and images have one law, and 0 where all samples are the same, or of one class.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nelbo.theory.discrete import entropy_discrete

LEFT = 0.25
"""Below this ratio of variance, or of classes, samples are said to have collapsed; of distance, below its root."""

TOO_EARLY = 200
"""The step before which samples differ little because training has only begun."""


def variance_ratio(samples: Tensor, images: Tensor) -> float | None:
    """The mean variance of a pixel over samples, over that of images; None where images do not vary."""
    one, other = (float(x.var(0, correction=0).mean()) for x in (samples, images))
    return one / other if other else None


def distance_ratio(samples: Tensor, images: Tensor) -> float | None:
    """The median distance of two samples, over that of two images; None where that is 0.

    A few samples unlike the rest make up a variance, and no median.
    """
    if min(len(samples), len(images)) < 2:
        return None
    one, other = (float(torch.pdist(x.flatten(1).float()).median()) for x in (samples, images))
    return one / other if other else None


def class_ratio(samples: Tensor, images: Tensor) -> float | None:
    """How many classes there are among samples beyond the first, over the same of images; None where images have one.

    The number of classes is exp(entropy) of their shares.

    Args:
        samples, images: the class of each, integers, shapes (n,) and (m,).
    """
    shares = (torch.bincount(x).double() / len(x) for x in (samples, images))
    one, other = (float(entropy_discrete(each).exp()) - 1 for each in shares)
    return one / other if other > 1e-9 else None


def spread(samples: Tensor, images: Tensor) -> dict[str, object]:
    """Both ratios of pixels, under the names that :func:`collapse_line` reads."""
    return {
        "variance_of_samples_over_images": variance_ratio(samples, images),
        "distance_of_samples_over_images": distance_ratio(samples, images),
    }


def collapse_line(found: Mapping[str, object]) -> str | None:
    """What to say of collapse, by what :func:`spread` finds; None if there is none."""
    signs = (
        ("variance", LEFT, "samples vary {:.2f} times as much as images"),
        ("distance", LEFT**0.5, "two samples lie {:.2f} times as far apart as two images"),
        ("classes", LEFT, "beyond one, samples have {:.2f} times as many classes as images"),
        ("features", LEFT, "samples' features vary {:.2f} times as much as those of images"),
    )
    for name, least, words in signs:
        value = found.get(f"{name}_of_samples_over_images")
        if isinstance(value, float) and value < least:
            return f"mode collapse: {words.format(value)}"
    return None
