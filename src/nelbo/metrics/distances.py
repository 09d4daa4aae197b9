"""Fréchet and kernel distance between two sets of features.

    FD = ‖μ − ν‖² + tr(S + R − 2 (S R)^{1/2})                                    Heusel et al. 2017
    KD = E k(x, x′) + E k(y, y′) − 2 E k(x, y),   k(x, y) = (x·y/d + 1)³         Bińkowski et al. 2018

The name FID is only for Inception's features. Written by hand because libraries do not give standard errors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Distance(NamedTuple):
    """A distance, and its standard error or None."""

    value: float
    stderr: float | None


def frechet_distance(x: Tensor, y: Tensor) -> Distance:
    """FD between normal distributions with the moments of two sets. It decreases with n; compare only equal n.

    Args:
        x, y: features, shapes (n, d) and (m, d), at least 2 rows each.

    Returns:
        The distance, without a standard error.

    Raises:
        ValueError: a set has fewer than 2 rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError("each set needs at least 2 rows")
    x, y = x.double(), y.double()
    return Distance(frechet_of_moments(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()), None)


def frechet_of_moments(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    """FD between N(μ, S) and N(ν, R), from moments in float64.

    tr (S R)^{1/2} is the sum of the square roots of the eigenvalues of the symmetric S^{1/2} R S^{1/2}.
    """
    values, basis = torch.linalg.eigh(cov_x.reshape(len(mean_x), -1))
    root = basis * values.clamp(min=0).sqrt() @ basis.T
    cross = torch.linalg.eigvalsh(root @ cov_y.reshape(len(mean_y), -1) @ root).clamp(min=0).sqrt().sum()
    traces = cov_x.reshape(len(mean_x), -1).trace() + cov_y.reshape(len(mean_y), -1).trace()
    return float((mean_x - mean_y).square().sum() + traces - 2 * cross)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x·y/d + 1)³ of every pair, shape (n, m)."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def kernel_distance(x: Tensor, y: Tensor) -> Distance:
    """KD, unbiased: its expectation is 0 for equal distributions, so it can be negative.

    Its variance has a part of order 1/n and a part of order 1/n²; for equal distributions the first part is 0. The
    jackknife counts the second part twice (Efron & Stein 1981), so an estimate of it is subtracted.

    Args:
        x, y: features, shapes (n, d) and (m, d), at least 3 rows each.

    Returns:
        The distance and its standard error.

    Raises:
        ValueError: a set has fewer than 3 rows.
    """
    n, m = len(x), len(y)
    if min(n, m) < 3:
        raise ValueError("each set needs at least 3 rows")
    x, y = x.double(), y.double()
    in_x, in_y, across = (kernel(a, b) for a, b in ((x, x), (y, y), (x, y)))
    rows_x, rows_y = in_x.sum(1) - in_x.diagonal(), in_y.sum(1) - in_y.diagonal()
    within_x, within_y = rows_x.sum(), rows_y.sum()
    value = within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across.sum() / (n * m)

    variance = torch.zeros((), dtype=torch.float64)
    for rows, within, pairs, own, other in (
        (rows_x, within_x, across.sum(1), n, m),
        (rows_y, within_y, across.sum(0), m, n),
    ):
        # The distance without each row in turn, up to a constant.
        left = (within - 2 * rows) / ((own - 1) * (own - 2)) - 2 * (across.sum() - pairs) / ((own - 1) * other)
        variance = variance + (own - 1) / own * (left - left.mean()).square().sum()
    second = second_order_variance(in_x, in_y, across)
    # The difference of two estimates can be negative, so it is at least half of the second order. The errors are then
    # within 10% of the standard deviation, and ± 2 errors cover 93% or more, for equal and for different distributions.
    # spread, and 2 of them cover 93% or more, with equal laws and with others.
    return Distance(float(value), float((variance - second).clamp(min=0.5 * second).sqrt()))


def second_order_variance(in_x: Tensor, in_y: Tensor, across: Tensor) -> Tensor:
    """2 E k̃(x, x′)²/(n(n−1)) + 2 E k̃(y, y′)²/(m(m−1)) + 4 E k̃(x, y)²/(nm), with k̃ centred in both arguments.

    Each expectation is estimated without bias, those within one set by Székely & Rizzo 2014 (3.1).

    Args:
        in_x, in_y, across: the kernel of every pair, shapes (n, n), (m, m) and (n, m), n and m at least 3.
    """
    n, m = across.shape
    centred = across - across.mean(0) - across.mean(1, keepdim=True) + across.mean()
    variance = 4 * centred.square().sum() / ((n - 1) * (m - 1) * n * m)
    for own in (in_x, in_y):
        size = len(own)
        pairs = own - own.diagonal().diag()
        rows = pairs.sum(1) / (size - 2)
        centred = pairs - rows - rows[:, None] + pairs.sum() / ((size - 1) * (size - 2))
        of_pairs = centred.square().sum() - centred.diagonal().square().sum()
        # With 3 rows the centred pairs are all 0.
        variance = variance + 2 * of_pairs / (size * max(1, size - 3) * size * (size - 1))
    return variance
