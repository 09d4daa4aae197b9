"""The training of a prepared run, in all processes that share its batches."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nelbo.config.files import CONFIG, RunConfig, run_config, run_config_text, write_run_config
from nelbo.config.trained import weight_settings
from nelbo.data import Dataset
from nelbo.data.symmetry import mirror_note
from nelbo.errors import InputError
from nelbo.files import sole
from nelbo.jobs.journal import Journal
from nelbo.jobs.labels import labels_of
from nelbo.jobs.monitor import Monitor
from nelbo.jobs.run import build_model, own_images, read_data
from nelbo.models.base import GenerativeModel
from nelbo.options import TrainingOptions
from nelbo.processes import Team, count, join
from nelbo.report.progress import bar, console
from nelbo.training import Trainer, latest_checkpoint, read_checkpoint
from nelbo.training.activations import require_blocks
from nelbo.training.checkpoint import shared
from nelbo.training.compiling import require_compilable
from nelbo.training.machine import Sizing, dtype_of, keep_memory, training_device, training_dtypes


class Work(NamedTuple):
    """A prepared run.

    Attributes:
        path: the run directory.
        config: its complete settings.
        dataset: the images.
        model: the model with its initial weights.
        notes: messages to print before the training.
    """

    path: Path
    config: RunConfig
    dataset: Dataset
    model: GenerativeModel
    notes: tuple[str, ...] = ()


def train_together(settle: Callable[[], Work], model: GenerativeModel | None = None) -> Path:
    """Train the main process's run in all processes; returns the main process's run directory.

    Args:
        settle: prepares the run; called in the main process.
        model: this process's model, if it was made in Python.

    Raises:
        InputError: another process has other images.
    """
    team, works = join(), []

    def settled_request() -> bytes:
        works.append(settle())
        return json.dumps({"path": str(works[0].path), "config": run_config_text(works[0].config)}).encode()

    settled = json.loads(team.from_main(settled_request))
    if not works:
        path = Path(settled["path"])
        config = run_config(tomllib.loads(settled["config"]), path / CONFIG)
        model = model or (empty_model(config) if config.training.shard else fresh_model(config))
        works.append(Work(path, config, read_data(own_images(config.data, path)), model))
        if works[0].dataset.sha256 != config.images.sha256:
            raise InputError("data", f"{config.data.data} has other images here than on the main process")
    run_training(works[0], team)
    return works[0].path


def fresh_model(config: RunConfig) -> GenerativeModel:
    """The model with initial weights that depend only on its seed."""
    with torch.random.fork_rng([]), dtype_of(config.training.precision):
        torch.manual_seed(config.training.seed)
        return build_model(config)


def empty_model(config: RunConfig) -> GenerativeModel:
    """The model without memory for its large parameters, whose shards come from the main process; buffers are zeros."""
    with Sizing(math.inf):
        model = fresh_model(config)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.zeros_like(buffer, device="cpu"))
    return model


def run_training(work: Work, team: Team) -> None:
    """Train to the end, with a progress bar, metrics and previews."""
    path, config, dataset, model, notes = work
    keep_memory()
    device = training_device(config.training)
    images, grey_levels = dataset.for_training
    labels = labels_of(dataset, "train", model.classes)
    with ExitStack() as stack:
        stack.enter_context(training_dtypes(device, config.training.precision))
        if not (config.training.shard and team.count > 1):  # shares go to the device as they are made
            model.to(device)
        begun = team.from_main(lambda: lock_run(stack, path))
        folder = path / begun.decode() if begun else None
        checkpoint = shared(team, None if folder is None else lambda: read_checkpoint(folder))
        if checkpoint is None:
            with bar("looking at the training images", None):
                model.recipe.prepare(images, grey_levels or model.levels, config.training.seed, labels)
        settings = weight_settings(config)
        trainer = Trainer(model, images, config.training, path, grey_levels, team, settings, labels=labels)
        if checkpoint is not None:
            trainer.restore(checkpoint, folder or path)
        if not team.main:
            for _ in trainer:
                pass
            return
        write_run_config(path, config)
        announce(path, config, dataset, trainer)
        asymmetric = mirror_note(images) if config.training.augment == "flip" else None
        for note in (*notes, *[asymmetric] * (asymmetric is not None)):
            console().print(note)
        shown = bar("training", 1.0, trainer.progress, lines=False)
        with shown as progress, Journal(path, config.training.tensorboard) as journal:
            watcher = Monitor(trainer, dataset, journal, progress, config)
            for step in trainer:
                watcher.see(step)
            watcher.tell()
            watcher.bring_back()
            watcher.sum_up()


def require_doable(model: GenerativeModel, training: TrainingOptions, asked: Mapping[str, Any] | None = None) -> None:
    """Check that every process has an image of each batch, and that compilation is possible if requested.

    Args:
        model: the model to train.
        training: the training options.
        asked: the requested settings of a resumed run; None for a new run.

    Raises:
        InputError: there are fewer images in a batch than processes or parts, or the model cannot be compiled, or has
            no blocks to compute again.
    """
    if training.batch_size < count():
        raise InputError("batch_size", f"{training.batch_size} is less than the number of processes, {count()}")
    if training.batch_size < training.accumulate * count():
        most = training.batch_size // count()
        raise InputError("accumulate", f"splits {training.batch_size} images too often; give at most {most}")
    if training.checkpoint_activations:
        require_blocks(model)
    if asked is None or "compile" in asked:
        require_compilable(model, training, count())


def lock_run(stack: ExitStack, path: Path) -> bytes:
    """Lock the run directory against other runs, and return the name of its latest checkpoint, if any."""
    stack.enter_context(sole(path))
    checkpoint = latest_checkpoint(path)
    return b"" if checkpoint is None else str(checkpoint.relative_to(path)).encode()


def announce(path: Path, config: RunConfig, dataset: Dataset, trainer: Trainer) -> None:
    """Print what will be trained, for how long, and where."""
    training, model = config.training, trainer.model
    amount, unit = (training.minutes, "minute") if training.steps is None else (training.steps, "step")
    length = f"{amount:,.10g} {unit}{'' if amount == 1 else 's'}"
    channels, height, width = dataset.shape
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    begun = f", from step {trainer.step:,} on" if trainer.step else ""
    how = "sharded, " * trainer.sharded
    where = f"{trainer.team.count} processes, {how}" * (trainer.team.count > 1) + str(model.device)
    console().print(
        f"{model.family} on {dataset.name}: {len(dataset.split('train')):,} images of {channels}×{height}×{width}, "
        f"{size / 1e6:.2f} M parameters, {length}{begun} on {where} → {path}"
    )
