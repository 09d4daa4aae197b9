"""The training loop, a generator that yields its state after every step.

The order of the data and all noise are functions of (seed, step), so that a run that stops at a checkpoint and goes on
is the run that never stopped.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nelbo.data.binarize import drawn
from nelbo.errors import InputError
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.options import TrainingOptions
from nelbo.rng import Draws, Stream, permutation
from nelbo.training.checkpoint import Checkpoint, fit, latest_checkpoint, read_checkpoint, write_checkpoint
from nelbo.training.ema import EMA
from nelbo.training.machine import autocast
from nelbo.training.muon import Muon
from nelbo.training.optimizers import MOMENTS, optimizers_of

CHECKPOINT_SECONDS, SOONEST, CHECKPOINT_SHARE = 45.0, 10.0, 0.02
"""The longest and the shortest time between two checkpoints; between these, writing takes this share of the time."""
MILESTONES = 6
MOST_FALLS = 5
"""How often a run goes back to its last checkpoint, each time with half of the learning rate, before it gives up."""


class Interrupted(Exception):  # noqa: N818
    """Training was asked to stop by a signal; a checkpoint has been written.

    Args:
        signum: the signal's number.
        step: the step of the checkpoint.
    """

    def __init__(self, signum: int, step: int) -> None:
        self.signum, self.step = signum, step
        super().__init__(f"stopped by signal {signum} at step {step}")


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


class Trainer:
    """Trains a model in place, with warm-up and decay, gradient clipping, and an average of the weights.

    Args:
        model: the model, on its device.
        images: the training images: integer levels, uint8, shape (N, C, H, W); never copied.
        grey_levels: if they are to be binarised, each batch anew, how many levels they have.
        options: the recipe; one of ``minutes`` and ``steps`` is set.
        run: the run directory, for checkpoints.

    Attributes:
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
    ) -> None:
        self.model, self.images, self.options, self.run_folder = model, images, options, run
        self.grey_levels = grey_levels
        self.ema = EMA(model, options.ema)
        self.parts = model.parts
        self.optimizers = optimizers_of(self.parts, options, model.device)
        self.step = 0
        self.seconds = 0.0
        self.trouble: str | None = None
        self.between = 0.0
        self.falls = 0
        self.news: list[str] = []

    # What is drawn and when

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1]."""
        if self.options.steps is not None:
            return min(1.0, self.step / self.options.steps)
        return min(1.0, self.seconds / (60.0 * (self.options.minutes or 0.0)))

    def learning_rate(self) -> float:
        """A linear rise over ``warmup`` steps, then constant, then a linear fall to zero over the last ``decay``.

        Halved for every time that the run fell back.
        """
        rise = min(1.0, (self.step + 1) / (self.options.warmup + 1))
        fall = min(1.0, (1.0 - self.progress) / self.options.decay) if self.options.decay else 1.0
        return self.options.lr * rise * fall * 0.5**self.falls

    def rows(self) -> np.ndarray:
        """Which images are next: one permutation of the data after another, cut into batches."""
        n, size = len(self.images), self.options.batch_size
        places = self.step * size + np.arange(size)
        rows = np.empty(size, dtype=np.int64)
        for epoch in range(places[0] // n, places[-1] // n + 1):
            inside = places // n == epoch
            rows[inside] = self.order(epoch)[places[inside] % n]
        return rows

    def batch(self) -> Tensor:
        """The next images, on the model's device."""
        images = self.images[torch.from_numpy(self.rows())]
        if self.grey_levels is not None:
            images = drawn(images, self.grey_levels, self.options.seed, Stream.BINARIZE, self.step, range(len(images)))
        return images.to(self.model.device)

    def order(self, epoch: int) -> np.ndarray:
        """The order of the data in one epoch; the last one asked for is kept."""
        if getattr(self, "_order", (None, None))[0] != epoch:
            self._order = (epoch, permutation(self.options.seed, epoch, len(self.images)))
        return self._order[1]

    # One step

    def advance(self) -> tuple[Tensor, float]:
        """Take one step; returns the mean loss of the batch and the learning rate.

        Raises:
            FloatingPointError: the loss or a gradient is not finite; no step has been taken then. A GPU is asked at
                every tenth step only, as the answer has to be waited for.
        """
        options, size = self.options, self.options.batch_size
        draws = Draws(options.seed, self.step, range(size), size, self.model.device)
        lr = self.learning_rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["times"]
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed((options.seed * 1_000_003 + self.step) % 2**63)  # dropout's only source
            with autocast(device, options.precision):
                losses = self.model.loss(self.batch(), draws)
                loss = losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        norms = [nn.utils.clip_grad_norm_(part.parameters, options.clip) for part in self.parts]
        if (device.type == "cpu" or self.step % 10 == 0) and not all(map(torch.isfinite, (loss, *norms))):
            raise FloatingPointError(f"{self.what_is_wrong(losses.detach())} at step {self.step + 1}")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.model, self.step)
        return loss.detach(), lr

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
        saved, started = time.monotonic(), time.monotonic() - self.seconds
        with caught_signals() as caught:
            while self.progress < 1.0:
                before = self.progress
                try:
                    loss, lr = self.advance()
                    self.seconds = time.monotonic() - started
                    milestone = math.floor(before * MILESTONES) < math.floor(self.progress * MILESTONES)
                    if milestone or self.step % 50 == 0:
                        self.require_finite(loss)
                    images = self.step * self.options.batch_size
                    yield Step(self.step, self.progress, loss, lr, self.seconds, images, milestone)
                    self.seconds = time.monotonic() - started
                    pause = min(CHECKPOINT_SECONDS, max(SOONEST, self.between))
                    due = caught or time.monotonic() - saved > pause or self.progress >= 1.0
                    if due:
                        self.require_finite(loss)
                except FloatingPointError as error:
                    self.fall_back(error)
                    continue
                if due:
                    began = time.monotonic()
                    self.keep(must=bool(caught) or self.progress >= 1.0)
                    saved = time.monotonic()
                    self.between = (saved - began) / CHECKPOINT_SHARE
                if caught:
                    raise Interrupted(caught[0], self.step)

    # What is not finite

    def what_is_wrong(self, losses: Tensor) -> str:
        """Which images, and of a bound which terms, are not finite; the batch's gradient if all are."""
        wrong = (~losses.isfinite()).nonzero()[:, 0].cpu()
        if not len(wrong):
            return "a gradient is not finite"
        named = ", ".join(map(str, sorted(self.rows()[wrong.numpy()].tolist())[:5])) + ", …" * (len(wrong) > 5)
        return f"the loss of training images {named} is not finite{self.wrong_terms(self.batch()[wrong])}"

    @torch.no_grad()
    def wrong_terms(self, x: Tensor) -> str:
        """The names of the bound's terms that are not finite on these images, in brackets."""
        if not isinstance(self.model, LikelihoodModel):
            return ""
        terms = self.model.bound(x).terms.items()
        names = ", ".join(name for name, value in terms if not bool(value.isfinite().all()))
        return f" ({names})" if names else ""

    def fall_back(self, error: FloatingPointError) -> None:
        """Go back to the last checkpoint, with half of the learning rate.

        Raises:
            FloatingPointError: there is none yet, or it has been done too often.
        """
        folder = latest_checkpoint(self.run_folder)
        if folder is None or self.falls >= MOST_FALLS:
            often = f", after going back {self.falls} times" if self.falls else ""
            raise FloatingPointError(f"{error}{often}; try a lower --lr") from None
        falls, seconds = self.falls + 1, self.seconds
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.restore(read_checkpoint(folder), folder)
        self.falls, self.seconds = falls, seconds
        self.news.append(f"{error}; back to step {self.step:,}, with the learning rate times {0.5**falls:g}")

    def require_finite(self, loss: Tensor) -> None:
        """See to it that nothing that is not finite is drawn, logged or kept.

        Raises:
            FloatingPointError: the loss or a weight is not finite.
        """
        weights = torch.stack([p.detach().isfinite().all() for p in self.model.parameters()])
        if not (bool(loss.isfinite()) and bool(weights.all())):
            what = "a weight" if bool(loss.isfinite()) else "the loss"
            raise FloatingPointError(f"{what} is not finite at step {self.step}")

    # What is kept

    def keep(self, must: bool) -> None:
        """Write a checkpoint; unless it must be there, training goes on without it.

        Raises:
            OSError: it must be, and cannot be written.
        """
        try:
            self.save()
            self.trouble = None
        except OSError as error:
            if must:
                raise
            self.trouble = f"{error.filename}: {error.strerror or error}"

    def save(self) -> None:
        """Write a checkpoint of the state as it is."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        moments = {
            f"{names[id(p)]}/{key}": value
            for optimizer in self.optimizers
            for p, entry in optimizer.state.items()
            for key, value in entry.items()
        }
        places = self.step * self.options.batch_size
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "falls": self.falls,
            "random": {"seed": self.options.seed, "step": self.step},
            "data": {"epoch": places // len(self.images), "position": places % len(self.images)},
        }
        tensors = {"model": self.model.state_dict(), "ema": self.ema.model.state_dict(), "optimizer": moments}
        write_checkpoint(self.run_folder, Checkpoint(state, tensors))

    def restore(self, checkpoint: Checkpoint, source: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: it does not fit the model.
        """
        fit(self.model, checkpoint.tensors["model"], source / "model.safetensors")
        fit(self.ema.model, checkpoint.tensors["ema"], source / "ema.safetensors")
        parameters = dict(self.model.named_parameters())
        self.check_moments(checkpoint.tensors["optimizer"], source / "optimizer.safetensors")
        trained_by = self.trained_by()
        for key, value in checkpoint.tensors["optimizer"].items():
            name, _, moment = key.rpartition("/")
            entry = trained_by[name].state[parameters[name]]
            # In the layout of the parameter: the fused step goes through both as they lie in memory.
            entry[moment] = value if moment == "step" else torch.empty_like(parameters[name]).copy_(value)
        self.step = checkpoint.state["step"]
        self.falls = int(checkpoint.state.get("falls", 0))
        self.seconds = float(checkpoint.state["seconds"])

    def trained_by(self) -> dict[str, torch.optim.Optimizer]:
        """The name of every parameter → its optimiser."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        return {
            names[id(p)]: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for p in group["params"]
        }

    def check_moments(self, moments: dict[str, Tensor], path: Path) -> None:
        """What its optimiser keeps of every parameter; AdamW has nothing of one without a gradient.

        Raises:
            InputError: they do not fit the model.
        """
        trained = {key.rpartition("/")[0] for key in moments}
        shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        own = {
            f"{name}/{moment}": () if moment == "step" else shapes[name]
            for name, optimizer in self.trained_by().items()
            for moment in MOMENTS[type(optimizer)]
            if name in trained or isinstance(optimizer, Muon)
        }
        theirs = {name: tuple(value.shape) for name, value in moments.items()}
        odd = sorted(name for name in {*own, *theirs} if own.get(name) != theirs.get(name))
        if odd:
            raise InputError(str(path), f"does not fit the model that config.toml describes (first at {odd[0]!r})")


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM instead of dying of it; a second one works as it always did.

    Outside the main thread signals cannot be caught, and none are.
    """
    caught: list[int] = []
    old: dict[int, object] = {}

    def note(signum: int, _frame: object) -> None:
        caught.append(signum)
        for number, handler in old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, note)
    except ValueError:
        pass
    try:
        yield caught
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
