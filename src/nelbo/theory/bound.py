"""The negative ELBO of each example, as a sum of named terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

SOLVER = "solver"
"""Name of an extra: how much each image's total changes with another solver tolerance, in nats."""


@dataclass(frozen=True)
class Bound:
    """The negative ELBO in nats, per example: −ln p(x) ≤ total.

    Args:
        terms: name → nats of each example, shape (B,).
        extras: name → reported numbers that are not in the sum, nats of each example, shape (B,).
        evaluations: network evaluations per example.
    """

    terms: Mapping[str, Tensor]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    evaluations: int = 0

    @property
    def total(self) -> Tensor:
        """The sum of the terms, shape (B,)."""
        return torch.stack(list(self.terms.values())).sum(0)
