"""The request of a score or of another measurement of images, checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from torch import Tensor

from nelbo.data import Dataset
from nelbo.errors import InputError, nearest
from nelbo.jobs._digest import digests
from nelbo.jobs.chosen_data import chosen_data
from nelbo.jobs.labels import known_labels, labels_sha256
from nelbo.jobs.run import Run, data_spec
from nelbo.jobs.sharded import opened
from nelbo.jobs.steps import asked_steps
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.models.diffusion import Diffusion
from nelbo.models.forms import Estimator
from nelbo.options import DataOptions, ImagesOptions, ScoreOptions
from nelbo.report.paths import free
from nelbo.report.progress import console
from nelbo.training.machine import usual_batch

SPLITS = ("train", "val", "test")
IN_STEPS = ("T", "spacing", "reverse_variance")
MARKS = ("per_image", "worst", "false_alarms")
"""Options with which images are compared with a threshold."""
OF_A_BOUND = ("form", "timesteps", "k", *IN_STEPS, "baseline", "profile", "against", *MARKS)
"""Options that apply only to a bound."""


def require_together(options: ScoreOptions, data: DataOptions | None) -> None:
    """Check combinations of options before anything is read.

    Raises:
        InputError: an option lacks another one that it needs, or a file exists.
    """
    against = options.against
    if options.worst is not None:
        require_page(options.out)
    elif options.out is not None:
        raise InputError("out", "is the page of `worst`; add that option, or leave it out")
    if options.per_image is not None:
        free(options.per_image, "per_image")
    elif options.sort:
        raise InputError("sort", "sorts the rows of `per_image`; add that option, or leave it out")
    if against is not None and (data is None or "data" not in data.model_fields_set):
        raise InputError("against", "compares other data with the run's own; name the other data with `data`")
    if against is not None and against not in SPLITS:
        raise InputError("against", f"{against!r} is not a split{nearest(against, SPLITS)} (splits: train, val, test)")


def spec_options(data: DataOptions | str | Path | None) -> DataOptions | None:
    """Data options, from options or a SPEC; None for the run's own data.

    Raises:
        InputError: the data are neither.
    """
    return data if data is None or isinstance(data, DataOptions) else DataOptions(data=data_spec(data))


def opened_with_warning(run: str | Path | Run) -> Run:
    """The run, after a warning if its held-out images may be former training images."""
    found = opened(run)
    if (warning := found.changed_data) is not None:
        console().print(warning)
    return found


def require_page(out: Path | None) -> None:
    """Check the path of a page.

    Raises:
        InputError: the suffix is not .html, or the file exists.
    """
    if out is not None:
        if out.suffix.lower() != ".html":
            raise InputError("out", f"{out} must end in .html")
        free(out, "out")


@dataclass(frozen=True)
class ImagesRequest:
    """The images to measure a run on, and the model.

    Attributes:
        run: the run.
        options: the requested settings.
        dataset: the images.
        model: the run's model.
    """

    run: Run
    options: ImagesOptions
    dataset: Dataset
    model: GenerativeModel

    @classmethod
    def of(cls, run: Run, data: DataOptions | None, options: Any) -> Self:
        """Read the images and load the model.

        Raises:
            InputError: one of them cannot be used, or the options cannot be combined.
        """
        dataset = chosen_data(run, data)
        dataset.split(options.split)  # raises before the model is loaded
        return cls(run, options, dataset, run.model(options.weights, options.device))

    @property
    def images(self) -> Tensor:
        """Integer levels, shape (n, C, H, W)."""
        return self.dataset.split(self.options.split)[: self.options.limit]

    @property
    def marks(self) -> bool:
        """Whether the images are compared with a threshold."""
        return any(getattr(self.options, name) is not None for name in MARKS)

    @cached_property
    def copies(self) -> Tensor:
        """The index of each image's distinct image, shape (n,)."""
        return self.dataset.copies(self.options.split)[: self.options.limit]

    @cached_property
    def labels(self) -> Tensor | None:
        """y of each image, 1 … K, int64, shape (n,), for a model with classes, if the data have these classes."""
        labels = known_labels(self.dataset, self.options.split, self.model.classes)
        return None if labels is None else labels[: self.options.limit]

    @property
    def batch(self) -> int:
        """Images per batch."""
        return self.options.batch_size or usual_batch(self.model.device)

    @property
    def key(self) -> dict[str, Any]:
        """The fields of a result that identify model and images."""
        return {
            "family": self.run.config.family,
            "data": self.dataset.name,
            "data_sha256": self.dataset.sha256,
            "split": self.options.split,
            "n": len(self.images),
            "n_distinct": int(self.copies.max()) + 1,
            "weights": self.options.weights,
            "step": self.run.step,
            "seed": self.options.seed,
            **digests(self.run, self.options.weights),
            "levels": self.dataset.levels,
            "dims": self.model.dims,
            **({} if self.labels is None else {"labels_sha256": labels_sha256(self.labels)}),
        }


@dataclass(frozen=True)
class ScoreRequest(ImagesRequest):
    """The images to score, and the model."""

    options: ScoreOptions

    @classmethod
    def of(cls, run: Run, data: DataOptions | None, options: ScoreOptions) -> Self:
        """As of any measurement, after the check of the options."""
        require_together(options, data)
        return super().of(run, data, options)


def chosen_timesteps(model: LikelihoodModel, asked: int | None, form: Estimator) -> int:
    """The number of t per image: the default for None; all for 0, and for a form of whole trajectories."""
    if form.counts != "timesteps":
        if asked not in (None, 0):
            raise InputError("timesteps", "this form always uses every t; leave it out")
        return model.forms.all_timesteps or 0
    if asked is None:
        return model.forms.default_timesteps
    there_are = model.forms.all_timesteps
    if there_are is None:
        if asked < 1:
            raise InputError("timesteps", "continuous time has no largest number of t; use at least 1")
        return asked
    if asked > there_are:
        raise InputError("timesteps", f"{asked} is not between 1 and {there_are} (0 means all)")
    return asked or there_are


def chosen_k(asked: int | None, form: Estimator) -> int | None:
    """k, the trajectories in one logarithm, if the form has it.

    Raises:
        InputError: k is given, but the form does not have it.
    """
    if form.counts != "k":
        if asked is not None:
            raise InputError("k", "only the importance-weighted form has k; add `form` iw, or leave it out")
        return None
    return asked or 8


class Estimation(NamedTuple):
    """How a bound is estimated.

    Attributes:
        form: the form.
        timesteps: t per image and replicate, or 0.
        k: samples in one logarithm, or None.
        T: the steps of the bound, or None for the model's own.
        replicates: independent estimates.
        spacing, reverse_variance: of the steps, if they were given.
        gammas: γ of the latents, if the steps were chosen.
    """

    form: str
    timesteps: int
    k: int | None
    T: int | None
    replicates: int
    spacing: str | None = None
    reverse_variance: str | None = None
    gammas: list[float] | None = None

    @classmethod
    def chosen(cls, run: Run, model: LikelihoodModel, options: ScoreOptions) -> tuple[LikelihoodModel, Estimation]:
        """The model, in T steps if requested, and the settings of the estimate with all defaults.

        Raises:
            InputError: the model does not have the form, or the options cannot be combined.
        """
        model = asked_steps(run, model, options)
        form = options.form or next(iter(model.forms))
        written = model.forms.named(form)
        timesteps, k = chosen_timesteps(model, options.timesteps, written), chosen_k(options.k, written)
        steps = model.timeline.steps if isinstance(model, Diffusion) else None
        gammas = None if steps is None else steps[1:].tolist()
        how = cls(form, timesteps, k, options.T, options.replicates)
        spacing = None if options.spacing == "even" else options.spacing
        return model, how._replace(spacing=spacing, reverse_variance=options.reverse_variance, gammas=gammas)

    @property
    def key(self) -> dict[str, Any]:
        """The fields of a score that identify the estimate."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def refuse_for_no_bound(model: GenerativeModel, options: ScoreOptions) -> None:
    """Refuse options that apply only to a bound.

    Raises:
        InputError: such an option is given.
    """
    for name in OF_A_BOUND:
        if getattr(options, name) is not None:
            raise InputError(name, f"{model.family} has no bound ({model.inspector.why_no_bound}); leave it out")


class Baseline(NamedTuple):
    """The run for a comparison.

    Attributes:
        model: its model.
        key: the fields of a score that identify it.
    """

    model: LikelihoodModel
    key: dict[str, Any]

    @classmethod
    def of(cls, request: ScoreRequest, how: Estimation) -> Baseline | None:
        """The requested baseline, or None.

        Raises:
            InputError: its images are of another kind, or it has no bound in this form.
        """
        options, images = request.options, request.run.config.images
        path = options.baseline
        if path is None:
            return None
        run = opened(path)
        own = run.config.images
        if (own.shape, own.levels) != (images.shape, images.levels):
            raise InputError("baseline", f"{path} has images of another size or with other levels")
        model = run.model(options.weights, options.device)
        if not isinstance(model, LikelihoodModel):
            raise InputError("baseline", f"{path} has no bound: {model.inspector.why_no_bound}")
        model = asked_steps(run, model, options)
        if how.form not in model.forms:
            raise InputError("baseline", f"{path} has no form {how.form!r} (its forms: {', '.join(model.forms)})")
        key = {"run": str(path), "step": run.step, **digests(run, options.weights)}
        return cls(model, {f"baseline_{name}": value for name, value in key.items()})
