"""What a score was asked for, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.jobs.run import Run, is_place, read_data
from nelbo.models._checks import checked_int
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.models.diffusion import in_steps
from nelbo.models.forms import Estimator
from nelbo.options import DataOptions, RunDataOptions


def require_numbers(replicates: int, limit: int | None, batch: int | None, seed: int) -> None:
    """Check what a Python call may get wrong.

    Raises:
        InputError: a number out of its range.
    """
    for option, value, least in (("replicates", replicates, 2), ("limit", limit, 1), ("batch_size", batch, 1)):
        if value is not None:
            checked_int(option, value, least)
    checked_int("seed", seed, 0, 2**63 - 1)


def chosen_data(run: Run, options: DataOptions | None) -> Dataset:
    """The run's own data, or others, or the run's own read in another way.

    Raises:
        InputError: data that the run cannot score, or that have changed since it was begun.
    """
    if options is None:
        if run.dataset.sha256 != run.config.images.sha256:
            spec = run.config.data.data
            raise InputError("data", f"{spec} has changed since the run: its test images may be ones it was trained on")
        return run.dataset
    given = options.model_dump(exclude_unset=True)
    if list(given) == ["data"] and is_place(given["data"]) and same_place(given["data"], run.config.data.data):
        return chosen_data(run, None)
    own = run.config.data.model_copy(update=given)  # other settings of reading as the run's
    if "data" not in given:
        dataset = read_data(own)
    elif is_own(run, own):
        return run.dataset
    else:
        dataset = read_data(options)
    fits(run, dataset)
    return dataset


def same_place(one: str, other: str) -> bool:
    """Whether two paths lead to the same file or folder."""
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def is_own(run: Run, data: RunDataOptions) -> bool:
    """Whether this is a place of the run's own images, perhaps a new one; the run then reads them from there."""
    if not is_place(data.data):
        return data == run.config.data and run.dataset.sha256 == run.config.images.sha256
    try:
        dataset = read_data(data)
    except InputError:  # what is wrong is said when they are read as other data
        return False
    if dataset.sha256 == run.config.images.sha256:
        run.dataset = dataset
    return dataset.sha256 == run.config.images.sha256


def fits(run: Run, dataset: Dataset) -> None:
    """Check that a run can score these data.

    Raises:
        InputError: another shape, or more levels.
    """
    own = run.config.images
    if dataset.shape != own.shape:
        theirs, ours = ("×".join(map(str, shape)) for shape in (dataset.shape, own.shape))
        raise InputError("data", f"its images are {theirs} and the run's are {ours} (C×H×W); see `size` and `channels`")
    if dataset.levels != own.levels:
        raise InputError(
            "data", f"has {dataset.levels} levels and the run has {own.levels}; bits/dim would not compare"
        )


def chosen_form(model: LikelihoodModel, name: str) -> Estimator:
    """The form of this name.

    Raises:
        InputError: the family has none.
    """
    try:
        return model.forms.named(name)
    except InputError as error:
        raise InputError("form", error.problem) from None


def chosen_timesteps(model: LikelihoodModel, asked: int | None, form: Estimator) -> int:
    """How many t per image: the default for None, all for 0, and all for a form that takes whole trajectories."""
    if form.counts != "timesteps":
        if asked not in (None, 0):
            raise InputError("timesteps", "this form leaves no t to choose; leave it out")
        return model.forms.all_timesteps or 0
    if asked is None:
        return model.forms.default_timesteps
    there_are = model.forms.all_timesteps
    if there_are is None:
        if asked < 1:
            raise InputError("timesteps", "continuous time has no last t; give a number of at least 1")
        return asked
    if not 0 <= asked <= there_are:
        raise InputError("timesteps", f"{asked} is not between 1 and {there_are} (0 takes them all)")
    return asked or there_are


def chosen_k(asked: int | None, form: Estimator) -> int | None:
    """Trajectories in one logarithm, where the form has one.

    Raises:
        InputError: less than 1, or a form that has none.
    """
    if form.counts != "k":
        if asked is not None:
            raise InputError("k", "only the importance-weighted form has a k; add `form` iw, or leave it out")
        return None
    if asked is not None and asked < 1:
        raise InputError("k", f"{asked} is less than 1")
    return asked or 8


class Estimation(NamedTuple):
    """How a bound is to be estimated.

    Attributes:
        form: how it is written.
        timesteps: t per image and replicate, or 0.
        k: samples in one logarithm, or None.
        T: the steps of the bound, or None for the model's own.
        replicates: independent estimates.
    """

    form: str
    timesteps: int
    k: int | None
    T: int | None
    replicates: int

    @classmethod
    def chosen(
        cls,
        model: LikelihoodModel,
        *,
        form: str | None,
        timesteps: int | None,
        k: int | None,
        T: int | None,
        replicates: int,
    ) -> tuple[LikelihoodModel, Estimation]:
        """The model, in T steps where that was asked for, and what is left open filled in.

        Raises:
            InputError: what the model does not have, or what does not go together.
        """
        model = model if T is None else in_steps(model, T)
        form = form or next(iter(model.forms))
        written = chosen_form(model, form)
        return model, cls(form, chosen_timesteps(model, timesteps, written), chosen_k(k, written), T, replicates)

    @property
    def asked(self) -> dict[str, Any]:
        """What is kept with the score."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def refuse_for_no_bound(model: GenerativeModel, options: Mapping[str, object]) -> None:
    """Options that only a bound has a use for.

    Raises:
        InputError: one of them was given.
    """
    for option, value in options.items():
        if value is not None:
            raise InputError(option, f"{model.family} has no bound ({model.inspector.why_no_bound}); leave it out")


def baseline_model(other: Run, run: Run, weights: str, device: str, how: Estimation) -> LikelihoodModel:
    """The model of the run to compare with.

    Raises:
        InputError: it is of images of another kind, or has no bound in this form.
    """
    path = other.path
    if (other.config.images.shape, other.config.images.levels) != (run.config.images.shape, run.config.images.levels):
        raise InputError("baseline", f"{path} is of images of another size or with other levels")
    model = other.model(weights, device)
    if not isinstance(model, LikelihoodModel):
        raise InputError("baseline", f"{path} has no bound: {model.inspector.why_no_bound}")
    model = model if how.T is None else in_steps(model, how.T)
    if how.form not in model.forms:
        raise InputError("baseline", f"{path} has no form {how.form!r} (its forms: {', '.join(model.forms)})")
    return model
