"""Golden numbers: whether this machine computes a model's laws as the one that encoded.

The parameters of laws are rounded to a grid with a margin of 10⁻¹⁰ (:mod:`nelbo.codec.grid`), and float64 outputs of a
network differ by some 10⁻¹³ between machines. A file keeps some hundred outputs for fixed inputs. If they differ by
more than a part of the margin, a decoder would give wrong images, and nothing is decoded.
"""

from __future__ import annotations

import numpy as np

from nelbo.codec.grid import FINE_MARGIN
from nelbo.codec.stack import Floats
from nelbo.errors import InputError

TOLERANCE = FINE_MARGIN / 10


def require_golden(found: Floats, kept: Floats, where: str) -> None:
    """Check that two machines have the same golden numbers.

    Args:
        found: of this machine.
        kept: of the file.
        where: the file, for the message.

    Raises:
        InputError: they differ by more than 10⁻¹¹, or, where they are larger than 1, by this part of them.
    """
    if found.shape != kept.shape:
        raise InputError(where, f"has {len(kept)} golden numbers, but this model gives {len(found)}; it is damaged")
    worst = float(np.max(np.abs(found - kept) / np.maximum(1.0, np.abs(kept)), initial=0.0))
    if not worst <= TOLERANCE:
        why = f"this machine computes the model's laws otherwise, by {worst:.1g}"
        raise InputError(where, f"cannot be decoded here: {why}; decode it where it was made, or with its torch")
