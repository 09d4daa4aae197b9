"""What a person would want to look at while a model trains: a log, a bar, samples, and how ``val`` is doing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nelbo.config.files import CONFIG, RunConfig, write_run_config
from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.files import atomic_write, naming
from nelbo.jobs._answer import condition, own_measure
from nelbo.jobs.previews import Looks, Size, grid_sizes, val_sizes
from nelbo.metrics import score_likelihood
from nelbo.models.base import LikelihoodModel
from nelbo.report.pictures import grid
from nelbo.report.progress import Bar, console, training_note
from nelbo.report.tables import measure_text
from nelbo.theory.likelihoods import to_levels
from nelbo.training import Step, Trainer

LOG_STEPS = 10
FIRST_STEPS = 3
"""So many steps are timed before a run by the clock is told how far it will come."""
FEW_STEPS = 300
"""Fewer steps than this teach a model next to nothing."""
PIECE_SECONDS = 1.0
"""About so long is one batch of ``val``: between two, a look that takes too long is given up."""


def summary_writer() -> Any:
    """TensorBoard's writer.

    Raises:
        InputError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard", "is not installed; pip install 'nelbo[tensorboard]'") from None
    return SummaryWriter


class Journal:
    """RUN/metrics.jsonl, one object per logged step, and TensorBoard if asked.

    Args:
        path: the run directory.
        tensorboard: whether to write TensorBoard's files too.

    Raises:
        InputError: TensorBoard is asked for and not installed.
    """

    def __init__(self, path: Path, tensorboard: bool) -> None:
        self.board: Any = None
        if tensorboard:
            self.board = summary_writer()(str(path / "tensorboard"))
        self.place = path / "metrics.jsonl"
        self.open()

    def open(self) -> None:
        """Open the file, or where it is gone make it."""
        self.file = self.place.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.place):
            self.file.close()
        if self.board is not None:
            self.board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append what was measured at this step."""
        with naming(self.place):
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)


class Watcher:
    """Looks at a training run from outside: logs, moves the bar, draws samples and scores ``val`` at milestones."""

    def __init__(self, trainer: Trainer, dataset: Dataset, journal: Journal, progress: Bar, config: RunConfig) -> None:
        self.trainer, self.dataset, self.journal, self.progress = trainer, dataset, journal, progress
        self.config = config
        self.looks = Looks(trainer.options, trainer.clock)
        self.begun = trainer.seconds
        self.last = (trainer.clock(), trainer.step)
        self.first: list[float] = []
        self.mark = trainer.clock()
        self.ailing: dict[str, str] = {}
        self.val = ""
        self.said: str | None = None

    def see(self, step: Step) -> None:
        """Take in one step. What cannot be written is said, and training goes on."""
        self.tell()
        if len(self.first) < FIRST_STEPS:
            self.expect(step)
        try:
            written = self.note(step)
        except OSError as error:
            self.say(f"{error.filename or self.trainer.run_folder}: {error.strerror or error}")
        else:
            if written or self.trainer.trouble:
                self.say(self.trainer.trouble)
        self.mark = self.trainer.clock()

    def tell(self) -> None:
        """What the trainer has to say."""
        while self.trainer.news:
            console().print(self.trainer.news.pop(0), soft_wrap=True)

    def say(self, trouble: str | None) -> None:
        """Say what cannot be written, once, and when it can again."""
        if trouble != self.said:
            line = "can be written again" if trouble is None else f"{trouble}; training goes on"
            console().print(f"step {self.trainer.step:,}: {line}", soft_wrap=True)
        self.said = trouble

    def note(self, step: Step) -> bool:
        """Log it, and look where it is time to; returns whether anything was written."""
        if step.step % LOG_STEPS and not step.milestone:
            return False
        self.bring_back()
        loss, now = float(step.loss), self.trainer.clock()
        steps, seconds = step.step - self.last[1], max(1e-9, now - self.last[0])
        rate = steps * self.trainer.options.batch_size / seconds
        if steps > 0:
            self.looks.evaluation = self.trainer.team.count / rate
        try:
            if step.milestone:
                self.trainer.signals.abandonable(lambda: self.look(step))
        finally:
            self.last = (self.trainer.clock(), step.step)
        self.journal.write(
            step.step,
            {"loss": loss, "lr": step.lr, "images_per_second": round(rate, 1), "seconds": round(step.seconds, 2)},
        )
        note = training_note(step, loss, rate) + self.val
        self.progress.move(step.progress, note=note)
        return True

    def expect(self, step: Step) -> None:
        """Time the first steps; say so early where a run by the clock will have too few of them."""
        options, team = self.trainer.options, self.trainer.team
        float(step.loss)  # waits for the device
        took = self.trainer.clock() - self.mark
        self.first.append(took)
        if took > PIECE_SECONDS and not self.trainer.compiler_errors:  # what a first step has to prepare is less
            self.first += [took] * (FIRST_STEPS - len(self.first))
        if len(self.first) < FIRST_STEPS or options.minutes is None:
            return
        took = min(self.first)
        self.looks.evaluation = team.count * took / options.batch_size  # the main process looks alone
        self.trainer.after = self.last_look()
        steps = step.step + int((60 * options.minutes - step.seconds) / took)
        if steps >= FEW_STEPS:
            return
        ways = ["smaller images (--size)", f"--minutes {round(FEW_STEPS * took / 60 + 0.5)} or more"]
        ways += ["a smaller --batch-size"] * (options.batch_size > 1)
        ways += ["a GPU"] * (self.trainer.model.device.type == "cpu")
        about = f"a step takes {took:.2g} s here, so {options.minutes:g} minutes are about {max(1, steps)} steps"
        why = f"it takes some hundreds to learn anything; what helps: {', '.join(ways[:-1])}, or {ways[-1]}"
        console().print(f"{about}; {why}", soft_wrap=True)

    def bring_back(self) -> None:
        """Where the run directory was deleted under the run, make it anew with what it takes to open it.

        Checkpoints go on being written; what was drawn and logged before is lost.
        """
        place = self.trainer.run_folder
        if not (place / CONFIG).exists():
            place.mkdir(parents=True, exist_ok=True)
            write_run_config(place, self.config)
            self.journal.open()
            line = f"{place} was deleted under the run; it is made anew, and training goes on"
            console().print(f"step {self.trainer.step:,}: {line}", soft_wrap=True)

    # Looks

    def look(self, step: Step) -> None:
        """Score the first ``val`` images, each with the same noise every time, and draw a grid, as the time allows."""
        self.val = ""
        minutes, ended = self.trainer.options.minutes, step.progress >= 1.0
        left = self.looks.left((60 * minutes if ended and minutes else step.seconds) - self.begun)
        sizes = self.val_sizes, self.grid_sizes
        val = self.looks.choose("val", sizes[0], left / 2)
        if val is not None:
            self.look_at_val(step, val, left / 2)
            left -= self.looks.cost("val", val)
        drawn = self.looks.choose("grid", sizes[1], left)
        if drawn is not None:
            self.look_at_samples(step, drawn, left)
        self.trainer.after = 0.0 if ended else self.last_look()
        if self.progress.disable:
            console().print(f"{100 * step.progress:.0f}% · step {step.step:,} · {step.seconds:.0f} s{self.val}")

    @property
    def val_sizes(self) -> list[Size]:
        """How many ``val`` images may be scored, the largest first."""
        model = self.trainer.ema.model
        found = val_sizes(model.forms.default_timesteps if isinstance(model, LikelihoodModel) else 1)
        return [size for size in found if size.images <= max(16, len(self.dataset.split("val")))] or found[-1:]

    @property
    def grid_sizes(self) -> list[Size]:
        """How many images may be drawn, in how many steps, the largest first."""
        model = self.trainer.ema.model
        return grid_sizes(model.inspector.preview_settings.steps or 1)

    def last_look(self) -> float:
        """Seconds that the look after the last step will take; of a run by steps, whose time is not told, 0."""
        minutes = self.trainer.options.minutes
        if minutes is None:
            return 0.0
        left = self.looks.left(60 * minutes - self.begun)
        chosen = {kind: self.looks.choose(kind, sizes, left / 2) for kind, sizes in self.kinds()}
        return sum(self.looks.cost(kind, size) for kind, size in chosen.items() if size is not None)

    def kinds(self) -> list[tuple[str, list[Size]]]:
        """The kinds of looks, and their sizes."""
        return [("val", self.val_sizes), ("grid", self.grid_sizes)]

    @torch.no_grad()
    def look_at_val(self, step: Step, size: Size, limit: float) -> None:
        """Score so many ``val`` images, and say what ails the model when that has changed."""
        model, images = self.trainer.ema.model, self.dataset.split("val")[: size.images]
        with self.looks.timed("val", size, limit) as tell:
            if isinstance(model, LikelihoodModel):
                image = self.looks.cost("val", size) / (2 * size.images)
                bound = score_likelihood(
                    model,
                    images,
                    timesteps=size.each,
                    batch=max(1, min(size.images, int(PIECE_SECONDS / max(image, 1e-9)))),
                    progress=lambda done: tell(done / (2 * len(images))),
                )
                self.val = f" · val {bound.bits():.3f} bits/dim"
                values = {"val_bits_per_dim": bound.bits(), "val_stderr": bound.stderr() or 0.0}
                self.journal.write(step.step, values | {"val_images": len(images)})
            measures = {name: own_measure(name, each) for name, each in model.inspector.measures(images).items()}
            self.complain(step, condition(model, images, step.step)["ailments"])
            tell(1.0)
        if measures:
            self.journal.write(step.step, {f"val_{name}": found["value"] or 0.0 for name, found in measures.items()})
            texts = (f"{name.replace('_', ' ')} {measure_text(found, '.3f')}" for name, found in measures.items())
            self.val = "".join(f" · {text}" for text in texts)

    @torch.no_grad()
    def look_at_samples(self, step: Step, size: Size, limit: float) -> None:
        """Draw so many images, always from the same noise, as a grid in RUN/samples."""
        model, settings = self.trainer.ema.model, self.trainer.ema.model.inspector.preview_settings
        if settings.steps is not None:
            settings = settings._replace(steps=size.each)
        with self.looks.timed("grid", size, limit) as tell:
            for frame in model.frames(range(size.images), 0, settings):
                tell(frame.done / frame.of)
            images = to_levels(frame.x, model.levels).cpu()
            with atomic_write(self.trainer.run_folder / "samples" / f"step-{step.step:08d}.png") as aside:
                grid(images, model.levels).save(aside)

    def complain(self, step: Step, lines: Sequence[str]) -> None:
        """Say what ails the model when it begins, and when it is over; figures may change in between."""
        ailing = {re.sub(r"[\d.,]+", "#", line): line for line in lines}
        for kind, line in ailing.items():
            if kind not in self.ailing:
                console().print(f"step {step.step:,}: {line}", soft_wrap=True)
        for kind, line in self.ailing.items():
            if kind not in ailing:
                console().print(f"step {step.step:,}: no longer so: {re.split('[:,;]', line)[0]}", soft_wrap=True)
        self.ailing = ailing

    def sum_up(self) -> None:
        """Say, at the end, how much of the time went into looks."""
        if not self.first:
            return
        seconds, spent = max(1e-9, self.trainer.seconds - self.begun), self.looks.spent
        line = f"looks at val and samples took {spent:.1f} s of {seconds:.0f} s ({100 * spent / seconds:.0f}%)"
        if not self.looks.made:
            least = sum(self.looks.cost(kind, sizes[-1]) for kind, sizes in self.kinds())
            line = f"there was no look at val and samples: the least takes about {least:.0f} s, and they may take"
            line += " a twentieth of the time; 'nelbo score' and 'nelbo sample' do it now"
        console().print(line, soft_wrap=True)
