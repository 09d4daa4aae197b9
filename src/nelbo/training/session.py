"""A training session: the model, its data and optimisers, how far it is, and its checkpoints."""

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
from nelbo.training.batches import Batches
from nelbo.training.checkpoint import Checkpoint, rollbacks_of, write_checkpoint
from nelbo.training.compiling import compile_networks
from nelbo.training.ema import EMA
from nelbo.training.gradients import distributed_losses
from nelbo.training.learning_rate import learning_rate, progress_at
from nelbo.training.machine import training_device
from nelbo.training.optimizers import optimizers_of
from nelbo.training.shards import unsharded
from nelbo.training.signals import Signals
from nelbo.training.state import State

MILESTONES = 6
"""How often in a run samples are drawn and ``val`` is scored, evenly spread."""


class Session:
    """All that one process needs to train a model in place.

    Args:
        model: the model, on its device; where its weights are to be sharded, on any.
        images: the training images: integer levels, uint8, shape (N, C, H, W); never copied.
        options: the recipe; one of ``minutes`` and ``steps`` is set.
        run: the run directory, for checkpoints.
        grey_levels: if they are to be binarised, each batch anew, how many levels they have.
        team: the processes that share each batch; all begin with the main one's weights, and it alone writes them.
        settings: what the weights depend on, written to every checkpoint.
        clock: seconds from any moment on.

    Attributes:
        signals: the signal that asks to stop, once it has come.
        after: seconds that whoever looks on needs after the last step; a run by the clock ends so much earlier.
        trouble: why the last checkpoint could not be written, or None.
        rollbacks: how often the run went back to a checkpoint, each time to half of the learning rate.
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
        self.model, self.options, self.run_folder, self.team = model, options, run, team
        self.settings = dict(settings or {})
        self.batches = Batches(images, options.batch_size, options.seed, grey_levels)
        self.share = team.share(options.batch_size)
        model.gather_batch = lambda rows: team.together(rows, options.batch_size)
        team.same(model.state_dict().values())
        self.ema = EMA(model, options.ema)
        self.sharded = options.shard and team.count > 1
        self.compiler_errors = compile_networks(model, options, model.device, team.count == 1)
        self.unsharded = unsharded(model) if self.sharded else []
        with others_reached():
            self.losses = distributed_losses(model, team, training_device(options) if self.sharded else None)
        if self.sharded:
            self.ema.split(model)
        self.groups = model.recipe.groups
        self.optimizers = optimizers_of(self.groups, options, model.device)
        self.state = State(model, self.ema, self.optimizers, team if self.sharded else ALONE)
        self.step = self.rollbacks = 0
        self.clock, self.signals = clock, Signals()
        self.seconds = self.started = self.saved = self.writing = self.after = self.reserve = 0.0
        self.trouble: str | None = None
        self.given_up = False
        self.news: list[str] = []

    # Where the run is

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1]."""
        return progress_at(self.options, self.step, self.seconds, self.reserve)

    @property
    def milestones(self) -> int:
        """How many of the run's ``MILESTONES`` have been reached."""
        return math.floor(self.progress * MILESTONES)

    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return learning_rate(self.options, self.step, self.progress, self.rollbacks)

    def batch(self, places: Sequence[int] | None = None) -> Tensor:
        """The images in these places of the next batch (in this process's share if None), on the model's device."""
        return self.batches.at(self.step, self.share if places is None else places).to(self.model.device)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def average_at_hand(self) -> Iterator[None]:
        """While this is entered, the main process has the average of now in ``ema.model``."""
        with ExitStack() as stack:
            with others_reached():
                stack.enter_context(self.ema.at_hand(self.model, self.team.main))
            yield

    # Checkpoints

    def keep(self, must: bool) -> None:
        """Write a checkpoint; where it cannot be written, training goes on without it.

        Raises:
            OSError: it cannot be written, and it must be.
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
        """Write a checkpoint of the state as it is, if this is the main process; given up where a signal waits."""
        with others_reached():
            checkpoint = self.checkpoint()
        if self.team.main:
            self.given_up = not self.signals.finished(lambda: write_checkpoint(self.run_folder, checkpoint))

    def checkpoint(self) -> Checkpoint:
        """The state as it is; of shards, every process has to bring its own."""
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
        """Go on from a checkpoint.

        Raises:
            InputError: it does not fit the model.
        """
        self.state.restore(checkpoint.tensors, source)
        self.step = checkpoint.state["step"]
        same_lr = checkpoint.state.get("lr", self.options.lr) == self.options.lr
        self.rollbacks = rollbacks_of(checkpoint.state) if same_lr else 0
        self.seconds = float(checkpoint.state["seconds"])
