"""The training loop, a generator that yields its state after every step.

The order of the data and all noise are functions of (seed, step), so that a run that stops at a checkpoint and goes on
is the run that never stopped. They are also those of the whole batch: several processes, each with its share of it,
take the step that one would. Dropout alone is each process's own.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nelbo.data.binarize import drawn
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.options import TrainingOptions
from nelbo.processes import ALONE, Team, others_reached
from nelbo.rng import Draws, Stream, permutation
from nelbo.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    read_checkpoint,
    shared,
    step_of,
    write_checkpoint,
)
from nelbo.training.compiling import compile_networks, give_up
from nelbo.training.ema import EMA
from nelbo.training.machine import autocast, pick_device
from nelbo.training.optimizers import optimizers_of
from nelbo.training.recipe import learning_rate, progress_at
from nelbo.training.shards import clip, everywhere, own, shard
from nelbo.training.signals import ECHO_SECONDS, Interrupted, Signals, caught_signals
from nelbo.training.state import State

CHECKPOINT_SECONDS, SOONEST, CHECKPOINT_SHARE = 45.0, 10.0, 0.02
"""The longest and the shortest time between two checkpoints; between these, writing takes this share of the time."""
MILESTONES = 6
MOST_ROLLBACKS = 5
"""How often a run goes back to its last checkpoint, each time with half of the learning rate, before it gives up."""


class Step(NamedTuple):
    """The state after one step.

    Attributes:
        step: how many steps have been taken, from the beginning of the run.
        progress: how much of the run is done, in [0, 1].
        loss: mean over the batch; read it only when it is wanted, it may wait for the device.
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


class Losses(nn.Module):
    """A model's loss as a forward pass: what is called where gradients are to be averaged over processes."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """The loss of each image, shape (B,)."""
        return self.model.loss(x, draws)


class Trainer:
    """Trains a model in place, with warm-up and decay, gradient clipping, and an average of the weights.

    Args:
        model: the model, on its device; where its weights are to be in shares, on any.
        images: the training images: integer levels, uint8, shape (N, C, H, W); never copied.
        grey_levels: if they are to be binarised, each batch anew, how many levels they have.
        options: the recipe; one of ``minutes`` and ``steps`` is set.
        run: the run directory, for checkpoints.
        team: the processes that share each batch; all begin with the main one's weights, and it alone keeps them.
        settings: what the weights depend on, kept in every checkpoint.
        clock: seconds from any moment on.

    Attributes:
        signals: the signal that asks to stop, once it has come.
        after: seconds that whoever looks on needs after the last step; a run by the clock ends so much earlier.
        trouble: why the last checkpoint could not be written, or None.
        falls: how often the run went back, each time to half of the learning rate.
        news: what a user should be told, oldest first; whoever tells it takes it out.
    """

    def __init__(
        self,
        model: GenerativeModel,
        images: Tensor,
        options: TrainingOptions,
        run: Path,
        grey_levels: int | None = None,
        team: Team = ALONE,
        settings: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.images, self.options, self.run_folder = model, images, options, run
        self.settings = dict(settings or {})
        self.grey_levels, self.team = grey_levels, team
        self.mine = team.share(options.batch_size)
        model.gather_batch = lambda rows: team.together(rows, options.batch_size)
        team.same(model.state_dict().values())
        self.ema = EMA(model, options.ema)
        self.shares = options.shard and team.count > 1
        self.compiler_errors = compile_networks(model, options, model.device, team.count == 1)
        self.everywhere = everywhere(model) if self.shares else []
        with others_reached():
            self.losses = losses_of(model, team, pick_device(options.device) if self.shares else None)
        if self.shares:
            self.ema.split(model)
        self.parts = model.recipe.groups
        self.optimizers = optimizers_of(self.parts, options, model.device)
        self.held = State(model, self.ema, self.optimizers, team if self.shares else ALONE)
        self.step = 0
        self.seconds = 0.0
        self.trouble: str | None = None
        self.clock, self.signals = clock, Signals()
        self.writing = self.after = self.reserve = 0.0
        self.given_up = False
        self.rollbacks = 0
        self.news: list[str] = []

    # What is drawn and when

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1]."""
        return progress_at(self.options, self.step, self.seconds, self.reserve)

    def learning_rate(self) -> float:
        """That of the next step."""
        return learning_rate(self.options, self.step, self.progress, self.rollbacks)

    def rows(self) -> np.ndarray:
        """Which images are next: one permutation of the data after another, cut into batches."""
        n, size = len(self.images), self.options.batch_size
        places = self.step * size + np.arange(size)
        rows = np.empty(size, dtype=np.int64)
        for epoch in range(places[0] // n, places[-1] // n + 1):
            inside = places // n == epoch
            rows[inside] = self.order(epoch)[places[inside] % n]
        return rows

    def batch(self, places: Sequence[int] | None = None) -> Tensor:
        """The next images in these places of the batch (in this process's share of it), on the model's device."""
        places = self.mine if places is None else places
        images = self.images[torch.from_numpy(self.rows()[list(places)])]
        if self.grey_levels is not None:
            images = drawn(images, self.grey_levels, self.options.seed, Stream.BINARIZE, self.step, places)
        return images.to(self.model.device)

    def order(self, epoch: int) -> np.ndarray:
        """The order of the data in one epoch; the last one asked for is kept."""
        if getattr(self, "_order", (None, None))[0] != epoch:
            self._order = (epoch, permutation(self.options.seed, epoch, len(self.images)))
        return self._order[1]

    # One step

    def advance(self) -> tuple[Tensor, float]:
        """Take one step; returns the mean loss of the whole batch and the learning rate.

        Raises:
            FloatingPointError: the loss or a gradient is not finite; no step has been taken then. A GPU is asked at
                every tenth step only, as the answer has to be waited for.
            ProcessLostError: a process has stopped.
        """
        options, size = self.options, self.options.batch_size
        draws = Draws(options.seed, self.step, self.mine, size, self.model.device)
        lr = self.learning_rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["times"]
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            number = options.seed * 1_000_003 + self.step + 7_919 * 2**32 * self.team.rank
            torch.manual_seed(number % 2**63)  # dropout's only source
            with autocast(device, options.precision):
                losses = self.losses(self.batch(), draws)
                # The mean of this over the processes is the mean over the batch, even if their shares are not.
                loss = losses.mean() * (len(losses) * self.team.count / size)
        loss.backward()
        loss = self.team.mean(loss.detach())
        for p in self.everywhere:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            self.team.mean(p.grad)
        norms = [clip(part.parameters, options.clip) for part in self.parts]
        if (device.type == "cpu" or (self.step + 1) % 10 == 0) and not all(map(torch.isfinite, (loss, *norms))):
            losses = self.team.together(losses.detach(), size)
            raise FloatingPointError(f"{self.what_is_wrong(losses)} at step {self.step + 1}")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.model, self.step)
        return loss, lr

    def __iter__(self) -> Iterator[Step]:
        """Train to the end, yielding every step; what the caller does between two steps counts as training time.

        A checkpoint is written every 10 to 45 seconds and at the end. One that cannot be written on the way is
        ``trouble``, and is tried again.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, when the checkpoint has been written.
            FloatingPointError: the loss is not finite, again and again; see :meth:`fall_back`.
            OSError: the last checkpoint cannot be written.
        """
        self.model.train()
        saved, started = self.clock(), self.clock() - self.seconds
        passed = math.floor(self.progress * MILESTONES)
        with caught_signals(self.signals, ECHO_SECONDS if self.team.count > 1 else 0.0):
            while self.progress < 1.0:
                try:
                    with others_reached():
                        loss, lr = self.advance()
                    # Clocks and signals are each process's own, and all must do the same.
                    (self.seconds,) = self.team.greatest([self.clock() - started])
                    reached = math.floor(self.progress * MILESTONES)
                    milestone, passed = reached > passed, max(reached, passed)
                    if milestone or self.step % 50 == 0:
                        self.require_finite(loss)
                    images = self.step * self.options.batch_size
                    with self.average_at_hand() if milestone else nullcontext():
                        yield Step(self.step, self.progress, loss, lr, self.seconds, images, milestone)
                    due, signum = self.agreed(started, saved)
                    if due:
                        self.require_finite(loss)
                except FloatingPointError as error:
                    self.fall_back(error)
                    passed = math.floor(self.progress * MILESTONES)
                    continue
                except self.compiler_errors as error:
                    self.go_uncompiled(error)
                    continue
                if due:
                    began = self.clock()
                    self.keep(must=bool(signum) or self.progress >= 1.0)
                    saved = self.clock()
                    self.writing = saved - began
                    signum = self.asked_to_stop()
                if signum:
                    self.stop(signum)

    def agreed(self, started: float, saved: float) -> tuple[bool, int]:
        """Whether all processes are to keep what they have now, and the signal that one of them was sent, or 0.

        Args:
            started: when training would have begun, had it never stopped, by this process's clock.
            saved: when the last checkpoint was written.
        """
        now = self.clock()
        late = now - saved - min(CHECKPOINT_SECONDS, max(SOONEST, self.writing / CHECKPOINT_SHARE))
        of_main = [late, self.after + self.writing] if self.team.main else [0.0, 0.0]
        found = self.team.greatest([now - started, self.signals.signum, *of_main])
        self.seconds, signum, late, self.reserve = found
        if self.options.minutes is not None and self.progress >= 1.0:
            self.seconds = max(self.seconds, 60.0 * self.options.minutes)  # what was reserved is spent: the run is done
        return bool(signum or late > 0 or self.progress >= 1.0), int(signum)

    def asked_to_stop(self) -> int:
        """The signal that one of the processes was sent, also while a checkpoint was written, or 0.

        Where that checkpoint could not be written, it is tried again, as it must be there now.

        Raises:
            OSError: it still cannot.
        """
        signum, trouble = self.team.greatest([self.signals.signum, self.trouble is not None])
        if signum and trouble:
            self.keep(must=True)
        return int(signum)

    def stop(self, signum: int) -> None:
        """End training, when all that can be kept is.

        Raises:
            Interrupted: always.
        """
        self.team.greatest([0.0])  # launchers end the main one, which keeps, when the others have ended
        if not self.given_up:
            raise Interrupted(signum, self.step)
        folder = latest_checkpoint(self.run_folder)
        raise Interrupted(signum, None if folder is None else step_of(folder), self.step)

    @contextmanager
    def average_at_hand(self) -> Iterator[None]:
        """While this is entered, the main process has the average of now in ``ema.model``."""
        with ExitStack() as stack:
            with others_reached():
                stack.enter_context(self.ema.at_hand(self.model, self.team.main))
            yield

    # What is not finite

    def what_is_wrong(self, losses: Tensor) -> str:
        """Which images, and of a bound which terms, are not finite; the batch's gradient if all are."""
        wrong = (~losses.isfinite()).nonzero()[:, 0].cpu()
        if not len(wrong):
            return "a gradient is not finite"
        named = ", ".join(map(str, sorted(self.rows()[wrong.numpy()].tolist())[:5])) + ", …" * (len(wrong) > 5)
        return f"the loss of training images {named} is not finite{self.wrong_terms(self.batch(wrong.tolist()))}"

    @torch.no_grad()
    def wrong_terms(self, x: Tensor) -> str:
        """The names of the bound's terms that are not finite on these images, in brackets."""
        if self.shares or not isinstance(self.model, LikelihoodModel):
            return ""
        terms = self.model.bound(x).terms.items()
        names = ", ".join(name for name, value in terms if not bool(value.isfinite().all()))
        return f" ({names})" if names else ""

    def fall_back(self, error: FloatingPointError) -> None:
        """Go back to the last checkpoint, with half of the learning rate.

        Raises:
            FloatingPointError: there is none yet, or it has been done too often.
        """
        folder = latest_checkpoint(self.run_folder) if self.team.main else None
        checkpoint = shared(self.team, None if folder is None else lambda: read_checkpoint(folder))
        if checkpoint is None or self.rollbacks >= MOST_ROLLBACKS:
            often = f", after going back {self.rollbacks} times" if self.rollbacks else ""
            raise FloatingPointError(f"{error}{often}; try a lower --lr, with --resume") from None
        falls, seconds = self.rollbacks + 1, self.seconds
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.restore(checkpoint, folder or self.run_folder)
        self.rollbacks, self.seconds = falls, seconds
        self.news.append(f"{error}; back to step {self.step:,}, with the learning rate times {0.5**falls:g}")

    def require_finite(self, loss: Tensor) -> None:
        """See to it that nothing that is not finite is drawn, logged or kept.

        Raises:
            FloatingPointError: the loss or a weight is not finite.
        """
        weights = torch.stack([own(p.detach()).isfinite().all() for p in self.model.parameters()])
        (wrong,) = self.team.greatest([not (bool(loss.isfinite()) and bool(weights.all()))])
        if wrong:
            what = "a weight" if bool(loss.isfinite()) else "the loss"
            raise FloatingPointError(f"{what} is not finite at step {self.step}")

    def go_uncompiled(self, error: Exception) -> None:
        """Go on without torch.compile, which cannot do it here; no step has been taken."""
        give_up(self.model)
        self.compiler_errors = ()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        why, *_ = str(error).replace("raised:\n", "raised ").splitlines() or [type(error).__name__]
        self.news.append(f"torch.compile cannot be used here ({why}); training goes on without it")

    # What is kept

    def keep(self, must: bool) -> None:
        """Write a checkpoint, if this is the main process; unless it must be there, training goes on without it.

        Raises:
            OSError: it must be, and cannot be written.
        """
        if not (self.team.main or self.shares):
            return
        try:
            self.save()
            self.trouble = None
        except OSError as error:
            if must:
                raise
            self.trouble = f"{error.filename}: {error.strerror or error}"

    def save(self) -> None:
        """Write a checkpoint of the state as it is, if this is the main process; given up where a signal waits."""
        with others_reached():
            checkpoint = self.checkpoint()
        if self.team.main:
            self.given_up = not self.signals.finished(lambda: write_checkpoint(self.run_folder, checkpoint))

    def checkpoint(self) -> Checkpoint:
        """The state as it is; of shares, every process has to bring its own."""
        places = self.step * self.options.batch_size
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "falls": self.rollbacks,
            "settings": self.settings,
            "lr": self.options.lr,
            "random": {"seed": self.options.seed, "step": self.step},
            "data": {"epoch": places // len(self.images), "position": places % len(self.images)},
        }
        return Checkpoint(state, self.held.tensors())

    def restore(self, checkpoint: Checkpoint, source: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: it does not fit the model.
        """
        self.held.restore(checkpoint.tensors, source)
        self.step = checkpoint.state["step"]
        same_lr = checkpoint.state.get("lr", self.options.lr) == self.options.lr
        self.rollbacks = int(checkpoint.state.get("falls", 0)) if same_lr else 0
        self.seconds = float(checkpoint.state["seconds"])


def losses_of(model: GenerativeModel, team: Team, shares_on: torch.device | None) -> nn.Module:
    """The model's loss; in a team, one whose gradients are the mean over all processes; and in shares on a device."""
    losses = Losses(model)
    if team.count == 1:
        return losses
    if shares_on is not None:
        return shard(losses, team, shares_on)
    # What is trained may differ from step to step; buffers are the same already.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of another name for broadcast_buffers, which older torch lacks
        return DistributedDataParallel(losses, broadcast_buffers=False, find_unused_parameters=True)
