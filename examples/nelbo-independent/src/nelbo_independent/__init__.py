"""Independent pixels: p(x) = ∏_d p_d(x_d), with a distribution over the levels for each data dimension d.

The likelihood is exact. The optimal cost is the sum of the pixels' entropies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from nelbo.models.base import LikelihoodModel
from nelbo.models.forms import Estimator, Forms
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.options import FamilyOptions
from nelbo.rng import Draws, Stream, uniform
from nelbo.theory.bound import Bound
from nelbo.theory.likelihoods import to_unit


class IndependentOptions(FamilyOptions):
    """The settings of the family."""

    smoothing: Annotated[float, Field(ge=0)] = 1e-3
    "Weight of the squared logits in the loss; it keeps ln p of unseen levels finite."


class Independent(LikelihoodModel):
    """A table of logits, shape (C, H, W, L)."""

    family = "independent"

    def __init__(self, options: IndependentOptions, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape, levels)
        self.options = options
        self.logits = nn.Parameter(torch.zeros(*shape, levels))

    def _nll(self, x: Tensor) -> Tensor:
        """−ln p(x) of integer levels, shape (B, C, H, W), in nats, shape (B,)."""
        log_p = self.logits.log_softmax(-1).expand(len(x), *self.logits.shape)
        return -log_p.gather(-1, x.long()[..., None]).flatten(1).sum(1)

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        return self._nll(x) / self.dims + self.options.smoothing * self.logits.square().mean()

    @property
    def forms(self) -> Forms:
        return Forms(self.family, {"exact": Estimator(self._exact, counts=None)})

    def _exact(self, x: Tensor, draws: Draws, count: int) -> Bound:
        return Bound({"reconstruction": self._nll(x)}, evaluations=1)

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        u = uniform(seed, Stream.SAMPLE, 0, indices, self.shape).to(self.logits)
        below = self.logits.softmax(-1).cumsum(-1) < u[..., None]
        x = to_unit(below.sum(-1).clamp(max=self.levels - 1), self.levels)
        yield Frame(1, 1, x, x)


OPTIONS, MODEL = IndependentOptions, Independent
