"""Overlap of two sets by nearest neighbours in feature space.

With B_k(y) the ball around y with the distance to its k-th neighbour in its own set as radius,

| precision | fraction of samples inside some B_k(image)                               | Kynkäänniemi et al. 2019, k = 3
| recall    | fraction of images inside some B_k(sample)                               | the same
| density   | (1/k) mean over samples of the number of B_k(image) that contain the sample | Naeem et al. 2020, k = 5
| coverage  | fraction of images whose B_k contains a sample                           | the same
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.metrics.anomaly import Auroc, auroc

CHUNK = 1024


class Manifold(NamedTuple):
    """precision and recall at k = 3, density and coverage at k = 5."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(samples: Tensor, images: Tensor) -> Manifold:
    """All four measures, from features of shapes (n, d) and (m, d).

    Raises:
        ValueError: a set has fewer than 6 rows.
    """
    if min(len(samples), len(images)) < 6:
        raise ValueError("each set needs at least 6 rows")
    samples, images = samples.double(), images.double()
    radius_3, radius_5 = radii(images, 3), radii(images, 5)
    own_radius = radii(samples, 3)
    inside, recalled, counts = [], torch.zeros(len(images), dtype=torch.bool), []
    covered = torch.zeros(len(images), dtype=torch.bool)
    for first in range(0, len(samples), CHUNK):
        some = slice(first, first + CHUNK)
        distance = torch.cdist(samples[some], images)
        inside.append((distance <= radius_3).any(1))
        counts.append((distance <= radius_5).sum(1))
        recalled |= (distance <= own_radius[some, None]).any(0)
        covered |= (distance <= radius_5).any(0)
    return Manifold(
        precision=float(torch.cat(inside).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(torch.cat(counts).double().mean()) / 5,
        coverage=float(covered.double().mean()),
    )


def radii(points: Tensor, k: int) -> Tensor:
    """The distance of each point to its k-th nearest neighbour, shape (n,)."""
    parts = [torch.cdist(some, points).kthvalue(k + 1, dim=1).values for some in torch.split(points, CHUNK)]
    return torch.cat(parts)


def nearest(points: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of each point to the nearest of the others, and its index, shapes (n,)."""
    found = [torch.cdist(some, among).min(1) for some in torch.split(points, CHUNK)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def memorisation(samples: Tensor, unseen: Tensor, train: Tensor) -> Auroc:
    """P(an unseen image is farther from the training images than a sample), by nearest neighbours (Meehan et al. 2020).

    It is ½ if samples are as far from them as unseen images, and near 1 if samples are copies.

    Args:
        samples, unseen, train: features, shapes (n, d), (m, d) and (N, d).
    """
    return auroc(nearest(unseen, train)[0], nearest(samples, train)[0])
