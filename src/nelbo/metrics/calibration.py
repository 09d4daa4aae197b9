"""Stated probabilities against the share that is right, and the table of confusions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BINS = 10


class Bin(NamedTuple):
    """The images whose label has a stated probability in (low, high].

    Attributes:
        low, high: the ends of the bin.
        n: the number of images.
        stated: the mean of their stated probabilities.
        right: the share of them whose label is right.
    """

    low: float
    high: float
    n: int
    stated: float
    right: float


def reliability(stated: Tensor, right: Tensor, bins: int = BINS) -> list[Bin]:
    """The reliability table: bins of equal width over (0, 1], without those that have no images.

    Args:
        stated: the stated probability of each image's label, in (0, 1], shape (n,).
        right: whether the label is right, bool, shape (n,).
        bins: the number of bins.
    """
    place = (stated * bins).ceil().long().clamp(1, bins) - 1
    found = []
    for k in sorted(set(place.tolist())):
        mine = place == k
        p, share = float(stated[mine].mean()), float(right[mine].double().mean())
        found.append(Bin(k / bins, (k + 1) / bins, int(mine.sum()), p, share))
    return found


def calibration_error(table: list[Bin]) -> float:
    """Σ_b (n_b/n) |stated_b − right_b|, the expected calibration error (Naeini et al. 2015; Guo et al. 2017 (3)).

    It is positive also for right probabilities, because each bin's share of right labels is a random number.
    """
    return sum(each.n * abs(each.stated - each.right) for each in table) / sum(each.n for each in table)


def confusions(truth: Tensor, label: Tensor, undecided: Tensor, count: int) -> Tensor:
    """The number of images of each class by the label that they have, int64, shape (K, K + 1).

    Args:
        truth, label: indices into the classes, int64, shape (n,).
        undecided: the images in the last column, bool, shape (n,).
        count: K.
    """
    column = label.where(~undecided, count)
    return torch.bincount(truth * (count + 1) + column, minlength=count * (count + 1)).reshape(count, count + 1)
