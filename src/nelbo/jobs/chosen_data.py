"""The images to measure a run on: its own, or others."""

from __future__ import annotations

from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.jobs.run import Run, is_place, read_data
from nelbo.jobs.settings import place_of
from nelbo.options import DataOptions, RunDataOptions


def chosen_data(run: Run, options: DataOptions | None) -> Dataset:
    """The run's own data, other data, or the run's own data read with other options.

    Raises:
        InputError: the run cannot score the data, or its own data have changed.
    """
    if options is None:
        if run.dataset.sha256 != run.config.images.sha256:
            spec = run.config.data.data
            raise InputError("data", f"{spec} has changed since the run: its test images may be former training images")
        return run.dataset
    given = options.model_dump(exclude_unset=True)
    spec = given.get("data", "")
    if len(given) == 1 and is_place(spec) and place_of(spec) == place_of(run.config.data.data):
        return chosen_data(run, None)
    own = run.config.data.model_copy(update=given)  # the run's other data options
    if "data" not in given:
        dataset = read_data(own)
    elif is_own(run, own):
        return run.dataset
    else:
        dataset = read_data(options)
    fits(run, dataset)
    return dataset


def is_own(run: Run, data: RunDataOptions) -> bool:
    """Whether this is the location of the run's own images, which may have moved; the run then reads them there."""
    if not is_place(data.data):
        return data == run.config.data and run.dataset.sha256 == run.config.images.sha256
    try:
        dataset = read_data(data)
    except InputError:  # reported when they are read as other data
        return False
    if dataset.sha256 == run.config.images.sha256:
        run.dataset = dataset
    return dataset.sha256 == run.config.images.sha256


def fits(run: Run, dataset: Dataset) -> None:
    """Check that a run can score these data.

    Raises:
        InputError: the shape or the number of levels differs.
    """
    own = run.config.images
    if dataset.shape != own.shape:
        theirs, ours = ("×".join(map(str, shape)) for shape in (dataset.shape, own.shape))
        raise InputError("data", f"its images are {theirs}, but the run's {ours} (C×H×W); see `size` and `channels`")
    if dataset.levels != own.levels:
        raise InputError(
            "data", f"has {dataset.levels} levels, but the run has {own.levels}; bits/dim would not be comparable"
        )
