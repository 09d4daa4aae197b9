"""Evaluate a run by its samples: distances, modes and copies, stored in RUN/scores/."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.check import checked
from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.files import atomic_write
from nelbo.jobs._digest import digests
from nelbo.jobs.chosen_data import chosen_data
from nelbo.jobs.features import INCEPTION, Features, open_features
from nelbo.jobs.kept import Answer, kept
from nelbo.jobs.run import Run
from nelbo.jobs.sample import classes_of, collect, guided, settings_of
from nelbo.jobs.sharded import opened, shared_rows
from nelbo.jobs.steps import sampled_steps
from nelbo.metrics.manifold import nearest
from nelbo.metrics.quality import measure_modes, measure_quality
from nelbo.models._collapse import TOO_EARLY, class_ratio, collapse_line, spread, variance_ratio
from nelbo.options import EvaluateOptions
from nelbo.processes import rank
from nelbo.report.paths import free, reachable
from nelbo.report.pictures import beside, grid
from nelbo.report.progress import bar
from nelbo.report.results import Evaluation
from nelbo.streams import as_text

SHOWN = 48
DRAWN_AT_ONCE = 64
SPREAD = 1000
"""The largest number of samples and images for the detection of collapse by pixels."""
LEAST = 20
"""The smallest number of images to compare samples with."""


def evaluate(run: str | Path | Run, *, options: EvaluateOptions | None = None, **settings: Any) -> Evaluation:
    """Draw samples and compare them with a split in a feature space; also search for copies of training images.

    Args:
        run: the run, or its directory.
        options: the samples and the measurement, or
        settings: fields of :class:`~nelbo.options.EvaluateOptions` by name, such as ``samples=2000``.

    Returns:
        The result of ``nelbo evaluate --json``, typed.

    Raises:
        InputError: an argument cannot be used.
    """
    options = options or checked(EvaluateOptions, settings, str)
    if options.neighbours is not None:
        free(options.neighbours, "neighbours")
        reachable(options.neighbours, "neighbours")
    run = opened(run)
    dataset = chosen_data(run, None)
    how = settings_of(options)
    model = run.model(options.weights, options.device)
    asked = classes_of(model, how, options.samples, "samples")
    unseen, train = images_of(dataset, options.split, asked), dataset.split("train")
    if len(unseen) < LEAST:
        raise InputError("split", f"{options.split} has {len(unseen)} images, too few to measure")
    space = open_features(options.features, dataset, options.device, run.config.data)
    model = sampled_steps(run, model, options, options.weights)
    how = guided(run, how, options, options.weights, options.device)

    def answer() -> Answer:
        started, batch = time.monotonic(), options.batch_size or DRAWN_AT_ONCE
        drawn, _ = collect(model, options.samples, options.seed, how, batch, keep_frames=False)
        seconds = time.monotonic() - started
        if options.neighbours is not None and rank() == 0:
            draw_neighbours(drawn[:SHOWN], train, dataset.levels, options.neighbours)
        found = measured(space, drawn, unseen, train, run.step, asked)
        return found | {"kind": "samples", "terms": {}, "bits_per_dim": None, "drawing_seconds": seconds}, None

    key = key_of(run, options, space) | {
        "n": len(unseen),
        "sampling": model.inspector.describe_sampling(how),
        "sampling_settings": {name: value for name, value in how._asdict().items() if hasattr(options, name)},
        **({"spacing": "best"} if options.spacing == "best" else {}),
        **({"autoguidance": options.autoguidance} if options.autoguidance is not None else {}),
        **digests(run, options.weights),
    }
    return kept(run, Evaluation, key, answer, options.again or options.neighbours is not None)


def key_of(run: Run, options: EvaluateOptions, space: Features) -> dict[str, Any]:
    """The fields of an evaluation that name its images, samples and features."""
    learnt_from = ("data_sha256", "model_sha256")
    return {
        "family": run.config.family,
        "data": run.dataset.name,
        "data_sha256": run.dataset.sha256,
        "split": options.split,
        "samples": options.samples,
        "weights": options.weights,
        "step": run.step,
        "seed": options.seed,
        "features": space.name,
        "features_sha256": space.sha256,
        **{f"features_{name}": space.about[name] for name in learnt_from if name in space.about},
    }


def images_of(dataset: Dataset, split: str, classes: Sequence[str]) -> Tensor:
    """The images of a split that are of these classes; all without classes."""
    images, labels = dataset.split(split), dataset.split_labels(split)
    if not classes or labels is None:
        return images
    wanted = torch.tensor([as_text(name) in classes for name in dataset.classes])
    return images[wanted[labels]]


def asked_of(space: Features, classes: Sequence[str], n: int) -> Tensor | None:
    """The class of each sample as the features' classifier counts them, shape (n,); None if it does not know them."""
    known = [as_text(name) for name in space.about.get("classes", ())]
    if not classes or not set(classes) <= set(known):
        return None
    return torch.tensor([known.index(classes[i % len(classes)]) for i in range(n)])


def measured(
    space: Features, drawn: Tensor, unseen: Tensor, train: Tensor, step: int, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """All measures of the samples, of these classes in turn, in the feature space."""
    sets = {"samples": drawn, "images": unseen, "training images": train}
    features = [
        shared_rows(space.embed, images, f"features of {len(images):,} {name}") for name, images in sets.items()
    ]
    with bar("distances and neighbours", None):
        found = measure_quality(*features)
    fd, kd = ("FID", "KID") if space.name == INCEPTION else (f"FD-{space.name}", f"KD-{space.name}")
    quality = {
        fd: found.fd._asdict(),
        kd: found.kd._asdict(),
        **{name: {"value": value, "stderr": None} for name, value in found.manifold._asdict().items()},
        "memorisation": found.memorisation._asdict(),
    }
    spreads = spread(drawn[:SPREAD].float(), unseen[:SPREAD].float())
    spreads["features_of_samples_over_images"] = variance_ratio(*features[:2])
    answer = {"quality": quality, "diagnostics": spreads, "warnings": warnings(spreads, step)}
    if space.classify is None:
        return answer
    read, theirs = (shared_rows(space.classify, images, "classes") for images in (drawn, unseen))
    spreads["classes_of_samples_over_images"] = class_ratio(read.argmax(1), theirs.argmax(1))
    modes = measure_modes(read, theirs, asked_of(space, classes, len(drawn)))
    return answer | {"modes": modes, "warnings": warnings(spreads, step)}


def warnings(spreads: dict[str, object], step: int) -> list[str]:
    """A warning for samples that have collapsed, after enough steps of training."""
    line = collapse_line(spreads)
    return [] if line is None or 0 < step < TOO_EARLY else [line]  # an imported run has step 0


def draw_neighbours(drawn: Tensor, train: Tensor, levels: int, out: Path) -> None:
    """Samples beside the nearest training images, by pixels."""
    _, index = nearest(drawn.flatten(1).float(), train.flatten(1).float())
    sheet = beside(grid(drawn, levels), "drawn", grid(train[index], levels), "nearest training images")
    with atomic_write(out) as aside:
        sheet.save(aside)
