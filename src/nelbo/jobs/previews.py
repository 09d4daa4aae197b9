"""Previews during training: the score of ``val``, samples from the same noise, and warnings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from nelbo.cores import on_own_cores
from nelbo.data import Dataset
from nelbo.files import atomic_write
from nelbo.jobs.journal import Journal
from nelbo.jobs.preview_budget import PreviewBudget, Size, grid_sizes, val_sizes
from nelbo.jobs.score_result import condition, own_measure
from nelbo.metrics import score_likelihood
from nelbo.models.base import LikelihoodModel
from nelbo.report.pictures import grid
from nelbo.report.progress import console
from nelbo.report.results import Measure
from nelbo.report.tables import measure_text
from nelbo.theory.likelihoods import to_levels
from nelbo.training import Step, Trainer

PIECE_SECONDS = 1.0
"""Approximate seconds of one batch of ``val``; a preview can only be abandoned between two batches."""


class Previews:
    """Scores ``val`` and draws samples with the EMA weights, in a fraction of the training time.

    Args:
        trainer: the run.
        dataset: its data, for ``val``.
        journal: the log for scores.

    Attributes:
        budget: the allowed cost of previews.
        val: the latest score of ``val``, as the end of a line, or "".
    """

    def __init__(self, trainer: Trainer, dataset: Dataset, journal: Journal) -> None:
        self.trainer, self.dataset, self.journal = trainer, dataset, journal
        self.budget = PreviewBudget(trainer.options, trainer.clock)
        self.begun = trainer.seconds
        self.warnings: dict[str, str] = {}
        self.val = ""

    def show(self, step: Step) -> None:
        """Score the first ``val`` images, always with the same noise, and draw a grid, if the time allows."""
        self.val = ""
        minutes, ended = self.trainer.options.minutes, step.progress >= 1.0
        left = self.budget.left((60 * minutes if ended and minutes else step.seconds) - self.begun)
        sizes = self.val_sizes, self.grid_sizes
        val = self.budget.choose("val", sizes[0], left / 2)
        if val is not None:
            self.score_val(step, val, left / 2)
            left -= self.budget.cost("val", val)
        drawn = self.budget.choose("grid", sizes[1], left)
        if drawn is not None:
            self.draw_samples(step, drawn, left)
        self.trainer.after = 0.0 if ended else self.last_seconds()

    @property
    def folder(self) -> Path:
        """Where the grids of samples are."""
        return self.trainer.run_folder / "samples"

    @property
    def val_sizes(self) -> list[Size]:
        """Possible numbers of ``val`` images, the largest first."""
        model = self.trainer.ema.model
        sizes = val_sizes(model.forms.default_timesteps if isinstance(model, LikelihoodModel) else 1)
        return [size for size in sizes if size.images <= max(16, len(self.dataset.split("val")))] or sizes[-1:]

    @property
    def grid_sizes(self) -> list[Size]:
        """Possible numbers of samples and steps, the largest first."""
        model = self.trainer.ema.model
        return grid_sizes(model.inspector.preview_settings.steps or 1)

    def last_seconds(self) -> float:
        """Seconds of the previews after the last step; 0 for a run with ``steps``."""
        minutes = self.trainer.options.minutes
        if minutes is None:
            return 0.0
        left = self.budget.left(60 * minutes - self.begun)
        chosen = {kind: self.budget.choose(kind, sizes, left / 2) for kind, sizes in self.kinds()}
        return sum(self.budget.cost(kind, size) for kind, size in chosen.items() if size is not None)

    def kinds(self) -> list[tuple[str, list[Size]]]:
        """The kinds of previews, and their sizes."""
        return [("val", self.val_sizes), ("grid", self.grid_sizes)]

    @torch.no_grad()
    def score_val(self, step: Step, size: Size, limit: float) -> None:
        """Score ``val`` images, and print new warnings."""
        model, images = self.trainer.ema.model, self.dataset.split("val")[: size.images]
        measures: dict[str, Measure] = {}  # stays empty if the time is up before
        with self.budget.timed("val", size, limit) as tell:
            if isinstance(model, LikelihoodModel):
                image = self.budget.cost("val", size) / (2 * size.images)
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
            self.print_warnings(step, condition(model, images, step.step)["warnings"])
            tell(1.0)
        if measures:
            self.journal.write(step.step, {f"val_{name}": each.value for name, each in measures.items()})
            texts = (f"{name.replace('_', ' ')} {measure_text(each, '.3f')}" for name, each in measures.items())
            self.val = "".join(f" · {text}" for text in texts)

    @on_own_cores()
    @torch.no_grad()
    def draw_samples(self, step: Step, size: Size, limit: float) -> None:
        """Draw images, always from the same noise, as a grid in RUN/samples."""
        model = self.trainer.ema.model
        settings = model.inspector.preview_settings
        if settings.steps is not None:
            settings = settings._replace(steps=size.each)
        with self.budget.timed("grid", size, limit) as tell:
            for frame in model.frames(range(size.images), 0, settings):
                tell(frame.done / frame.of)
            images = to_levels(frame.x, model.levels).cpu()
            with atomic_write(self.folder / f"step-{step.step:08d}.png") as aside:
                grid(images, model.levels).save(aside)

    def print_warnings(self, step: Step, lines: Sequence[str]) -> None:
        """Print each warning when it appears and when it disappears, ignoring changes of its numbers."""
        warnings = {re.sub(r"[\d.,]+", "#", line): line for line in lines}
        for kind, line in warnings.items():
            if kind not in self.warnings:
                console().print(f"step {step.step:,}: {line}")
        for kind, line in self.warnings.items():
            if kind not in warnings:
                console().print(f"step {step.step:,}: no longer: {re.split('[:,;]', line)[0]}")
        self.warnings = warnings

    def summary(self) -> str:
        """The time that previews took, in one line."""
        seconds, spent = max(1e-9, self.trainer.seconds - self.begun), self.budget.spent
        if self.budget.made:
            return f"previews (val and samples) took {spent:.1f} s of {seconds:.0f} s ({100 * spent / seconds:.0f}%)"
        least = sum(self.budget.cost(kind, sizes[-1]) for kind, sizes in self.kinds())
        line = f"there were no previews of val and samples: they take at least {least:.0f} s, more than the allowed"
        return f"{line} twentieth of the time; use 'nelbo score' and 'nelbo sample'"
