"""Feature spaces: a small classifier of the data's labels, or the codes of an ``ae``."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from platformdirs import user_cache_dir
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from nelbo.check import checked
from nelbo.config.files import CONFIG
from nelbo.cores import on_own_cores
from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.files import naming, replace_text, write_synced
from nelbo.jobs._advice import codes_instead, data_words, pasteable
from nelbo.jobs._digest import digests
from nelbo.jobs.run import Run, data_spec, read_data, scoring_device
from nelbo.metrics.inception import inception
from nelbo.models.ae import AE
from nelbo.nn import default_widths
from nelbo.nn.classifier import Classifier
from nelbo.options import DataOptions, FeaturesOptions
from nelbo.report.paths import free, reachable
from nelbo.report.progress import bar
from nelbo.rng import permutation
from nelbo.theory.likelihoods import to_unit
from nelbo.training.machine import autocast

WEIGHTS, ABOUT = "features.safetensors", "features.json"
FORMAT = 1
INCEPTION = "inception"
BATCH = 64
SHIFT = 2
"""Training images are shifted by up to this number of pixels."""


class Features(NamedTuple):
    """A feature space.

    Attributes:
        name: the suffix of FD- and KD-; with Inception's features these are FID and KID.
        sha256: of the weights.
        about: further facts: accuracy, data.
        embed: integer levels (B, C, H, W) → features (B, d).
        classify: integer levels (B, C, H, W) → class probabilities (B, K); None without classes.
    """

    name: str
    sha256: str
    about: dict[str, Any]
    embed: Any
    classify: Any


def usual_place(name: str, sha256: str) -> Path:
    """The default folder of a data set's features."""
    return Path(user_cache_dir("nelbo")) / "features" / f"{name}-{sha256[:12]}"


def features(
    data: str | Path | DataOptions, *, options: FeaturesOptions | None = None, **settings: Any
) -> tuple[Path, dict[str, Any]]:
    """Train a classifier on the data's labels, and store it; or find the one that the cache has.

    Args:
        data: the images: a name, a path, or how they are read.
        options: the options; or give
        settings: any fields of :class:`~nelbo.options.FeaturesOptions` by name, ``epochs=4``.

    Returns:
        Its folder, and the contents of ``features.json``.

    Raises:
        InputError: the images have no labels, or the folder exists.
    """
    options = options or checked(FeaturesOptions, settings)
    data = data if isinstance(data, DataOptions) else DataOptions(data=data_spec(data))
    out, epochs, seed = options.out, options.epochs, options.seed
    if out is not None:
        free(out, "out")
        reachable(out, "out")
    dataset = read_data(data)
    labels = dataset.split_labels("train")
    if labels is None or not has_classes(dataset):
        fix = codes_instead(data, dataset.name)
        raise InputError("data", f"{dataset.name} has no labels to train a classifier on; {fix}")
    folder = out or usual_place(dataset.name, dataset.sha256)
    if out is None and not options.again and (about := learnt(dataset, epochs, seed)) is not None:
        return folder, about
    place = scoring_device(options.device)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = fresh(dataset).to(place)
        with bar("training the classifier", epochs * steps_of(dataset)) as progress:
            for done, _ in enumerate(fit(model, dataset, labels, epochs, seed), 1):
                progress.move(done)
    weights = safetensors.torch.save({name: value.contiguous().cpu() for name, value in model.state_dict().items()})
    about = {
        "format": FORMAT,
        "name": dataset.name,
        "data_sha256": dataset.sha256,
        "shape": list(dataset.shape),
        "levels": dataset.levels,
        "classes": list(dataset.classes),
        "epochs": epochs,
        "seed": seed,
        "accuracy": {split: accuracy(model, dataset, split) for split in ("val", "test")},
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_synced(folder / WEIGHTS, weights)
    replace_text(folder / ABOUT, json.dumps(about, indent=1))
    return folder, about


def has_classes(dataset: Dataset) -> bool:
    """Whether the data have at least two classes."""
    return dataset.labels is not None and len(dataset.classes) > 1


def fresh(dataset: Dataset) -> Classifier:
    """An untrained classifier."""
    return Classifier(dataset.shape[0], default_widths(*dataset.shape[1:]), len(dataset.classes))


def learning_seconds(dataset: Dataset, device: str) -> float:
    """The approximate duration of :func:`features` on this machine, from two timed steps on copies of one image."""
    place = scoring_device(device)
    with torch.random.fork_rng([]):
        model = fresh(dataset).to(place)
        few = replace(dataset, images=dataset.images[:1].expand(BATCH, -1, -1, -1), bounds={"train": (0, BATCH)})
        labels, times = torch.zeros(BATCH, dtype=torch.int64), []
        for _ in range(2):  # the first step includes the allocation of memory
            started = time.monotonic()
            list(fit(model, few, labels, 1, 0))
            times.append(time.monotonic() - started)
    return times[-1] * FeaturesOptions().epochs * steps_of(dataset)


def steps_of(dataset: Dataset) -> int:
    """Steps per epoch."""
    return max(1, len(dataset.split("train")) // BATCH)


def fit(model: Classifier, dataset: Dataset, labels: Tensor, epochs: int, seed: int) -> Iterator[None]:
    """Cross-entropy with AdamW, a one-cycle learning rate, and images shifted by up to two pixels.

    Yields after each step.
    """
    images = dataset.split("train")
    device = next(model.parameters()).device
    steps = steps_of(dataset)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * steps + 1)
    for epoch in range(epochs):
        order = torch.from_numpy(permutation(seed, epoch, len(images)))
        for rows in torch.split(order[: steps * BATCH], BATCH):
            x = moved(to_unit(images[rows], dataset.levels)).to(device)
            with on_own_cores():
                with autocast(device, "auto"):
                    loss = F.cross_entropy(model(x), labels[rows].to(device), label_smoothing=0.02)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            yield


def moved(x: Tensor) -> Tensor:
    """The batch, with each image shifted by its own number of pixels and padded by its edge."""
    most = min(SHIFT, min(x.shape[-2:]) // 8)
    padded = F.pad(x, (most,) * 4, mode="replicate")
    dy, dx = torch.randint(0, 2 * most + 1, (2, len(x), 1))
    rows, columns = dy + torch.arange(x.shape[-2]), dx + torch.arange(x.shape[-1])
    each = torch.arange(len(x))[:, None, None]
    return padded.movedim(1, -1)[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


@torch.no_grad()
def accuracy(model: Classifier, dataset: Dataset, split: str) -> float:
    """The fraction of a split's images that are classified correctly."""
    labels, device = dataset.split_labels(split), next(model.parameters()).device
    assert labels is not None
    model.eval()
    parts = torch.split(dataset.split(split), 512)
    found = torch.cat([model(to_unit(part.to(device), dataset.levels)).argmax(1).cpu() for part in parts])
    return float((found == labels).double().mean())


def learnt(dataset: Dataset, epochs: int, seed: int) -> dict[str, Any] | None:
    """The contents of ``features.json`` in the default folder, if its network was trained like this."""
    try:
        about = open_features(None, dataset, "cpu").about
    except InputError:
        return None
    return about if (about.get("epochs"), about.get("seed")) == (epochs, seed) else None


def open_features(
    where: Path | None, dataset: Dataset, device: str = "auto", data: DataOptions | None = None
) -> Features:
    """The features in this folder, of this ``ae``, Inception's, or in the default folder of the data.

    Args:
        where: the folder, the run, or ``inception``; None for the default folder.
        dataset: the images to measure.
        device: the device of the network.
        data: how the images were read, for the message about missing features.

    Raises:
        InputError: there are no features, they cannot be read, or are for images of another shape.
    """
    if where == Path("inception"):
        embed, digest = inception(dataset.shape[0], dataset.levels, scoring_device(device))
        return Features(INCEPTION, digest, {"name": INCEPTION, "sha256": digest}, embed, None)
    folder = where or usual_place(dataset.name, dataset.sha256)
    if (folder / CONFIG).is_file():
        return codes(folder, dataset, device)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        weights = (folder / WEIGHTS).read_bytes()
        shape, levels, classes = tuple(about["shape"]), about["levels"], len(about["classes"])
    except (OSError, ValueError, KeyError, TypeError):
        fix = how_to_make(where, dataset, device, data or DataOptions(data=dataset.spec))
        raise InputError("features", f"there are no features of {dataset.name} in {folder}; {fix}") from None
    if (shape, levels) != (dataset.shape, dataset.levels):
        raise InputError("features", f"{folder} is for {shape} images of {levels} levels, not {dataset.shape}")
    if hashlib.sha256(weights).hexdigest() != about.get("sha256"):
        raise InputError(str(folder / WEIGHTS), "is damaged: its hash is not the one that features.json records")
    try:
        with torch.device("meta"):  # allocates no memory, whatever the size in features.json
            model = Classifier(shape[0], default_widths(*shape[1:]), classes)
        model.load_state_dict(safetensors.torch.load(weights), assign=True)
    except (RuntimeError, TypeError, SafetensorError):
        raise InputError(str(folder / WEIGHTS), "does not contain the network of features.json") from None
    model = model.to(scoring_device(device), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def unit(levels_: Tensor) -> Tensor:
        return to_unit(levels_.to(next(model.parameters()).device), levels)

    return Features(
        about["name"], about["sha256"], about, lambda x: model.features(unit(x)), lambda x: model(unit(x)).softmax(1)
    )


def how_to_make(where: Path | None, dataset: Dataset, device: str, data: DataOptions) -> str:
    """The command that makes features of these images, and its approximate duration."""
    if not has_classes(dataset):
        return f"it has no labels to train a classifier on; {codes_instead(data, dataset.name)}"
    there = where is not None and os.path.lexists(where)
    words = ["features", *data_words(data), *([] if where is None or there else ["--out", str(where)])]
    seconds = learning_seconds(dataset, device)
    length = f"{max(1, seconds):.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    return f"make them with: {pasteable(words)} (about {length} on this machine)" + (
        ", and leave `features` out" if there else ""
    )


def codes(path: Path, dataset: Dataset, device: str) -> Features:
    """The codes of an ``ae`` run as features.

    Raises:
        InputError: the run is of another family, or of images of another shape.
    """
    run = Run(path)
    model = run.model(device=device)
    if not isinstance(model, AE):
        raise InputError("features", f"{path} is a run of {run.config.family!r}; use an ae, or a classifier's features")
    if (model.shape, model.levels) != (dataset.shape, dataset.levels):
        raise InputError("features", f"{path} is for {model.shape} images of {model.levels} levels")
    known = digests(run, "ema")
    about = {
        "name": f"ae-{run.config.images.name}",
        "sha256": known["weights_sha256"],
        "run": str(path),
        "data_sha256": run.config.images.sha256,
        "model_sha256": known["model_sha256"],
    }
    return Features(
        about["name"], about["sha256"], about, lambda x: model.encode(to_unit(x.to(model.device), model.levels)), None
    )
