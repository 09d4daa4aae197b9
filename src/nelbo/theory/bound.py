"""A bound: the negative ELBO of each example, as the sum of named terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

SOLVER = "solver"
"""An extra of a bound: what another tolerance of a solver changes in each image's total, in nats."""


@dataclass(frozen=True)
class Bound:
    """The negative ELBO in nats, per example: a cost, −ln p(x) ≤ total.

    Args:
        terms: name → nats of each example, shape (B,).
        extras: name → nats of what is told with the terms and is no part of their sum, shape (B,).
        evaluations: network evaluations per example that it took.
    """

    terms: Mapping[str, Tensor]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    evaluations: int = 0

    @property
    def total(self) -> Tensor:
        """The sum of the terms, shape (B,)."""
        return torch.stack(list(self.terms.values())).sum(0)
