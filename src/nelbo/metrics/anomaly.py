"""Distinguish two sets of images by a model's score of each image, and a threshold for a rate of false alarms."""

from __future__ import annotations

import math
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


class FalseAlarmThreshold(NamedTuple):
    """The k-th largest of n scores of normal images, as the threshold above which an image is reported.

    If these and a new normal image are independent with one continuous law F, then P = 1 − F(threshold), the rate of
    false alarms of this threshold, has the law Beta(k, n − k + 1), whatever F is (David & Nagaraja 2003, section 2.1).
    So a new normal image is above it with probability E P = k/(n + 1). Ties can only lower P.

    Attributes:
        value: the threshold, in the unit of the scores.
        rank: k.
        n: the number of scores.
    """

    value: float
    rank: int
    n: int

    @property
    def expected_rate(self) -> float:
        """E P = k/(n + 1)."""
        return self.rank / (self.n + 1)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The quantiles (1 ± level)/2 of P, between which it lies with probability ``level``."""
        from scipy.special import betaincinv  # a slow import

        tail = (1 - level) / 2
        low, high = (float(betaincinv(self.rank, self.n - self.rank + 1, q)) for q in (tail, 1 - tail))
        return low, high


def rank_of_rate(n: int, rate: float) -> int:
    """k = ⌊rate (n + 1)⌋, the largest k with k/(n + 1) ≤ rate; 0 if n is too small for this rate.

    Args:
        n: the number of scores of normal images.
        rate: the largest probability of a false alarm, in (0, 1).
    """
    return math.floor(rate * (n + 1) + 1e-9)  # 0.07 · 100 is 7.000000000000001, and 0.29 · 100 is 28.999999999999996


def false_alarm_threshold(normal: Tensor, rate: float) -> FalseAlarmThreshold:
    """The lowest of the scores above which a new normal image lies with a probability of at most ``rate``.

    Args:
        normal: scores of normal images, higher for more anomalous ones, shape (n,).
        rate: the largest probability of a false alarm, in (0, 1).

    Raises:
        ValueError: n is below 1/rate − 1.
    """
    n, rank = len(normal), rank_of_rate(len(normal), rate)
    if rank < 1:
        raise ValueError(f"{n} scores are too few for a rate of {rate:g}")
    return FalseAlarmThreshold(float(normal.sort(descending=True).values[rank - 1]), rank, n)


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
