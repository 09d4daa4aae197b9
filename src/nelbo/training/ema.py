"""The moving average of the weights: what is sampled and scored.

By hand, as the averages of torch.optim.swa_utils have no warm-up of the decay.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nelbo.models.base import GenerativeModel
from nelbo.training.shards import distribute_like, gather, to_local


class EMA:
    """θ̄ ← d θ̄ + (1 − d) θ after every step, with d = min(decay, (1 + step)/(10 + step)).

    The warm-up of d lets the average forget the initial weights; buffers are copied.

    Args:
        model: the model whose weights are averaged.
        decay: the final d.
    """

    def __init__(self, model: GenerativeModel, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.averages: list[Tensor] = list(self.model.parameters())
        self.sharded = False
        self.decay = decay

    def split(self, model: nn.Module) -> None:
        """Shard the average as the weights of ``model`` are; :attr:`model` holds it when it is collected."""
        self.sharded = True
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        self.averages = [distribute_like(average.detach(), p) for average, p in pairs]

    @torch.no_grad()
    def collect(self, model: nn.Module, main: bool) -> None:
        """Of shards, every process has to bring its own: the main one's :attr:`model` then holds the average of now."""
        if not self.sharded:
            return
        for target, average in zip(self.model.parameters(), self.averages, strict=True):
            full = gather(average)
            if main:
                target.copy_(full)
        self.copy_buffers(model)

    @contextmanager
    def at_hand(self, model: GenerativeModel, main: bool) -> Iterator[None]:
        """While this is entered, the main process has the average of now in :attr:`model`, on ``model``'s device."""
        self.collect(model, main)
        before = self.model.device
        if main:
            self.model.to(model.device)
        try:
            yield
        finally:
            self.model.to(before)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step number ``step`` (1, 2, …)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [to_local(average) for average in self.averages]
        torch._foreach_lerp_(averages, [to_local(p.detach()) for p in model.parameters()], 1 - decay)
        if not self.sharded:
            self.copy_buffers(model)

    def copy_buffers(self, model: nn.Module) -> None:
        """Buffers are those of the model."""
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
