"""Telling two sets of images apart by what a model says of each image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Auroc(NamedTuple):
    """P(a random anomaly scores above a random normal image), ties counting half; ± its standard error."""

    value: float
    stderr: float


def auroc(anomalies: Tensor, normal: Tensor) -> Auroc:
    """The area under the ROC curve, with DeLong's standard error (DeLong et al. 1988).

    Each score has a placement: the share of the other set that it beats. The area is their mean, and its variance the
    variance of each set's placements over its size, added.

    Args:
        anomalies, normal: scores, higher for what looks more anomalous, shapes (m,) and (n,), at least 2 each.

    Raises:
        ValueError: fewer than 2 scores in a set.
    """
    if min(len(anomalies), len(normal)) < 2:
        raise ValueError("each set needs at least 2 scores")
    above, below = _placements(anomalies.double(), normal.double()), _placements(normal.double(), anomalies.double())
    variance = above.var() / len(above) + below.var() / len(below)
    return Auroc(float(above.mean()), float(variance.sqrt()))


def _placements(scores: Tensor, others: Tensor) -> Tensor:
    """For each score, the share of the others that is lower, ties counting half."""
    others = others.sort().values
    lower = torch.searchsorted(others, scores.contiguous(), right=False)
    upper = torch.searchsorted(others, scores.contiguous(), right=True)
    return (lower + upper).double() / (2 * len(others))


class ProfileDetector:
    """How unusual a profile over t is: the Mahalanobis distance of its logarithm from reference profiles.

    d²(p) = (ln p − m)ᵀ S⁻¹ (ln p − m), with the mean m and the covariance S of the reference, shrunk (Ledoit & Wolf
    2004). It is high for images that are too easy as for those that are too hard.

    Args:
        reference: nats of each image and piece, positive, shape (n, K), of images that are known to be normal.
    """

    def __init__(self, reference: Tensor) -> None:
        from sklearn.covariance import LedoitWolf  # half a second that only this pays

        self.law = LedoitWolf().fit(_logarithms(reference))

    def distance(self, profiles: Tensor) -> Tensor:
        """d² of each profile, shape (n,) for (n, K)."""
        return torch.from_numpy(np.asarray(self.law.mahalanobis(_logarithms(profiles))))


def _logarithms(profiles: Tensor) -> np.ndarray:
    """ln of nats, held above the smallest float."""
    return profiles.double().clamp(min=1e-12).log().cpu().numpy()
