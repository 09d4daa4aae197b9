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
        p_value: of a χ² test that samples and images have the same distribution over the classes.
        readable, readable_images: fraction of samples, and of images, with a class probability of at least 0.9.
    """

    counts: list[int]
    p_value: float
    readable: float
    readable_images: float


def measure_quality(samples: Tensor, unseen: Tensor, train: Tensor) -> Quality:
    """All of :class:`Quality`, from features of shapes (n, d), (m, d) and (N, d)."""
    return Quality(
        frechet_distance(samples, unseen),
        kernel_distance(samples, unseen),
        manifold(samples, unseen),
        memorisation(samples, unseen, train),
    )


def measure_modes(samples: Tensor, images: Tensor) -> Modes:
    """All of :class:`Modes`, from class probabilities of shapes (n, K) and (m, K).

    The χ² test is a test of homogeneity, because both sets are samples and have the same classifier.
    """
    classes = samples.shape[1]
    counts, theirs = (torch.bincount(p.argmax(1), minlength=classes) for p in (samples, images))
    seen = (counts + theirs) > 0
    table = torch.stack([counts[seen], theirs[seen]]).numpy()
    from scipy import stats  # a slow import, 0.5 s

    p_value = float(stats.chi2_contingency(table, correction=False).pvalue) if table.shape[1] > 1 else 1.0
    sure = [float((p.max(1).values >= READABLE).double().mean()) for p in (samples, images)]
    return Modes(counts.tolist(), p_value, *sure)


@on_own_cores()
@torch.no_grad()
def in_batches(network: Callable[[Tensor], Tensor], images: Tensor, batch: int = 512) -> Tensor:
    """The output of a network for integer levels of shape (n, C, H, W), on the CPU in float32."""
    return torch.cat([network(part).float().cpu() for part in torch.split(images, batch)])
