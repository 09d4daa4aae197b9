"""Parameters of laws as whole numbers, the same on every machine.

Encoder and decoder must have the same law to the last bit, but a network's float64 outputs differ by some 1e-13 between
numbers of threads, instruction sets and versions. So each output and each parameter is rounded to a grid:

    n = ⌊v/step + ½ + s⌋,     v ≈ (n − s) step,     s = 0.0371 + salt/16

The encoder takes the first salt with which no value is nearer than a margin to an edge of its cell, and pushes it. A
decoder whose values differ by less than the margin therefore has the same n. It is salt 0 nearly always, which costs
0.015 bits of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.stack import Floats, Ints, Stack

SALTS = 16
SHIFT = 0.0371
"""s of salt 0, so that values that are on a grid themselves, such as halves, are not on an edge."""
STEP = 2.0**-10
"""The grid of a law's parameters, in widths of its bins."""
FINE = 2.0**-12
"""The grid of a network's outputs."""
MARGIN = 1e-10
"""The distance of a parameter from an edge."""
FINE_MARGIN = 2e-11
"""The distance of a network's output from an edge."""
COMMON = (0.99, 0.008)
"""The probabilities of salts 0 and 1; the others share the rest."""
Law = TypeVar("Law")


class NoSaltError(ValueError):
    """With every salt a value is next to an edge."""


class Rounding:
    """Rounding with one salt.

    Args:
        salt: 0 … 15.

    Attributes:
        safe: whether all values so far were at least a margin from an edge.
    """

    def __init__(self, salt: int) -> None:
        self.shift, self.safe = SHIFT + salt / SALTS, True

    def cells(self, values: Floats, step: float = STEP, margin: float = MARGIN) -> Ints:
        """n of each value, int64.

        Args:
            values: v, finite, below 2⁵² step.
            step: the width of a cell, a power of two.
            margin: in the units of the values.
        """
        raised = values * (1 / step) + (0.5 + self.shift)
        cells = np.floor(raised)
        inside = raised - cells
        inside -= 0.5
        self.safe &= bool(np.abs(inside, out=inside).max(initial=0.0) < 0.5 - margin / step)
        return cells.astype(np.int64)

    def floats(self, values: Floats, step: float = STEP, margin: float = MARGIN) -> Floats:
        """The rounded values (n − s) step."""
        return np.asarray((self.cells(values, step, margin) - self.shift) * step, dtype=np.float64)

    def output(self, values: Tensor) -> Tensor:
        """A network's rounded output, float64."""
        return torch.from_numpy(self.floats(values.numpy(), FINE, FINE_MARGIN))


def salted(law: Callable[[Rounding], Law]) -> tuple[Law, int]:
    """The law with the first salt that is safe, and the salt.

    Args:
        law: makes the law with this rounding.

    Raises:
        NoSaltError: no salt is safe; it does not happen by chance.
    """
    for salt in range(SALTS):
        rounding = Rounding(salt)
        found = law(rounding)
        if rounding.safe:
            return found, salt
    raise NoSaltError("with every salt a parameter is next to an edge of its grid")


OTHERS = (1 - sum(COMMON)) / (SALTS - len(COMMON))
SALT_WEIGHTS = np.rint(np.array([[*COMMON, *[OTHERS] * (SALTS - len(COMMON))]]) * 2**20)


def push_salt(stack: Stack, salt: int) -> None:
    """Push a salt; 0 costs 0.015 bits, 1 costs 7."""
    stack.push_by_table(np.array([salt]), SALT_WEIGHTS)


def pop_salt(stack: Stack) -> Rounding:
    """The rounding with the salt of :func:`push_salt`."""
    return Rounding(int(stack.pop_by_table(SALT_WEIGHTS)[0]))
