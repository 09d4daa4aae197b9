"""Previews of a model while it trains: the score of ``val``, samples from the same noise, and warnings."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

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
"""About so long is one batch of ``val``: between two, a preview that takes too long is given up."""


class Previews:
    """Scores ``val`` and draws samples, by the average of the weights, in a share of the time of training.

    Args:
        trainer: the run.
        dataset: its data, for ``val``.
        journal: where scores are logged.

    Attributes:
        budget: what previews may cost.
        val: the latest score of ``val``, as the end of a line; "" if there is none.
    """

    def __init__(self, trainer: Trainer, dataset: Dataset, journal: Journal) -> None:
        self.trainer, self.dataset, self.journal = trainer, dataset, journal
        self.budget = PreviewBudget(trainer.options, trainer.clock)
        self.begun = trainer.seconds
        self.warnings: dict[str, str] = {}
        self.val = ""

    def show(self, step: Step) -> None:
        """Score the first ``val`` images, each with the same noise every time, and draw a grid, as the time allows."""
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
    def val_sizes(self) -> list[Size]:
        """How many ``val`` images may be scored, the largest first."""
        model = self.trainer.ema.model
        sizes = val_sizes(model.forms.default_timesteps if isinstance(model, LikelihoodModel) else 1)
        return [size for size in sizes if size.images <= max(16, len(self.dataset.split("val")))] or sizes[-1:]

    @property
    def grid_sizes(self) -> list[Size]:
        """How many images may be drawn, in how many steps, the largest first."""
        model = self.trainer.ema.model
        return grid_sizes(model.inspector.preview_settings.steps or 1)

    def last_seconds(self) -> float:
        """Seconds that the previews after the last step will take; 0 for a run by steps."""
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
        """Score so many ``val`` images, and print warnings that are new."""
        model, images = self.trainer.ema.model, self.dataset.split("val")[: size.images]
        measures: dict[str, Measure] = {}  # none where the time is up before they are known
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

    @torch.no_grad()
    def draw_samples(self, step: Step, size: Size, limit: float) -> None:
        """Draw so many images, always from the same noise, as a grid in RUN/samples."""
        model = self.trainer.ema.model
        settings = model.inspector.preview_settings
        if settings.steps is not None:
            settings = settings._replace(steps=size.each)
        with self.budget.timed("grid", size, limit) as tell:
            for frame in model.frames(range(size.images), 0, settings):
                tell(frame.done / frame.of)
            images = to_levels(frame.x, model.levels).cpu()
            with atomic_write(self.trainer.run_folder / "samples" / f"step-{step.step:08d}.png") as aside:
                grid(images, model.levels).save(aside)

    def print_warnings(self, step: Step, lines: Sequence[str]) -> None:
        """Print each warning when it first applies, and when it no longer does; figures may change in between."""
        warnings = {re.sub(r"[\d.,]+", "#", line): line for line in lines}
        for kind, line in warnings.items():
            if kind not in self.warnings:
                console().print(f"step {step.step:,}: {line}")
        for kind, line in self.warnings.items():
            if kind not in warnings:
                console().print(f"step {step.step:,}: no longer so: {re.split('[:,;]', line)[0]}")
        self.warnings = warnings

    def summary(self) -> str:
        """How much of the time went into previews, in one line."""
        seconds, spent = max(1e-9, self.trainer.seconds - self.begun), self.budget.spent
        if self.budget.made:
            return f"looks at val and samples took {spent:.1f} s of {seconds:.0f} s ({100 * spent / seconds:.0f}%)"
        least = sum(self.budget.cost(kind, sizes[-1]) for kind, sizes in self.kinds())
        line = f"there was no look at val and samples: the least takes about {least:.0f} s, and they may take"
        return f"{line} a twentieth of the time; 'nelbo score' and 'nelbo sample' do it now"
