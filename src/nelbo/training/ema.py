"""The exponential moving average of the weights, which is sampled and scored.

Written by hand because the averages of torch.optim.swa_utils have no warm-up of the decay.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nelbo.models.base import GenerativeModel
from nelbo.training.shards import distribute_like, gather, to_local


class EMA:
    """θ̄ ← d θ̄ + (1 − d) θ after every step, with d = min(decay, (1 + step)/(10 + step)).

    The warm-up of d lets the average forget the initial weights. Buffers are copied.

    Args:
        model: the model to average.
        decay: the final d.
    """

    def __init__(self, model: GenerativeModel, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.averages: list[Tensor] = list(self.model.parameters())
        self.sharded = False
        self.decay = decay

    def split(self, model: nn.Module, whole: Mapping[str, Tensor] | None = None) -> None:
        """Shard the average like the weights of ``model``; :meth:`collect` writes it to :attr:`model`.

        Args:
            model: the sharded model.
            whole: name → average, the same on every process; None at the start, where the average is the weights.
        """
        self.sharded = True
        self.averages = [
            p.detach().clone() if whole is None else distribute_like(whole[name], p)
            for name, p in model.named_parameters()
        ]

    @torch.no_grad()
    def collect(self, model: nn.Module, main: bool) -> None:
        """Gather a sharded average in the main process's :attr:`model`; every process must call this."""
        if not self.sharded:
            return
        for target, average in zip(self.model.parameters(), self.averages, strict=True):
            full = gather(average)
            if main:
                target.copy_(full)
        self.copy_buffers(model)

    @contextmanager
    def at_hand(self, model: GenerativeModel, main: bool) -> Iterator[None]:
        """A context in which the main process's :attr:`model` has the current average, on ``model``'s device."""
        self.collect(model, main)
        before = self.model.device
        if main:
            self.model.to(model.device)
        try:
            yield
        finally:
            if main:
                self.model.to(before)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with the weights after step number ``step`` (1, 2, …)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [to_local(average) for average in self.averages]
        torch._foreach_lerp_(averages, [to_local(p.detach()) for p in model.parameters()], 1 - decay)
        if not self.sharded:
            self.copy_buffers(model)

    def copy_buffers(self, model: nn.Module) -> None:
        """Copy the buffers of the model."""
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
