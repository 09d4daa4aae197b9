"""The loss as one forward pass whose gradients are those of the whole batch, however many processes share it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nelbo.models.base import GenerativeModel
from nelbo.processes import Team
from nelbo.rng import Draws, Stream, integer
from nelbo.training.machine import ACCELERATORS
from nelbo.training.shards import shard


class Losses(nn.Module):
    """A model's loss as a forward pass: the module whose gradients are averaged over processes."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """The loss of each image, shape (B,)."""
        return self.model.loss(x, draws)


def distributed_losses(model: GenerativeModel, team: Team, shard_on: torch.device | None) -> nn.Module:
    """The model's loss, whose gradients are means over the processes of a team.

    Args:
        model: the model.
        team: the processes.
        shard_on: the device on which each process keeps its shard of the weights; None where each keeps all.
    """
    losses = Losses(model)
    if team.count == 1:
        return losses
    if shard_on is not None:
        return shard(losses, team, shard_on)
    # What is trained may differ from step to step; buffers are the same already.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of another name for broadcast_buffers, which older torch lacks
        return DistributedDataParallel(losses, broadcast_buffers=False, find_unused_parameters=True)


class Part(NamedTuple):
    """A part of a batch: ``places``, this process's places in the batch, and ``total``, the images of all processes."""

    places: range
    total: int


def parts_of(size: int, accumulate: int, team: Team) -> list[Part]:
    """The parts of a batch of ``size`` images, consecutive and as even as possible."""
    parts = []
    for k in range(accumulate):
        first, total = size * k // accumulate, size * (k + 1) // accumulate - size * k // accumulate
        share = team.share(total)
        parts.append(Part(range(first + share.start, first + share.stop), total))
    return parts


def places_of(parts: Sequence[Part]) -> Sequence[int]:
    """This process's places in all parts; a range, which needs no copy to a device, if they have no gaps."""
    places = [place for part in parts for place in part.places]
    whole = range(places[0], places[-1] + 1)
    return whole if len(whole) == len(places) else places


def exchanging(losses: nn.Module, last: bool) -> contextlib.AbstractContextManager[object]:
    """Exchange gradients between processes only after the last part of a batch."""
    synchronise = getattr(losses, "set_requires_gradient_sync", None)  # of a sharded module
    if synchronise is not None:
        synchronise(last)
    return losses.no_sync() if isinstance(losses, DistributedDataParallel) and not last else contextlib.nullcontext()


def average_gradients(parameters: Sequence[nn.Parameter], team: Team) -> None:
    """Make the gradients of parameters that are not sharded the mean over the processes."""
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        team.mean(p.grad)


@contextlib.contextmanager
def dropout_seed(seed: int, step: int, rank: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which dropout uses, for one step of one process; restore them afterwards."""
    here = [device] if device.type in ACCELERATORS else []
    with torch.random.fork_rng(here, device_type=device.type if here else "cuda"):
        value = integer(seed, Stream.DROPOUT, step, rank)
        torch.default_generator.manual_seed(value)  # torch.manual_seed takes 0.5 ms, for devices that are not there
        if here:
            torch.get_device_module(device).manual_seed(value)
        yield
