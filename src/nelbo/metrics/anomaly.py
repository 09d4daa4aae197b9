"""Distinguish two sets of images by a model's score of each image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Auroc(NamedTuple):
    """P(a random anomaly scores above a random normal image), with ties counted half, and its standard error."""

    value: float
    stderr: float


def auroc(anomalies: Tensor, normal: Tensor) -> Auroc:
    """The area under the ROC curve, with DeLong's standard error (DeLong et al. 1988).

    The placement of a score is the fraction of the other set below it. The area is the mean placement; its variance is
    the sum over both sets of the placements' variance divided by the set's size.

    Args:
        anomalies, normal: scores, higher for more anomalous images, shapes (m,) and (n,), at least 2 each.

    Returns:
        The area, in [0, 1], and its standard error.

    Raises:
        ValueError: a set has fewer than 2 scores.
    """
    if min(len(anomalies), len(normal)) < 2:
        raise ValueError("each set needs at least 2 scores")
    above, below = _placements(anomalies.double(), normal.double()), _placements(normal.double(), anomalies.double())
    variance = above.var() / len(above) + below.var() / len(below)
    return Auroc(float(above.mean()), float(variance.sqrt()))


def _placements(scores: Tensor, others: Tensor) -> Tensor:
    """For each score, the fraction of the others that is lower, with ties counted half."""
    others = others.sort().values
    lower = torch.searchsorted(others, scores.contiguous(), right=False)
    upper = torch.searchsorted(others, scores.contiguous(), right=True)
    return (lower + upper).double() / (2 * len(others))


class ProfileDetector:
    """How unusual a profile over t is: the Mahalanobis distance of its logarithm from reference profiles.

    d²(p) = (ln p − m)ᵀ S⁻¹ (ln p − m), with the mean m and the covariance S of the reference, shrunk (Ledoit & Wolf
    2004). It is high for images that are too easy and for images that are too hard.

    Args:
        reference: nats of each image and piece, positive, shape (n, K), of normal images.
    """

    def __init__(self, reference: Tensor) -> None:
        from sklearn.covariance import LedoitWolf  # a slow import, 0.5 s

        self.law = LedoitWolf().fit(_logarithms(reference))

    def distance(self, profiles: Tensor) -> Tensor:
        """d² of each profile, shape (n,) for profiles of shape (n, K)."""
        return torch.from_numpy(np.asarray(self.law.mahalanobis(_logarithms(profiles))))


def _logarithms(profiles: Tensor) -> np.ndarray:
    """ln of nats, clamped to avoid ln 0."""
    return profiles.double().clamp(min=1e-12).log().cpu().numpy()
