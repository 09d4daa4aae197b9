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
        pixels: terms that are sums over pixels → nats of each pixel, shape (B, C, H, W); of the terms without pixels,
            such as the KL of a latent, it has none.
    """

    terms: Mapping[str, Tensor]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    evaluations: int = 0
    pixels: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_pixels(cls, pixels: Mapping[str, Tensor], terms: Mapping[str, Tensor], evaluations: int) -> Bound:
        """The bound whose terms are the sums over pixels, and further terms.

        Args:
            pixels: name → nats of each pixel, shape (B, C, H, W).
            terms: name → nats of each example, shape (B,).
            evaluations: network evaluations per example.
        """
        sums = {name: each.flatten(1).sum(1) for name, each in pixels.items()}
        return cls({**sums, **terms}, evaluations=evaluations, pixels=pixels)

    @property
    def total(self) -> Tensor:
        """The sum of the terms, shape (B,)."""
        return torch.stack(list(self.terms.values())).sum(0)
