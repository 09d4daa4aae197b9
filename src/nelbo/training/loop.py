"""The training loop, a generator that yields its state after every step.

The order of the data and all noise are functions of (seed, step), so that a run that stops at a checkpoint and goes on
is the run that never stopped. They are also those of the whole batch: several processes, each with its share of it,
take the step that one would. Dropout alone is each process's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.processes import others_reached
from nelbo.rng import Draws
from nelbo.training.gradients import average_gradients, dropout_seed
from nelbo.training.machine import autocast
from nelbo.training.recovery import describe_nonfinite, require_finite, roll_back, run_uncompiled
from nelbo.training.session import Session
from nelbo.training.shards import clip
from nelbo.training.signals import ECHO_SECONDS, caught_signals
from nelbo.training.stopping import agree, stop, write_due_checkpoint


class Step(NamedTuple):
    """The state after one step.

    Attributes:
        step: how many steps have been taken, from the beginning of the run.
        progress: how much of the run is done, in [0, 1].
        loss: mean over the batch; reading it may wait for the device.
        lr: the learning rate of this step.
        seconds: of training so far, earlier sessions included.
        images: images seen so far.
        milestone: whether it is time to look at samples and at ``val``.
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
        """Train to the end, yielding every step; what the caller does between two steps counts as training time.

        A checkpoint is written every 10 to 45 seconds and at the end. One that cannot be written on the way is
        ``trouble``, and is tried again.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, when the checkpoint has been written.
            FloatingPointError: the loss is not finite, again and again; see :func:`roll_back`.
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

    def advance(self) -> tuple[Tensor, float]:
        """Take one step; returns the mean loss of the whole batch and the learning rate.

        Raises:
            FloatingPointError: the loss or a gradient is not finite; no step has been taken then. A GPU is asked at
                every tenth step only, as the answer has to be waited for.
            ProcessLostError: a process has stopped.
        """
        options, device, size = self.options, self.model.device, self.options.batch_size
        draws = Draws(options.seed, self.step, self.share, size, device)
        lr = self.learning_rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["times"]
        with dropout_seed(options.seed, self.step, self.team.rank, device), autocast(device, options.precision):
            losses = self.losses(self.batch(), draws)
            # The mean of this over the processes is the mean over the batch, even if their shares are not.
            loss = losses.mean() * (len(losses) * self.team.count / size)
        loss.backward()
        loss = self.team.mean(loss.detach())
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
