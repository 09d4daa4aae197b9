"""The training loop, a generator that yields its state after every step.

The order of the data and all noise depend only on (seed, step), so a run that stops at a checkpoint and resumes equals
an uninterrupted run. They are those of the whole batch: several processes, each with a part of it, take the step of a
single process. Only dropout differs between processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.cores import on_own_cores
from nelbo.processes import others_reached
from nelbo.rng import Draws
from nelbo.training.feed import Batch
from nelbo.training.gradients import Part, average_gradients, dropout_seed, exchanging
from nelbo.training.machine import autocast
from nelbo.training.recovery import describe_nonfinite, require_finite, roll_back, run_uncompiled
from nelbo.training.session import Session
from nelbo.training.shards import clip
from nelbo.training.signals import ECHO_SECONDS, caught_signals
from nelbo.training.stopping import agree, stop, write_due_checkpoint


class Step(NamedTuple):
    """The state after one step.

    Attributes:
        step: steps taken since the beginning of the run.
        progress: the progress of the run, in [0, 1].
        loss: the mean over the batch; reading it may wait for the device.
        lr: the learning rate of this step.
        seconds: training time so far, including earlier sessions.
        images: images seen so far.
        milestone: whether it is time for samples and a score of ``val``.
    """

    step: int
    progress: float
    loss: Tensor
    lr: float
    seconds: float
    images: int
    milestone: bool


class Trainer(Session):
    """Trains a model in place, with warm-up and decay, gradient clipping, and an average of the weights."""

    def __iter__(self) -> Iterator[Step]:
        """Train to the end, yielding every step; the caller's work between two steps counts as training time.

        A checkpoint is written every 10 to 45 seconds and at the end. A failed write during training sets ``trouble``
        and is repeated later.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, when the checkpoint has been written.
            FloatingPointError: the loss is repeatedly not finite; see :func:`roll_back`.
            OSError: the last checkpoint cannot be written.
        """
        self.model.train()
        self.saved, self.started = self.clock(), self.clock() - self.seconds
        milestones = self.milestones
        with caught_signals(self.signals, ECHO_SECONDS if self.team.count > 1 else 0.0):
            while self.progress < 1.0:
                try:
                    with others_reached():
                        loss, lr = self.advance()
                    (self.seconds,) = self.team.greatest([self.clock() - self.started])
                    milestone, milestones = self.milestones > milestones, max(self.milestones, milestones)
                    if milestone or self.step % 50 == 0:
                        require_finite(self, loss)
                    images = self.step * self.options.batch_size
                    with self.average_at_hand() if milestone else nullcontext():
                        yield Step(self.step, self.progress, loss, lr, self.seconds, images, milestone)
                    due, signum = agree(self)
                    if due:
                        require_finite(self, loss)
                except FloatingPointError as error:
                    roll_back(self, error)
                    milestones = self.milestones
                    continue
                except self.compiler_errors as error:
                    run_uncompiled(self, error)
                    continue
                if due:
                    signum = write_due_checkpoint(self, signum)
                if signum:
                    stop(self, signum)

    @on_own_cores()
    def advance(self) -> tuple[Tensor, float]:
        """Take one step; returns the mean loss of the whole batch and the learning rate.

        Raises:
            FloatingPointError: the loss or a gradient is not finite; the weights are unchanged then. On a GPU it is
                checked at every tenth step only, because the check waits for the device.
            ProcessLostError: a process has stopped.
        """
        options, device = self.options, self.model.device
        lr = self.learning_rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["times"]
        with dropout_seed(options.seed, self.step, self.team.rank, device):
            losses = [self.backward(batch, part) for batch, part in self.feed.take(self.step).split(self.parts)]
        loss = self.team.mean(torch.cat(losses).sum() * (self.team.count / options.batch_size))
        average_gradients(self.unsharded, self.team)
        norms = [clip(group.parameters, options.clip) for group in self.groups]
        if (device.type == "cpu" or (self.step + 1) % 10 == 0) and not all(map(torch.isfinite, (loss, *norms))):
            raise FloatingPointError(f"{describe_nonfinite(self, losses)} at step {self.step + 1}")
        for optimizer in self.optimizers:
            optimizer.step()
        self.zero_grad()
        self.step += 1
        self.ema.update(self.model, self.step)
        return loss, lr

    def backward(self, batch: Batch, part: Part) -> Tensor:
        """Add the gradients of a part of the batch; returns the loss of each of its images, shape (b,)."""
        options, self.part = self.options, part
        draws = Draws(options.seed, self.step, part.places, options.batch_size, self.model.device, batch.labels)
        with exchanging(self.losses, part is self.parts[-1]):
            with autocast(self.model.device, options.precision):
                losses: Tensor = self.losses(batch.images, draws)
            # The mean of this over the processes is a part of the batch's mean, even for unequal shares.
            mean = losses.mean() * (len(losses) * self.team.count / options.batch_size)
            mean.backward()  # type: ignore[no-untyped-call]
        return losses.detach()
