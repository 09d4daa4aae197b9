"""What a person would want to look at while a model trains: a log, a bar, samples, and how ``val`` is doing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from nelbo.config.files import CONFIG, RunConfig, write_run_config
from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.files import naming, whole
from nelbo.jobs._answer import condition, own_measure
from nelbo.metrics import score_likelihood
from nelbo.models.base import LikelihoodModel
from nelbo.report.pictures import grid
from nelbo.report.progress import console, training_note
from nelbo.report.tables import measure_text
from nelbo.training import Step, Trainer

LOG_STEPS = 10
VAL_IMAGES = 128
GRID_IMAGES = 36


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

    def __init__(
        self, trainer: Trainer, dataset: Dataset, journal: Journal, progress: Progress, config: RunConfig
    ) -> None:
        self.trainer, self.dataset, self.journal, self.progress = trainer, dataset, journal, progress
        self.config = config
        self.last = (time.monotonic(), trainer.step)
        self.val = ""
        self.said: str | None = None

    def see(self, step: Step) -> None:
        """Take in one step. What cannot be written is said, and training goes on."""
        self.tell()
        try:
            written = self.note(step)
        except OSError as error:
            self.say(f"{error.filename or self.trainer.run_folder}: {error.strerror or error}")
        else:
            if written or self.trainer.trouble:
                self.say(self.trainer.trouble)

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
        if step.milestone:
            self.look(step)
        loss, now = float(step.loss), time.monotonic()
        rate = (step.step - self.last[1]) * self.trainer.options.batch_size / max(1e-9, now - self.last[0])
        self.last = (now, step.step)
        self.journal.write(
            step.step,
            {"loss": loss, "lr": step.lr, "images_per_second": round(rate, 1), "seconds": round(step.seconds, 2)},
        )
        note = training_note(step, loss, rate) + self.val
        self.progress.update(self.progress.task_ids[0], completed=step.progress, note=note)
        return True

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

    def look(self, step: Step) -> None:
        """Score some ``val`` images, always the same with the same noise, and draw a grid."""
        model = self.trainer.ema.model
        if isinstance(model, LikelihoodModel):
            bound = score_likelihood(model, self.dataset.split("val")[:VAL_IMAGES])
            self.val = f" · val {bound.bits():.3f} bits/dim"
            self.journal.write(step.step, {"val_bits_per_dim": bound.bits(), "val_stderr": bound.stderr() or 0.0})
        val = self.dataset.split("val")[:VAL_IMAGES]
        with torch.no_grad():
            measures = {name: own_measure(name, each) for name, each in model.measures(val).items()}
            ailments = condition(model, val, step.step)["ailments"]
        if measures:
            self.journal.write(step.step, {f"val_{name}": found["value"] or 0.0 for name, found in measures.items()})
            self.val = "".join(
                f" · {name.replace('_', ' ')} {measure_text(found, '.3f')}" for name, found in measures.items()
            )
        for line in ailments:
            console().print(f"step {step.step:,}: {line}", soft_wrap=True)
        images = model.sample(GRID_IMAGES, settings=model.glance)
        folder = self.trainer.run_folder / "samples"
        with whole(folder / f"step-{step.step:08d}.png") as aside:
            grid(images, model.levels).save(aside)
        if self.progress.disable:
            console().print(f"{100 * step.progress:.0f}% · step {step.step:,} · {step.seconds:.0f} s{self.val}")
