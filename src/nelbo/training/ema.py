"""The moving average of the weights: what is sampled and scored."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nelbo.models.base import GenerativeModel


class EMA:
    """θ̄ ← d θ̄ + (1 − d) θ after every step, with d = min(decay, (1 + step)/(10 + step)).

    The warm-up of d lets the average forget the initial weights; buffers are copied.

    Args:
        model: the model whose weights are averaged.
        decay: the final d.
    """

    def __init__(self, model: GenerativeModel, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step number ``step`` (1, 2, …)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(averages, [p.detach() for p in model.parameters()], 1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
