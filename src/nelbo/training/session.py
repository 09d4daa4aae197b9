"""A training session: the model, its data and optimisers, its progress, and its checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from nelbo.models.base import GenerativeModel
from nelbo.options import TrainingOptions
from nelbo.processes import ALONE, Team, others_reached
from nelbo.training.activations import checkpoint_activations
from nelbo.training.batches import Batches
from nelbo.training.checkpoint import Checkpoint, rollbacks_of, write_checkpoint
from nelbo.training.compiling import compile_networks
from nelbo.training.ema import EMA
from nelbo.training.feed import Feed
from nelbo.training.gradients import distributed_losses, parts_of, places_of
from nelbo.training.learning_rate import learning_rate, progress_at
from nelbo.training.machine import training_device
from nelbo.training.optimizers import optimizers_of
from nelbo.training.shards import unsharded
from nelbo.training.signals import Signals
from nelbo.training.state import State

MILESTONES = 6
"""How often a run draws samples and scores ``val``, at even intervals."""


class Session:
    """What one process needs to train a model in place.

    Args:
        model: the model, on its device; on any device if its weights are sharded.
        images: the training images: integer levels, uint8, shape (N, C, H, W); they are not copied.
        options: the training options, with ``minutes`` or ``steps``.
        run: the run directory, for checkpoints.
        grey_levels: the number of levels of the images, if each batch is binarised; else None.
        team: the processes that share each batch; all start with the main process's weights, and only it writes.
        settings: the settings that the weights depend on, saved in every checkpoint.
        clock: a clock in seconds.
        labels: the class of each image, 1 … K, 0 if unknown, int64, shape (N,); None without labels.

    Attributes:
        signals: the signal to stop, if there was one.
        after: seconds that the caller needs after the last step; a run with ``minutes`` ends earlier by this time.
        trouble: why the last checkpoint could not be written, or None.
        rollbacks: how often the run went back to a checkpoint; each time halves the learning rate.
        news: messages for the user, oldest first; the caller prints and removes them.
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
        labels: Tensor | None = None,
    ) -> None:
        self.model, self.options, self.run_folder, self.team = model, options, run, team
        self.settings = dict(settings or {})
        flip = options.augment == "flip"
        self.batches = Batches(images, options.batch_size, options.seed, grey_levels, flip, labels)
        self.parts = parts_of(options.batch_size, options.accumulate, team)
        self.part = self.parts[0]
        model.gather_batch = lambda rows: team.together(rows, self.part.total)
        if not (options.shard and team.count > 1):  # shards come from the main process
            team.same(model.state_dict().values())
        self.ema = EMA(model, options.ema)
        self.sharded = options.shard and team.count > 1
        self.compiler_errors = compile_networks(model, options, model.device, team.count == 1)
        if options.checkpoint_activations:
            checkpoint_activations(model)
        self.unsharded = unsharded(model) if self.sharded else []
        with others_reached():
            self.losses = distributed_losses(model, team, training_device(options) if self.sharded else None)
        if self.sharded:
            self.ema.split(model)
        self.feed = Feed(self.batches, places_of(self.parts), model.device)
        self.groups = model.recipe.groups
        self.optimizers = optimizers_of(self.groups, options, model.device)
        self.state = State(model, self.ema, self.optimizers, team if self.sharded else ALONE)
        self.step = self.rollbacks = 0
        self.clock, self.signals = clock, Signals()
        self.seconds = self.started = self.saved = self.writing = self.after = self.reserve = 0.0
        self.trouble: str | None = None
        self.given_up = False
        self.news: list[str] = []

    # Progress

    @property
    def progress(self) -> float:
        """The progress of the run, in [0, 1]."""
        return progress_at(self.options, self.step, self.seconds, self.reserve)

    @property
    def milestones(self) -> int:
        """The number of reached ``MILESTONES``."""
        return math.floor(self.progress * MILESTONES)

    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return learning_rate(self.options, self.step, self.progress, self.rollbacks)

    def batch(self, places: Sequence[int] | None = None) -> Tensor:
        """The images in these places of the next batch (None: in this process's part), on the model's device."""
        if places is None:
            return self.feed.take(self.step).images
        return self.batches.augment(self.batches.gather(self.step, places).to(self.model.device), self.step, places)

    def zero_grad(self) -> None:
        """Reset all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def average_at_hand(self) -> Iterator[None]:
        """A context in which the main process has the current average in ``ema.model``."""
        with ExitStack() as stack:
            with others_reached():
                stack.enter_context(self.ema.at_hand(self.model, self.team.main))
            yield

    # Checkpoints

    def keep(self, must: bool) -> None:
        """Write a checkpoint; if this fails and ``must`` is False, set ``trouble``.

        Raises:
            OSError: the checkpoint cannot be written, and ``must`` is True.
        """
        if not (self.team.main or self.sharded):
            return
        try:
            self.save()
            self.trouble = None
        except OSError as error:
            if must:
                raise
            self.trouble = f"{error.filename}: {error.strerror or error}"

    def save(self) -> None:
        """Write a checkpoint, on the main process only; it is abandoned if a signal waits too long."""
        with others_reached():
            checkpoint = self.checkpoint()
        if self.team.main:
            self.given_up = not self.signals.finished(lambda: write_checkpoint(self.run_folder, checkpoint))

    def checkpoint(self) -> Checkpoint:
        """The current state; with shards, every process must call this."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "rollbacks": self.rollbacks,
            "settings": self.settings,
            "lr": self.options.lr,
            "random": {"seed": self.options.seed, "step": self.step},
            "data": self.batches.position(self.step),
        }
        return Checkpoint(state, self.state.tensors())

    def restore(self, checkpoint: Checkpoint, source: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            InputError: the checkpoint does not fit the model.
        """
        self.state.restore(checkpoint.tensors, source)
        self.step = checkpoint.state["step"]
        same_lr = checkpoint.state.get("lr", self.options.lr) == self.options.lr
        self.rollbacks = rollbacks_of(checkpoint.state) if same_lr else 0
        self.seconds = float(checkpoint.state["seconds"])
