"""Nats and bits; ln 2 appears only here."""

from __future__ import annotations

import math

LN_2 = math.log(2.0)
BITS_PER_NAT = 1.0 / LN_2


def bits_per_dim(nats: float, dims: int) -> float:
    """Convert nats per example to bits per dimension: nats / (ln 2 · D).

    >>> round(bits_per_dim(784 * math.log(256), 784), 12)
    8.0

    Args:
        nats: a cost or its standard error, in nats per example.
        dims: D ≥ 1, the number of true data dimensions, without padding.

    Returns:
        Bits per dimension.
    """
    return nats / (LN_2 * dims)


def normal_bits(log_std: float) -> float:
    """Bits of N(·, σ²) in bins of width 1: log2(σ √(2πe)), where σ is not small.

    >>> round(normal_bits(math.log(4.0)), 3)
    4.047

    Args:
        log_std: ln σ, in widths of a bin.
    """
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)) / LN_2


def uniform_bits(levels: int) -> float:
    """Bits/dim of the uniform code: log2 of the number of levels.

    >>> uniform_bits(256)
    8.0

    Args:
        levels: L, the number of values a pixel can take.

    Returns:
        Bits per dimension.
    """
    return math.log(levels) / LN_2
