"""Golden numbers: whether a machine computes a model's laws as the one that encoded.

The outputs of a network are rounded to a grid with a margin of 2·10⁻¹¹ (:mod:`nelbo.codec.grid`), and differ by some
10⁻¹³ between machines. A file keeps about a hundred of them for fixed inputs: a machine that computes otherwise does so
in every pixel. If they differ by more than a part of the margin, a decoder could give wrong images, and nothing is
decoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from nelbo.codec.grid import FINE_MARGIN
from nelbo.codec.stack import Floats

TOLERANCE = FINE_MARGIN / 10
"""The largest difference of golden numbers with which a file is decoded."""


NUMBERS, LEAST = 96, 8
"""Golden numbers in all, and the least of each output."""


def numbers_of(outputs: Sequence[Tensor]) -> Floats:
    """Golden numbers from outputs: of each the same number of elements, evenly spaced."""
    count = max(LEAST, NUMBERS // len(outputs))
    flat = [output.reshape(-1).numpy() for output in outputs]
    return np.concatenate([each[:: max(1, len(each) // count)][:count] for each in flat])


def difference(found: Floats, kept: Floats) -> float:
    """The largest difference of golden numbers, relative where they are larger than 1; ∞ for other numbers of them.

    Args:
        found: of this machine.
        kept: of the machine that encoded.
    """
    if found.shape != kept.shape or not np.isfinite(kept).all():
        return math.inf
    return float(np.max(np.abs(found - kept) / np.maximum(1.0, np.abs(kept)), initial=0.0))
