"""Classify images by the bound of each label, stored in RUN/scores/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.check import checked
from nelbo.errors import InputError
from nelbo.jobs._rows import write_labels
from nelbo.jobs.kept import Answer, kept
from nelbo.jobs.labels import labels_of
from nelbo.jobs.run import Run
from nelbo.jobs.score_request import ImagesRequest, opened_with_warning, spec_options
from nelbo.jobs.score_result import own_measure
from nelbo.metrics.calibration import calibration_error, confusions, reliability
from nelbo.metrics.classification import Classified, classify_images
from nelbo.metrics.label_costs import PIECES, cost_profile
from nelbo.metrics.label_profile import CostProfile
from nelbo.models.base import GenerativeModel
from nelbo.models.diffusion import Diffusion
from nelbo.options import ClassifyOptions, DataOptions
from nelbo.processes import join, rank
from nelbo.report.paths import free
from nelbo.report.progress import bar
from nelbo.report.results import Classification, Reliability
from nelbo.training.machine import compute_dtype, usual_batch

IMAGES = 48
"""Held-out images on which the differences of labels are measured."""
BATCHES = 4
"""Evaluations at a time, in usual batches of images: those of few labels of many images are quicker together."""


def classify(
    run: str | Path | Run,
    *,
    data: DataOptions | str | Path | None = None,
    options: ClassifyOptions | None = None,
    **settings: Any,
) -> Classification:
    """Give each image the label y with the largest P(y|x) ∝ P(y) e^{−bound(x|y)} (:mod:`nelbo.metrics.classification`).

    Labels share their noise, and those that are clearly worse are not evaluated further.

    Args:
        run: a run that was trained with ``labels``, or its directory.
        data: other data of the same shape and levels than the run's own, with or without labels.
        options: the settings, or
        settings: fields of :class:`~nelbo.options.ClassifyOptions` by name, such as ``limit=100``.

    Returns:
        The result of ``nelbo classify --json``, typed.

    Raises:
        InputError: the run has no labels or no bound, or an argument cannot be used.
    """
    options = options or checked(ClassifyOptions, settings, str)
    if options.per_image is not None:
        free(options.per_image, "per_image")
    request = ImagesRequest.of(opened_with_warning(run), spec_options(data), options)
    model = labelled_model(request.model, request.run)
    out, matrices = options.per_image, compute_dtype(model.device, options.precision)

    def answer() -> Answer:
        prior = shares_of_classes(request.run, model)
        found = shared_labels(request, model, prior, options.evaluations, matrices)
        if out is not None and rank() == 0:
            write_labels(found, model.classes, request.dataset, options.split, out)
        return {"prior": prior.tolist(), **summarised(found, request)}, None

    key = request.key | {"kind": "labels", "classes": list(model.classes), "evaluations": options.evaluations}
    key["matrices"] = str(matrices).removeprefix("torch.")
    return kept(request.run, Classification, key, answer, options.again or out is not None)


def labelled_model(model: GenerativeModel, run: Run) -> Diffusion:
    """The model, if it has a bound of p(x|y) for at least two labels.

    Raises:
        InputError: it has not.
    """
    if not isinstance(model, Diffusion):
        why = f"this {model.family} has no bound of p(x|y)"
    elif len(model.classes) < 2:
        why = f"this {model.family} was trained " + ("with one class" if model.classes else "without labels")
    else:
        return model
    raise InputError(
        str(run.path), f"{why}; train a ddpm, vdm or diffusion with `labels`, on images of several classes"
    )


def shares_of_classes(run: Run, model: Diffusion) -> Tensor:
    """P(y), the share of each class in the training images, float64, shape (K,)."""
    labels = labels_of(run.dataset, "train", model.classes)
    assert labels is not None
    counts = torch.bincount(labels - 1, minlength=len(model.classes)).double()
    return counts / counts.sum()


def held_out_profile(run: Run, model: Diffusion, batch: int, matrices: torch.dtype) -> CostProfile:
    """The differences of labels on images of val, or of train if there are none."""
    split = "val" if len(run.dataset.split("val")) else "train"
    labels = labels_of(run.dataset, split, model.classes)
    assert labels is not None
    images = run.dataset.split(split)[:IMAGES]
    with bar("measuring how labels differ", PIECES + 1) as progress:
        return cost_profile(model, images, labels[:IMAGES], batch=batch, matrices=matrices, progress=progress.move)


def shared_labels(
    request: ImagesRequest, model: Diffusion, prior: Tensor, most: int, matrices: torch.dtype
) -> Classified:
    """The labels of all images, divided between the processes, with a progress bar.

    Args:
        request: the images, the seed and the batch size.
        model: the run's model.
        prior: P(y), shape (K,).
        most: the largest number of network evaluations of an image for one label.
        matrices: what the network multiplies matrices in.
    """
    team, n = join(), len(request.images)
    batch = request.options.batch_size or BATCHES * usual_batch(model.device)
    rows, profile = team.share(n), held_out_profile(request.run, model, batch, matrices)
    with bar(f"classifying {n:,} images", len(rows)) as progress:
        own = classify_images(
            model,
            request.images,
            profile,
            prior,
            seed=request.options.seed,
            most=most,
            batch=batch,
            rows=rows,
            matrices=matrices,
            progress=progress.move,
        )
    return Classified(*(team.together(part, n) for part in (own.label, own.behind, own.stderr, own.evaluations)))


def summarised(found: Classified, request: ImagesRequest) -> dict[str, Any]:
    """The fields of a result from the labels of the images."""
    undecided = found.undecided
    values = {
        "evaluations_per_image": float(found.evaluations.double().mean()),
        "undecided": float(undecided.double().mean()),
    }
    if request.labels is None:
        why = f"nothing to compare with: {request.dataset.name} has no labels of the run's classes"
        return {**values, "warnings": [why]}
    return values | against_labels(found, request.labels - 1, request.copies)


def against_labels(found: Classified, truth: Tensor, copies: Tensor) -> dict[str, Any]:
    """The fields of a result that compare with the images' own labels.

    Args:
        found: the labels of n images.
        truth: their own labels, indices into the classes, int64, shape (n,).
        copies: the index of each image's distinct image, shape (n,).
    """
    right, decided, stated = found.label == truth, ~found.undecided, found.probabilities()
    log_loss = -stated.gather(1, truth[:, None])[:, 0].clamp(min=torch.finfo(torch.float64).tiny).log()
    table = reliability(stated.gather(1, found.label[:, None])[:, 0], right)
    of_decided = {}
    if bool(decided.any()):
        of_decided["right_of_decided"] = own_measure("right", right[decided].double(), copies[decided])
    return {
        "right": own_measure("right", right.double(), copies),
        **of_decided,
        "log_loss": own_measure("log_loss", log_loss, copies),
        "confusion": confusions(truth, found.label, found.undecided, stated.shape[1]).tolist(),
        "calibration": [Reliability(**each._asdict()) for each in table],
        "calibration_error": calibration_error(table),
    }
