"""Nats and bits: the only place where ln 2 stands."""

from __future__ import annotations

import math

LN_2 = math.log(2.0)
BITS_PER_NAT = 1.0 / LN_2


def bits_per_dim(nats: float, dims: int) -> float:
    """Turn nats per example into bits per dimension: nats / (ln 2 · D).

    >>> round(bits_per_dim(784 * math.log(256), 784), 12)
    8.0

    Args:
        nats: a cost or its standard error, in nats per example.
        dims: D, the number of true data dimensions (padding is none), D ≥ 1.
    """
    return nats / (LN_2 * dims)


def uniform_bits(levels: int) -> float:
    """Bits/dim of the code that knows nothing: log2 of the number of levels.

    >>> uniform_bits(256)
    8.0
    """
    return math.log(levels) / LN_2
