"""Score a run by its samples: distances, modes and copies, kept in RUN/scores/ beside its bits/dim."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nelbo.errors import InputError
from nelbo.files import atomic_write
from nelbo.jobs._digest import digests
from nelbo.jobs.features import INCEPTION, Features, open_features
from nelbo.jobs.sample import collect
from nelbo.jobs.score import kept
from nelbo.jobs.score_request import chosen_data
from nelbo.jobs.sharded import opened, shared_rows
from nelbo.metrics.manifold import nearest
from nelbo.metrics.quality import measure_modes, measure_quality
from nelbo.models._collapse import TOO_EARLY, class_ratio, collapse_line, spread, variance_ratio
from nelbo.models.sampling import SampleSettings
from nelbo.processes import rank
from nelbo.report.paths import free, reachable
from nelbo.report.pictures import beside, grid
from nelbo.report.progress import bar

SHOWN = 48
DRAWN_AT_ONCE = 64
SPREAD = 1000
"""Samples and images, at most, whose pixels are compared for collapse."""
LEAST = 20


def score_samples(
    path: str | Path,
    n: int = 2000,
    *,
    split: str = "test",
    features: Path | None = None,
    settings: SampleSettings | None = None,
    seed: int = 0,
    weights: str = "ema",
    device: str = "auto",
    batch: int | None = None,
    neighbours: Path | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Draw n images and measure them beside a split, in a feature space.

    Args:
        path: the run directory.
        n: how many to draw, at least 20.
        split: the images to compare with; training images are compared with apart, for copies.
        features: a folder that ``nelbo features`` made, or an ``ae`` run; the data's usual ones if None.
        settings: how to draw.
        seed: of the samples.
        weights: ``ema`` or ``raw``.
        device: where to compute.
        batch: images at a time; 64 if None.
        neighbours: also draw samples beside the training images nearest to them, into this PNG.
        again: measure even if RUN/scores/ has the answer.

    Returns:
        FD, KD, precision, recall, density, coverage, memorisation, and with labels the classes, each under
        ``quality`` or ``modes``, with n, split and the hash of the features beside them.

    Raises:
        InputError: anything that cannot be used.
    """
    if n < LEAST:
        raise InputError("samples", f"{n} is fewer than {LEAST}, too few to measure")
    if neighbours is not None:
        free(neighbours, "neighbours")
        reachable(neighbours, "neighbours")
    run, settings = opened(path), settings or SampleSettings()
    dataset = chosen_data(run, None)
    unseen = dataset.split(split)
    if len(unseen) < LEAST:
        raise InputError("split", f"{split} has {len(unseen)} images, too few to measure")
    space = open_features(features, dataset, device, run.config.data)
    model = run.model(weights, device)
    asked = {
        "family": run.config.family,
        "data": dataset.name,
        "data_sha256": dataset.sha256,
        "split": split,
        "samples": n,
        "n": len(unseen),
        "weights": weights,
        "step": run.step,
        "seed": seed,
        "features": space.name,
        "features_sha256": space.sha256,
        **{f"features_{name}": space.about[name] for name in ("data_sha256", "model_sha256") if name in space.about},
        "sampling": model.inspector.describe_sampling(settings),
        "sampling_settings": settings._asdict(),
        **digests(run, weights),
    }

    def answer() -> dict[str, Any]:
        started = time.monotonic()
        drawn, _ = collect(model, n, seed, settings, batch or DRAWN_AT_ONCE, keep_frames=False)
        seconds = {"drawing_seconds": time.monotonic() - started}
        if neighbours is not None and rank() == 0:
            draw_neighbours(drawn[:SHOWN], dataset.split("train"), dataset.levels, neighbours)
        return (
            {"kind": "samples", "terms": {}, "bits_per_dim": None}
            | asked
            | seconds
            | measured(space, drawn, unseen, dataset.split("train"), run.step)
        )

    return kept(run, asked, again or neighbours is not None, answer)


def require_samples(samples: int | None, needing: Mapping[str, Any], refusing: Mapping[str, Any]) -> None:
    """Check what goes with ``samples`` and what does not.

    Raises:
        InputError: an option without what it needs, or one that measures images.
    """
    for option, value in (needing if samples is None else refusing).items():
        if value is not None and samples is None:
            raise InputError(option, "needs `samples` N: it is for measuring samples")
        if value is not None:
            raise InputError(option, "is for measuring images, and `samples` measures samples; leave one out")


def measured(space: Features, drawn: Tensor, unseen: Tensor, train: Tensor, step: int) -> dict[str, Any]:
    """Everything that the feature space says of the samples."""
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
    classes = [shared_rows(space.classify, images, "classes") for images in (drawn, unseen)]
    spreads["classes_of_samples_over_images"] = class_ratio(*(p.argmax(1) for p in classes))
    return answer | {"modes": measure_modes(*classes)._asdict(), "warnings": warnings(spreads, step)}


def warnings(spreads: dict[str, object], step: int) -> list[str]:
    """What is wrong with samples that differ this much after so many steps of training."""
    line = collapse_line(spreads)
    return [] if line is None or 0 < step < TOO_EARLY else [line]  # an imported run has taken no step here


def draw_neighbours(drawn: Tensor, train: Tensor, levels: int, out: Path) -> None:
    """Samples beside the training images nearest to them, pixel by pixel."""
    _, index = nearest(drawn.flatten(1).float(), train.flatten(1).float())
    sheet = beside(grid(drawn, levels), "drawn", grid(train[index], levels), "nearest training images")
    with atomic_write(out) as aside:
        sheet.save(aside)
