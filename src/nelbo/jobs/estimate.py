"""How far a training will come, before it begins: a few steps of it are timed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from nelbo.jobs.labels import labels_of
from nelbo.jobs.settings import Request, resolve
from nelbo.jobs.training import fresh_model, require_doable
from nelbo.options import DataOptions
from nelbo.training import Trainer
from nelbo.training.machine import training_device, training_dtypes

TIMED = 4
"""Steps; the fastest of them counts, because the first ones take longer."""
BATCHES = 8
"""Batches of images that the model looks at before the first step; a training looks at all images."""


class Estimate(NamedTuple):
    """A training that has not begun.

    Attributes:
        parameters: of the model.
        batch_size: images of a step.
        images: of the training split.
        images_per_second: the speed.
        steps: those in the minutes that were asked for, without the time for previews.
    """

    parameters: int
    batch_size: int
    images: int
    images_per_second: float
    steps: int


def estimate(family: str, data: DataOptions, minutes: float, labels: bool = False) -> Estimate:
    """Time some steps of a fresh model, on this machine as it is now. Nothing is written.

    Args:
        family: as in :func:`nelbo.train`.
        data: the data.
        minutes: the length of the training.
        labels: whether the model learns p(x|y).

    Raises:
        InputError: the training would be refused.
    """
    given = {"labels": True} if labels else {}
    config, dataset = resolve(Request(family, data.model_dump(exclude_unset=True), given, {"minutes": minutes}))
    model, options = fresh_model(config), config.training
    require_doable(model, options)
    device = training_device(options)
    images, grey_levels = dataset.for_training
    few = slice(0, BATCHES * options.batch_size)
    found = labels_of(dataset, "train", model.classes)
    some = None if found is None else found[few]
    with training_dtypes(device, options.precision):
        model.to(device)
        model.recipe.prepare(images[few], grey_levels or model.levels, options.seed, some)
        trainer = Trainer(model, images[few], options, Path(), grey_levels, labels=some)
        model.train()
        seconds = min(timed_step(trainer) for _ in range(TIMED))
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rate, steps = options.batch_size / seconds, int(60 * minutes / seconds)
    return Estimate(parameters, options.batch_size, len(images), rate, steps)


def timed_step(trainer: Trainer) -> float:
    """The seconds of one step."""
    began = time.perf_counter()
    float(trainer.advance()[0])  # waits for the device
    return time.perf_counter() - began
