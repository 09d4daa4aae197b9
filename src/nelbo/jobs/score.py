"""Score a run: how many bits/dim its model needs, with errors, kept in RUN/scores/."""

from __future__ import annotations

import csv
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from nelbo.data import Dataset
from nelbo.errors import InputError, nearest
from nelbo.jobs.against import detection, require_against
from nelbo.jobs.profile import require_profile, write_profile
from nelbo.jobs.run import Run, read_data
from nelbo.metrics import LikelihoodScore, score_likelihood
from nelbo.models.base import Form, LikelihoodModel
from nelbo.options import DataOptions
from nelbo.report.paths import free
from nelbo.report.progress import bar
from nelbo.training.checkpoint import replace_text
from nelbo.units import bits_per_dim


def score(
    path: str | Path,
    *,
    data: DataOptions | None = None,
    split: str = "test",
    limit: int | None = None,
    form: str | None = None,
    timesteps: int | None = None,
    k: int | None = None,
    T: int | None = None,
    baseline: str | Path | None = None,
    replicates: int = 2,
    seed: int = 0,
    weights: str = "ema",
    device: str = "auto",
    batch: int = 128,
    per_image: Path | None = None,
    profile: Path | None = None,
    against: str | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Measure a run on data.

    Args:
        path: the run directory.
        data: other data than the run's own, of the same shape and levels.
        split: train, val or test.
        limit: score the first so many images only.
        form: how the bound is written, one of the family's forms; its first (``denoising`` of a diffusion) if None.
        timesteps: t per image and replicate, stratified; 0 takes every t; the family's default if None. A form that
            takes whole trajectories takes every t.
        k: trajectories in one logarithm of the importance-weighted form; 8 if None.
        T: the number of steps of the bound, for a family that can be scored in any.
        baseline: another run, measured with the same noise on the same images: the difference has an error of its own.
        replicates: independent estimates per image, at least 2.
        seed: of the noise.
        weights: ``ema`` or ``raw``.
        device: where to compute.
        batch: images at a time.
        per_image: also write each image's terms to this CSV file.
        profile: also draw where in t the bits are, into this PNG file (or write it, into a CSV file).
        against: a split of the run's own data: how well the score tells the other data from it (AUROC).
        again: score even if the same score is in RUN/scores/.

    Returns:
        What ``nelbo score --json`` prints.

    Raises:
        InputError: anything that cannot be used.
    """
    require_numbers(replicates, limit, batch, seed)
    if per_image is not None:
        free(per_image, "--per-image")
    if against is not None:
        require_against(against, data is not None and "data" in data.model_fields_set)
    run = Run(path)
    dataset = chosen_data(run, data)
    images = dataset.split(split)[:limit]
    model = run.model(weights, device)
    assert isinstance(model, LikelihoodModel)
    model = model if T is None else model.in_steps(T)
    if profile is not None:
        require_profile(model, profile)
    form = form or next(iter(model.forms))
    written = chosen_form(model, form)
    timesteps, k = chosen_timesteps(model, timesteps, written), chosen_k(k, written)
    asked = {
        "family": run.config.family,
        "data": dataset.name,
        "data_sha256": dataset.sha256,
        "split": split,
        "n": len(images),
        "form": form,
        "weights": weights,
        "step": run.step,
        "timesteps": timesteps,
        **({} if k is None else {"k": k}),
        **({} if T is None else {"T": T}),
        **({} if baseline is None else {"baseline_run": str(baseline), "baseline_step": Run(baseline).step}),
        **({} if against is None else {"against_split": against}),
        "replicates": replicates,
        "seed": seed,
    }
    kept = run.path / "scores" / f"{split}-{key_of(asked)}.json"
    known = None if again or per_image is not None or profile is not None else stored(kept, asked)
    if known is not None:
        return known
    started = time.monotonic()

    def measure(model: LikelihoodModel, images: Tensor, label: str) -> LikelihoodScore:
        with bar(f"scoring {len(images):,} images{label}", replicates * len(images)) as progress:
            return score_likelihood(
                model,
                images,
                seed=seed,
                timesteps=timesteps,
                replicates=replicates,
                batch=batch,
                form=form,
                k=k or 1,
                progress=lambda done: progress.update(progress.task_ids[0], completed=done),
            )

    result = measure(model, images, "")
    summary = summarise(result, asked, dataset.levels, time.monotonic() - started, written)
    summary |= model.diagnostics(images)
    if baseline is not None:
        other = measure(baseline_model(baseline, run, weights, device, T), images, " with the baseline")
        summary["baseline"] = against_baseline(result, other)
    if against is not None:
        summary["against"] = detection(
            run, model, images, result, against, limit, lambda normal, label: measure(model, normal, label)
        )
    summary["seconds"] = round(time.monotonic() - started, 3)
    kept.parent.mkdir(exist_ok=True)
    replace_text(kept, json.dumps(summary, indent=1))
    if per_image is not None:
        write_per_image(result, per_image)
    if profile is not None:
        write_profile(model, images, summary, seed, batch, profile)
    return summary


def baseline_model(path: str | Path, run: Run, weights: str, device: str, T: int | None) -> LikelihoodModel:
    """The model of the run to compare with.

    Raises:
        InputError: it is of images of another kind.
    """
    other = Run(path)
    if (other.config.images.shape, other.config.images.levels) != (run.config.images.shape, run.config.images.levels):
        raise InputError("--baseline", f"{path} is of images of another size or with other levels")
    model = other.model(weights, device)
    assert isinstance(model, LikelihoodModel)
    return model if T is None else model.in_steps(T)


def against_baseline(result: LikelihoodScore, other: LikelihoodScore) -> dict[str, float | None]:
    """The baseline's bits/dim, and run − baseline with its errors, paired by image and noise."""
    difference = result.minus(other)
    return {
        "bits_per_dim": other.bits(),
        "difference": difference.bits(),
        "stderr_mc": difference.stderr_mc(),
        "stderr_data": difference.stderr_data(),
        "stderr": difference.stderr(),
    }


def require_numbers(replicates: int, limit: int | None, batch: int, seed: int) -> None:
    """Check what a Python call may get wrong.

    Raises:
        InputError: a number out of its range.
    """
    for option, value, least in (("--replicates", replicates, 2), ("--limit", limit, 1), ("--batch-size", batch, 1)):
        if value is not None and value < least:
            raise InputError(option, f"{value} is less than {least}")
    if not 0 <= seed < 2**63:
        raise InputError("--seed", f"{seed} is not between 0 and 2^63")


def chosen_data(run: Run, options: DataOptions | None) -> Dataset:
    """The run's own data, or others, or the run's own read in another way.

    Raises:
        InputError: data that the run cannot score, or that have changed since it was begun.
    """
    if options is None:
        if run.dataset.sha256 != run.config.images.sha256:
            spec = run.config.data.data
            raise InputError(
                "--data", f"{spec} has changed since the run: its test images may be ones it was trained on"
            )
        return run.dataset
    if "data" not in options.model_fields_set:
        options = run.config.data.model_copy(update={name: getattr(options, name) for name in options.model_fields_set})
    dataset = read_data(options)
    fits(run, dataset)
    return dataset


def stored(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The score in this file, if it is one, and whole."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or any(known.get(name) != value for name, value in asked.items()):
        return None
    return known if "bits_per_dim" in known and "terms" in known else None


def fits(run: Run, dataset: Dataset) -> None:
    """Check that a run can score these data.

    Raises:
        InputError: another shape, or more levels.
    """
    own = run.config.images
    if dataset.shape != own.shape:
        theirs, ours = ("×".join(map(str, shape)) for shape in (dataset.shape, own.shape))
        raise InputError(
            "--data", f"its images are {theirs} and the run's are {ours} (C×H×W); see --size and --channels"
        )
    if dataset.levels != own.levels:
        raise InputError(
            "--data", f"has {dataset.levels} levels and the run has {own.levels}; bits/dim would not compare"
        )


def chosen_form(model: LikelihoodModel, name: str) -> Form:
    """The form of this name.

    Raises:
        InputError: the family has none.
    """
    if name not in model.forms:
        known = ", ".join(model.forms)
        raise InputError(
            "--form",
            f"{name!r} is not a form of the bound of this {model.family}{nearest(name, model.forms)} (forms: {known}"
            + f"{model.more_forms})",
        )
    return model.forms[name]


def chosen_timesteps(model: LikelihoodModel, asked: int | None, form: Form) -> int:
    """How many t per image: the default for None, all for 0, and all for a form that takes whole trajectories."""
    if form.counts != "timesteps":
        if asked not in (None, 0):
            raise InputError("--timesteps", "this form leaves no t to choose; leave it out")
        return model.all_timesteps or 0
    if asked is None:
        return model.default_timesteps
    there_are = model.all_timesteps
    if there_are is None:
        if asked < 1:
            raise InputError("--timesteps", "continuous time has no last t; give a number of at least 1")
        return asked
    if not 0 <= asked <= there_are:
        raise InputError("--timesteps", f"{asked} is not between 1 and {there_are} (0 takes them all)")
    return asked or there_are


def chosen_k(asked: int | None, form: Form) -> int | None:
    """Trajectories in one logarithm, where the form has one.

    Raises:
        InputError: less than 1, or a form that has none.
    """
    if form.counts != "k":
        if asked is not None:
            raise InputError("--k", "only the importance-weighted form has a k; add --form iw, or leave it out")
        return None
    if asked is not None and asked < 1:
        raise InputError("--k", f"{asked} is less than 1")
    return asked or 8


def key_of(asked: dict[str, Any]) -> str:
    """A short name for what was asked."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def summarise(
    result: LikelihoodScore, asked: dict[str, Any], levels: int, seconds: float, form: Form
) -> dict[str, Any]:
    """The score as one JSON object; all standard errors in bits/dim.

    What stands beside the terms, and is no part of their sum, has names of its own: ``difference``, for one.
    """

    def measured(name: str) -> dict[str, float | None]:
        return {"nats": result.nats(name), "bits_per_dim": result.bits(name), "stderr": result.stderr(name)}

    return {
        **asked,
        "levels": levels,
        "dims": result.dims,
        "kind": form.kind,
        **({} if form.why is None else {"why": form.why}),
        "terms": {name: measured(name) for name in result.terms},
        **{name: measured(name) for name in result.beside},
        "nats": result.nats(),
        "bits_per_dim": result.bits(),
        "stderr_mc": result.stderr_mc(),
        "stderr_data": result.stderr_data(),
        "stderr": result.stderr(),
        "evaluations": result.evaluations,
        "seconds": round(seconds, 3),
    }


def write_per_image(result: LikelihoodScore, out: Path) -> None:
    """One row per image: index, then each term and the total in nats and in bits/dim."""
    names = [*result.terms, "total"]
    columns = {name: result.estimates(name).mean(1).tolist() for name in names}
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("x", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", *(f"{name}_{unit}" for name in names for unit in ("nats", "bits_per_dim"))])
        for i in range(result.n):
            values = ((columns[name][i], bits_per_dim(columns[name][i], result.dims)) for name in names)
            table.writerow([i, *(f"{value:.6f}" for pair in values for value in pair)])
