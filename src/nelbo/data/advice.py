"""How to convert an array that is not uint8, from its range and dtype."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def advice(values: NDArray[np.generic]) -> str:
    """A sentence that ends with the expression that converts these values to images.

    Args:
        values: an array of any dtype but uint8 and bool; ``x`` in the sentence.

    Returns:
        the array's dtype, and what to save instead.
    """
    kind = f"is {values.dtype}"
    if values.dtype.kind not in "iuf" or values.size == 0:
        return f"{kind}; save numbers from 0 to 255 as uint8"
    low, high = float(np.min(values)), float(np.max(values))
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = "x[numpy.isfinite(x).all(axis=tuple(range(1, x.ndim)))]"
        return f"{kind}; some values are NaN or infinite: leave out such images ({finite}), then convert to uint8"
    return f"{kind}; for its values from {low:g} to {high:g} save {conversion(values, low, high)}"


def conversion(values: NDArray[np.generic], low: float, high: float) -> str:
    """The expression that converts values in [low, high] to 0 … 255, or to bool."""
    if low < 0:
        if values.dtype.kind == "f" and low >= -1 and high <= 1:
            return "((x+1)*127.5).round().astype('uint8')"
        if low == high:
            return "numbers from 0 to 255 as uint8; all values are equal"
        return f"((x.astype(float)-({low!r}))*(255/{high - low!r})).round().astype('uint8'), or undo the scaling"
    if values.dtype.kind == "f" and high <= 1:
        two = high == 1 and bool(np.all((values == 0) | (values == 1)))
        return "x.astype(bool), which has 2 levels" if two else "(x*255).round().astype('uint8')"
    if high <= 255:
        return "x.astype('uint8')" if values.dtype.kind in "iu" else "x.round().astype('uint8')"
    if values.dtype.kind in "iu" and high <= 65535:
        top = 2 ** int(high).bit_length() - 1
        return f"(x*(255/{top})).round().astype('uint8')"
    return f"(x.astype(float)*(255/{high!r})).round().astype('uint8')"
