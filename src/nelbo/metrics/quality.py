"""Comparison of samples with images, in a named and hashed feature space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.cores import on_own_cores
from nelbo.metrics.anomaly import Auroc
from nelbo.metrics.distances import Distance, frechet_distance, kernel_distance
from nelbo.metrics.manifold import Manifold, manifold, memorisation

READABLE = 0.9
"""A sample is readable if the classifier gives a class at least this probability."""


class Quality(NamedTuple):
    """Distances between samples and unseen images in feature space, and whether samples copy training images.

    Attributes:
        fd, kd: Fréchet and kernel distance.
        manifold: precision, recall, density, coverage.
        memorisation: see :func:`~nelbo.metrics.manifold.memorisation`.
    """

    fd: Distance
    kd: Distance
    manifold: Manifold
    memorisation: Auroc


@dataclass(frozen=True)
class Modes:
    """The classes of samples.

    Attributes:
        counts: samples of each class.
        p_value: of a χ² test that samples and images have the same distribution over the classes; of samples of given
            classes, that they have the counts that were asked for.
        readable, readable_images: fraction of samples, and of images, with a class probability of at least 0.9.
        as_asked: fraction of samples that are read as the class that was asked for; None without labels.
    """

    counts: list[int]
    p_value: float
    readable: float
    readable_images: float
    as_asked: float | None = None


def measure_quality(samples: Tensor, unseen: Tensor, train: Tensor) -> Quality:
    """All of :class:`Quality`, from features of shapes (n, d), (m, d) and (N, d)."""
    return Quality(
        frechet_distance(samples, unseen),
        kernel_distance(samples, unseen),
        manifold(samples, unseen),
        memorisation(samples, unseen, train),
    )


def measure_modes(samples: Tensor, images: Tensor, asked: Tensor | None = None) -> Modes:
    """All of :class:`Modes`.

    Without labels the χ² test is a test of homogeneity, because both sets are samples and have the same classifier.

    Args:
        samples: class probabilities, shape (n, K).
        images: the same, shape (m, K).
        asked: the class of each sample that was asked for, from 0, int64, shape (n,).
    """
    classes = samples.shape[1]
    counts, theirs = (torch.bincount(p.argmax(1), minlength=classes) for p in (samples, images))
    if asked is not None:
        theirs = torch.bincount(asked, minlength=classes)
    seen = (counts + theirs) > 0
    readable, readable_images = (float((p.max(1).values >= READABLE).double().mean()) for p in (samples, images))
    right = None if asked is None else float((samples.argmax(1) == asked).double().mean())
    p_value = chi_squared(counts[seen], theirs[seen], fixed=asked is not None)
    return Modes(counts.tolist(), p_value, readable, readable_images, right)


def chi_squared(counts: Tensor, theirs: Tensor, fixed: bool) -> float:
    """p of a χ² test that the counts have the law of ``theirs``, or, if these are fixed, that they are these."""
    from scipy import stats  # a slow import, 0.5 s

    if len(counts) < 2:
        return 1.0
    if not fixed:
        return float(stats.chi2_contingency(torch.stack([counts, theirs]).numpy(), correction=False).pvalue)
    if not bool((theirs > 0).all()):
        return 0.0  # a class that nobody asked for
    return float(stats.chisquare(counts.numpy(), theirs.numpy()).pvalue)


@on_own_cores()
@torch.no_grad()
def in_batches(network: Callable[[Tensor], Tensor], images: Tensor, batch: int = 512) -> Tensor:
    """The output of a network for integer levels of shape (n, C, H, W), on the CPU in float32."""
    return torch.cat([network(part).float().cpu() for part in torch.split(images, batch)])
