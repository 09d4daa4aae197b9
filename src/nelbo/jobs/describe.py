"""A run or a data set in a few lines, with all its settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nelbo.config.files import CONFIG
from nelbo.data.loading import NAMES, is_source
from nelbo.errors import InputError, nearest
from nelbo.jobs.archive_facts import facts_of, is_archive
from nelbo.jobs.run import Run, build_model, images_config, read_data
from nelbo.nn import UNetOptions
from nelbo.options import DataOptions
from nelbo.training import latest_checkpoint
from nelbo.training.checkpoint import read_state
from nelbo.units import uniform_bits


def info(what: str | Path | Run, options: DataOptions | None = None) -> dict[str, Any]:
    """Describe a run, a compressed file, or else a SPEC.

    Args:
        what: the run, its directory, a file of ``nelbo compress``, or a SPEC.
        options: how to read a SPEC.

    Returns:
        name → value, as printed by ``nelbo info``.

    Raises:
        InputError: ``what`` is none of these.
    """
    if isinstance(what, Run):
        return describe_run(what)
    what = str(what)
    if (Path(what) / CONFIG).is_file():
        return describe_run(Run(what))
    if is_archive(Path(what)):
        return facts_of(Path(what)).as_dict()
    if not Path(what).exists() and not is_source(what):
        raise InputError(
            "WHAT", f"{what!r} is neither a run nor data{nearest(what, NAMES)} (data: {', '.join(NAMES)}, a path)"
        )
    return describe_data((options or DataOptions()).model_copy(update={"data": what}))


def describe_data(options: DataOptions) -> dict[str, Any]:
    """A data set: its images, splits and hash."""
    dataset = read_data(options)
    images = images_config(dataset)
    return {
        "data": images.name,
        "shape": list(images.shape),
        "dims": dataset.dims,
        "levels": images.levels,
        "uniform_bits_per_dim": uniform_bits(images.levels),
        "splits": images.counts,
        "classes": list(images.classes),
        "sha256": images.sha256,
        "notes": list(dataset.notes),
    }


def of_the_model(settings: dict[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a model, without those of nelbo's own network if the network is from Python."""
    hidden = UNetOptions.model_fields if "network" in parts else {}
    return {name: value for name, value in settings.items() if name not in hidden}


def describe_run(run: Run) -> dict[str, Any]:
    """A run: its settings, its progress, and the facts of its family."""
    config = run.config
    state = read_state(run.checkpoint) if latest_checkpoint(run.path) else {"step": 0, "seconds": 0.0}
    missing = sorted((config.parts or {}).keys() - run.parts.keys())  # without them only the settings are shown
    with torch.device("cpu"):
        model = None if missing else build_model(config, **run.parts)
    plain = config.model_dump(mode="json", serialize_as_any=True)
    return {
        "run": str(run.path),
        "family": config.family,
        "step": state["step"],
        "images_seen": state["step"] * config.training.batch_size,
        "training_seconds": round(state["seconds"], 1),
        **({} if model is None else {"parameters": sum(p.numel() for p in model.parameters())}),
        **({} if model is None else model.inspector.facts()),
        **({} if config.parts is None else {"parts": config.parts}),
        "images": plain["images"],
        **({} if run.changed_data is None else {"changed_data": run.changed_data}),
        "data": plain["data"],
        "model": of_the_model(plain["model"], config.parts or {}),
        **({} if config.distillation is None else {"distillation": plain["distillation"]}),
        "training": plain["training"],
        "versions": plain["versions"],
        "machine": plain["machine"],
    }
