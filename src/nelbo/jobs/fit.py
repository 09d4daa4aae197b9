"""Train a model that was made in Python, on any images, in an ordinary run directory."""

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
from nelbo.jobs.labels import labels_of
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
"""The largest size of arrays, in bytes, that a run stores itself."""


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
    """Train a model that was made in Python, in a run directory, like ``nelbo.train``.

    Args:
        model: a model of nelbo, with your own networks or nelbo's; it is trained in place.
        data: a SPEC, a :class:`~nelbo.data.Dataset`, or images: integer levels as an array or tensor, shape
            (N, C, H, W), (N, H, W, C) or (N, H, W). The run stores such images, so that every command finds them. A
            tenth of them each is held out as ``val`` and ``test``, by content.
        labels: the class of each image of an array, shape (N,), stored with the images: integers or names. For a model
            with ``classes`` they are names of these, or else indices 0 … K − 1 into them.
        out: the run directory; None for ``runs/FAMILY-DATA``.
        minutes, steps: the length of the training; 10 minutes if neither is given.
        resume: whether to continue the run in ``out``; it is started if it does not exist.
        recipe: other fields of :class:`~nelbo.options.TrainingOptions`, such as ``lr=1e-3``.

    Returns:
        The run. ``nelbo.load(RUN, network=…)`` opens it again, with its parts from Python.

    Raises:
        InputError: an argument cannot be used; nothing has been written then.
        Interrupted: a signal stopped the training, after a checkpoint.
    """
    given = {"minutes": minutes, "steps": steps} | recipe
    given = {name: value for name, value in given.items() if value is not None}
    unknown = sorted(given.keys() - TrainingOptions.model_fields.keys())
    if unknown:
        raise InputError(unknown[0], f"is not a training option ({', '.join(TrainingOptions.model_fields)})")
    options, dataset, kept = images_of(data, labels, model.levels, model.classes)
    require_fitting(model, dataset)
    place = Path(out) if out is not None else None

    def settle() -> Work:
        if resume and place is not None and place.is_dir():
            return resumed(Run(place), model, dataset, given)
        return begun(place, model, options, dataset, kept, given)

    return Run(train_together(settle, model), **{name: getattr(model, name, None) for name in model.recipe.parts})


def images_of(
    data: str | Path | Dataset | np.ndarray | Tensor,
    labels: np.ndarray | Tensor | None,
    levels: int,
    names: tuple[str, ...] = (),
) -> tuple[RunDataOptions, Dataset, bool]:
    """The data options of the run, the images, and whether the run must store them.

    Args:
        data, labels: as in :func:`fit`.
        levels: of the model.
        names: the classes of the model.

    Raises:
        InputError: the data are not images of the model's levels.
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
        raise InputError("data", f"has levels from {array.min()} to {array.max()}, but the model 0 … {levels - 1}")
    pixels = as_images(array.astype(np.uint8), "data", "nchw" if array.ndim == 4 and array.shape[1] <= 4 else None)
    found, classes = (None, ()) if labels is None else class_labels(np.asarray(labels), names)
    raw = Raw("images", "data", {ALL: Part(pixels, found)}, classes=classes, levels=levels)
    return options, assemble(raw, "images", checked(RunDataOptions, {"levels": levels})), True


def class_labels(values: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as indices into their classes, and the names of these.

    Args:
        values: integers or names, shape (N,).
        names: the classes of the model, into which integers that are not names are indices.

    Raises:
        InputError: an index is out of range.
    """
    index, found = named_labels(values)
    if not names or set(found) <= set(names) or values.dtype.kind not in "iu":
        return index, found
    if int(values.min()) < 0 or int(values.max()) >= len(names):
        wrong = values.min() if values.min() < 0 else values.max()
        raise InputError("labels", f"has {wrong}, but the model's {len(names)} classes are 0 … {len(names) - 1}")
    return values.astype(np.int64), names


def require_fitting(model: GenerativeModel, dataset: Dataset) -> None:
    """Check that the images have the model's shape, levels and classes.

    Raises:
        InputError: they do not.
    """
    if dataset.shape != model.shape:
        theirs, own = ("×".join(map(str, shape)) for shape in (dataset.shape, model.shape))
        raise InputError("data", f"its images are {theirs}, but the model's are {own} (C×H×W)")
    if dataset.levels != model.levels:
        raise InputError("data", f"has {dataset.levels} levels, but the model {model.levels}; they must be equal")
    labels_of(dataset, "train", model.classes)


def require_loss(model: GenerativeModel, dataset: Dataset) -> None:
    """Check that the model can compute its loss of two of the images.

    Raises:
        InputError: it cannot; the message gives the reason.
    """
    labels = labels_of(dataset, "train", model.classes)
    labels = None if labels is None else labels[:2].to(model.device)
    images, draws = dataset.for_training[0][:2].to(model.device), Draws(0, 0, range(2), 2, model.device, labels)
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
        raise InputError("model", f"its loss of two images is {loss.tolist()}, but must be two finite numbers")


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
        raise InputError("data", f"is {size / 2**30:.1f} GiB, more than a run stores; {fix}")
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
    """Write the images with their splits, labels and levels, as a file that a SPEC can name."""
    names = np.array(list(map(int if all(map(str.isdecimal, dataset.classes)) else str, dataset.classes)))
    arrays: dict[str, np.ndarray] = {"levels": np.array(dataset.levels)}
    for split in dataset.bounds:
        arrays[f"x_{split}"] = dataset.split(split).permute(0, 2, 3, 1).numpy()
        labels = dataset.split_labels(split)
        if labels is not None:
            arrays[f"y_{split}"] = names[labels.numpy()]
    with atomic_write(file) as aside, aside.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def resumed(run: Run, model: GenerativeModel, dataset: Dataset, given: dict[str, Any]) -> Work:
    """A resumed run, with this model instead of one made from the settings.

    Raises:
        InputError: the run has another model.
    """
    config, recipe = run.config, model.recipe
    if config.family != model.family:
        raise InputError("model", f"is a {model.family}, but {run.path} is a run of {config.family}")
    own, theirs = recipe.parts, config.parts or {}
    for name in sorted({*own, *theirs}):
        if own.get(name, "").rpartition(".")[2] != theirs.get(name, "").rpartition(".")[2]:
            ours = "nelbo's own"
            raise InputError(name, f"is {own.get(name, ours)}, but {run.path} has {theirs.get(name, ours)}")
    for field, value in recipe.options.resolved(model.shape):
        if value != getattr(config.model, field):
            raise InputError(field, f"the run was started with {getattr(config.model, field)!r}, but this is {value!r}")
    run.dataset = dataset
    return resume_run(run, Request(config.family, {}, {}, given), model)
