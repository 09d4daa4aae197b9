"""From a request to the settings of a run, with every default and every value that depends on the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nelbo.config.families import families_with, family_module, family_word
from nelbo.config.files import RunConfig, merged, read_user_config, versions
from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.jobs.journal import summary_writer
from nelbo.jobs.labels import require_labels
from nelbo.jobs.run import images_config, is_place, read_data
from nelbo.options import FamilyOptions, LabelOptions, RunDataOptions, TrainingOptions
from nelbo.processes import shares_asked
from nelbo.streams import as_text
from nelbo.training.machine import conditions, training_device

DEFAULT_MINUTES = 10.0


@dataclass(frozen=True)
class Request:
    """The fields that a user gave to ``train``, without defaults."""

    family: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    config: Path | None = None
    changed_data: bool = False


def resolve(request: Request) -> tuple[RunConfig, Dataset]:
    """The settings with every default and every value that depends on the data, and the data."""
    family = family_word(request.family)
    file = read_user_config(request.config) if request.config is not None else {}
    if file.get("family", {"family": family})["family"] != family:
        raise InputError(f"{request.config}: family", f"is {file['family']['family']!r}, but {family!r} was requested")
    kind = family_module(family).OPTIONS
    in_file = {section: file.get(section, {}) for section in ("data", "model", "training")}
    for ours, theirs in (("minutes", "steps"), ("steps", "minutes")):
        if ours in request.training:
            in_file["training"] = {k: v for k, v in in_file["training"].items() if k != theirs}
    if "labels" in {*in_file["model"], *request.model} and "labels" not in kind.model_fields:
        others = ", ".join(families_with("labels"))
        raise InputError("labels", f"{family} does not learn p(x|y); leave it out, or use one of {others}")
    options: FamilyOptions = merged(kind, "model", request.model, in_file["model"], request.config)
    training = complete_recipe(
        merged(TrainingOptions, "training", request.training, in_file["training"], request.config)
    )
    if place_of(request.data.get("data")) not in (
        None,
        place_of(in_file["data"].get("data", request.data.get("data"))),
    ):
        # The split rule of the file's data does not apply to other data.
        in_file["data"] = {k: v for k, v in in_file["data"].items() if k != "split_by"}
    data = located(merged(RunDataOptions, "data", request.data, in_file["data"], request.config))
    dataset = read_data(data)
    options = with_classes(options, dataset)
    config = RunConfig(
        family=family,
        data=data,
        model=options.resolved(dataset.shape),
        training=training,
        images=images_config(dataset),
        versions=versions(family),
        machine=conditions(training),
    )
    return config, dataset


def with_classes(options: FamilyOptions, dataset: Dataset) -> FamilyOptions:
    """The settings of a model, with the names of the data's classes if it learns labels, and without any if not.

    Raises:
        InputError: the data have no labels.
    """
    if not isinstance(options, LabelOptions):
        return options
    if not options.labels:
        return options.model_copy(update={"classes": ()})
    require_labels(dataset)
    return options.model_copy(update={"classes": tuple(map(as_text, dataset.classes))})


def located(data: RunDataOptions) -> RunDataOptions:
    """The same settings, with an absolute path of the data.

    Raises:
        InputError: the path is not valid UTF-8.
    """
    if as_text(data.data) != data.data:
        raise InputError("data", f"{data.data}: this name is not valid UTF-8, so a run cannot record it; rename it")
    if not is_place(data.data) or not Path(data.data).expanduser().exists():
        return data
    return data.model_copy(update={"data": str(Path(data.data).expanduser().resolve())})


def complete_recipe(training: TrainingOptions) -> TrainingOptions:
    """The options with either minutes or steps, and with sharding if the launcher requests it.

    Raises:
        InputError: both minutes and steps are given, or the device cannot train with these options.
    """
    if training.minutes is not None and training.steps is not None:
        raise InputError("minutes, steps", "both set the length of the training; give only one")
    if training.minutes is None and training.steps is None:
        training = training.model_copy(update={"minutes": DEFAULT_MINUTES})
    training_device(training)
    if training.tensorboard:
        summary_writer()
    return training.model_copy(update={"shard": training.shard or shares_asked()})


def place_of(value: Any) -> Any:
    """A setting, with an existing path made absolute."""
    return Path(value).expanduser().resolve() if isinstance(value, str) and Path(value).expanduser().exists() else value
