"""Train a model that was made in Python, on images from anywhere: the run directory is like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.check import checked
from nelbo.config.files import RunConfig, merged, versions, write_run_config
from nelbo.data import Dataset
from nelbo.data.assemble import assemble
from nelbo.data.axes import as_images
from nelbo.data.raw import ALL, Part, Raw, named_labels
from nelbo.errors import InputError
from nelbo.files import atomic_write
from nelbo.jobs.resume import resume_run
from nelbo.jobs.run import OWN_IMAGES, Run, images_config, read_data
from nelbo.jobs.settings import Request, complete_recipe, located
from nelbo.jobs.training import Work, require_doable, train_together
from nelbo.models.base import GenerativeModel
from nelbo.options import RunDataOptions, TrainingOptions
from nelbo.report.paths import free, unused
from nelbo.rng import Draws
from nelbo.theory.likelihoods import float_levels
from nelbo.training.machine import conditions

MOST_KEPT = 4 * 2**30
"""Bytes of images that a run keeps itself, where they are given as arrays."""


def fit(
    model: GenerativeModel,
    data: str | Path | Dataset | np.ndarray | Tensor,
    *,
    labels: np.ndarray | Tensor | None = None,
    out: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = False,
    **recipe: Any,
) -> Run:
    """Train a model that was made in Python, and keep it in a run directory, as ``nelbo.train`` does.

    Args:
        model: any of nelbo's models, with networks of your own or its; it is trained in place.
        data: a SPEC, a :class:`~nelbo.data.Dataset`, or images: integer levels in an array or tensor, shape
            (N, C, H, W), (N, H, W, C) or (N, H, W). Images that are given so are kept in the run, so that every
            command finds them; a tenth of them each is held out as ``val`` and ``test``, by their contents.
        labels: the class of each image of an array, integers, shape (N,); kept beside the images.
        out: the run directory; ``runs/FAMILY-DATA`` if None.
        minutes, steps: how long; 10 minutes if neither is given.
        resume: go on with the run in ``out``; if there is none, start it.
        recipe: any other field of :class:`~nelbo.options.TrainingOptions`, ``lr=1e-3``.

    Returns:
        The run. It is opened again by ``nelbo.load(RUN, network=…)``, with the parts that came from Python.

    Raises:
        InputError: anything that cannot be used; nothing has been written then.
        Interrupted: stopped by a signal, after a checkpoint.
    """
    given = {"minutes": minutes, "steps": steps} | recipe
    given = {name: value for name, value in given.items() if value is not None}
    unknown = sorted(given.keys() - TrainingOptions.model_fields.keys())
    if unknown:
        raise InputError(unknown[0], f"is no setting of training ({', '.join(TrainingOptions.model_fields)})")
    options, dataset, kept = images_of(data, labels, model.levels)
    require_fitting(model, dataset)
    place = Path(out) if out is not None else None

    def settle() -> Work:
        if resume and place is not None and place.is_dir():
            return resumed(Run(place), model, dataset, given)
        return begun(place, model, options, dataset, kept, given)

    return Run(train_together(settle, model), **{name: getattr(model, name, None) for name in model.recipe.parts})


def images_of(
    data: str | Path | Dataset | np.ndarray | Tensor, labels: np.ndarray | Tensor | None, levels: int
) -> tuple[RunDataOptions, Dataset, bool]:
    """The settings by which a run finds its images, the images, and whether the run has to keep them itself.

    Raises:
        InputError: they are no images, or too many to be kept.
    """
    if isinstance(data, str | Path):
        options = located(RunDataOptions(data=str(data)))
        return options, read_data(options), False
    options = RunDataOptions(data=OWN_IMAGES, layout="nhwc")  # as keep_images writes them
    if isinstance(data, Dataset):
        return options, data, True
    array = data.cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    if array.dtype.kind not in "biu":
        floats = torch.from_numpy(np.ascontiguousarray(array)) if array.dtype.kind == "f" else torch.empty(0)
        raise InputError("data", float_levels(floats, levels))

    if array.size and (int(array.min()) < 0 or int(array.max()) >= levels):
        raise InputError("data", f"has levels from {array.min()} to {array.max()}, and the model 0 … {levels - 1}")
    pixels = as_images(array.astype(np.uint8), "data", "nchw" if array.ndim == 4 and array.shape[1] <= 4 else None)
    found, classes = (None, ()) if labels is None else named_labels(np.asarray(labels))
    raw = Raw("images", "data", {ALL: Part(pixels, found)}, classes=classes, levels=levels)
    return options, assemble(raw, "images", checked(RunDataOptions, {"levels": levels})), True


def require_fitting(model: GenerativeModel, dataset: Dataset) -> None:
    """See to it that the images are of the model's shape and levels.

    Raises:
        InputError: they are not.
    """
    if dataset.shape != model.shape:
        theirs, own = ("×".join(map(str, shape)) for shape in (dataset.shape, model.shape))
        raise InputError("data", f"its images are {theirs}, and the model's {own} (C×H×W)")
    if dataset.levels != model.levels:
        raise InputError("data", f"has {dataset.levels} levels, and the model {model.levels}; make it with these")


def require_loss(model: GenerativeModel, dataset: Dataset) -> None:
    """See to it that the model can compute its loss of two of the images.

    Raises:
        InputError: it cannot; it says why.
    """
    images, draws = dataset.for_training[0][:2].to(model.device), Draws(0, 0, range(2), 2, model.device)
    training, images = model.training, images.clamp(max=model.levels - 1)
    model.eval()
    try:
        with torch.random.fork_rng([]), torch.no_grad():
            loss = model.loss(images, draws)
    except InputError:
        raise
    except Exception as error:
        raise InputError("model", f"cannot compute its loss: {type(error).__name__}: {error}") from error
    finally:
        model.train(training)
    if loss.shape != (2,) or not bool(loss.isfinite().all()):
        raise InputError("model", f"its loss of two images is {loss.tolist()}, and two finite numbers are needed")


def begun(
    out: Path | None,
    model: GenerativeModel,
    options: RunDataOptions,
    dataset: Dataset,
    kept: bool,
    given: dict[str, Any],
) -> Work:
    """A new run."""
    training = complete_recipe(merged(TrainingOptions, "training", given, {}, None))
    require_doable(model, training)
    require_loss(model, dataset)
    size = dataset.images.numel()
    if kept and size > MOST_KEPT:
        fix = "np.save('images.npy', images), and give that path"
        raise InputError("data", f"is {size / 2**30:.1f} GiB, more than a run keeps itself; {fix}")
    path = unused(Path("runs"), f"{model.family}-{dataset.name}", "") if out is None else free(out, "out")
    config = RunConfig(
        family=model.family,
        data=options,
        model=model.recipe.options.resolved(model.shape),
        parts=model.recipe.parts or None,
        training=training,
        images=images_config(dataset),
        versions=versions(model.family),
        machine=conditions(training),
    )
    path.mkdir(parents=True, exist_ok=True)
    if kept:
        keep_images(dataset, path / OWN_IMAGES)
    write_run_config(path, config)
    return Work(path, config, dataset, model)


def keep_images(dataset: Dataset, file: Path) -> None:
    """Write the images with their splits, labels and levels, as a SPEC reads them."""
    arrays: dict[str, np.ndarray] = {"levels": np.array(dataset.levels)}
    for split in dataset.bounds:
        arrays[f"x_{split}"] = dataset.split(split).permute(0, 2, 3, 1).numpy()
        labels = dataset.split_labels(split)
        if labels is not None:
            arrays[f"y_{split}"] = labels.numpy()
    with atomic_write(file) as aside, aside.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def resumed(run: Run, model: GenerativeModel, dataset: Dataset, given: dict[str, Any]) -> Work:
    """A run that goes on, with this model in the place of one that its settings would make.

    Raises:
        InputError: the run is of another model.
    """
    config, recipe = run.config, model.recipe
    if config.family != model.family:
        raise InputError("model", f"is a {model.family}, and {run.path} is a run of {config.family}")
    own, theirs = recipe.parts, config.parts or {}
    for name in sorted({*own, *theirs}):
        if own.get(name, "").rpartition(".")[2] != theirs.get(name, "").rpartition(".")[2]:
            ours = "nelbo's own"
            raise InputError(name, f"is {own.get(name, ours)}, and {run.path} has {theirs.get(name, ours)}")
    for field, value in recipe.options.resolved(model.shape):
        if value != getattr(config.model, field):
            raise InputError(field, f"the run was begun with {getattr(config.model, field)!r}, and this is {value!r}")
    run.dataset = dataset
    return resume_run(run, Request(config.family, {}, {}, given), model)
