"""Score a run: how many bits/dim its model needs, with errors, kept in RUN/scores/."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from nelbo.errors import InputError
from nelbo.files import atomic_write, replace_text
from nelbo.jobs._digest import digest_of, digests
from nelbo.jobs._rows import write_per_image
from nelbo.jobs.against import detection, require_against, require_two_sets
from nelbo.jobs.profile import require_profile, write_profile
from nelbo.jobs.run import Run, data_spec
from nelbo.jobs.score_request import Estimation, baseline_model, chosen_data, refuse_for_no_bound, require_numbers
from nelbo.jobs.score_result import against_baseline, condition, own_measures, stored, summarise
from nelbo.jobs.sharded import opened, shared_score
from nelbo.metrics import LikelihoodScore
from nelbo.models.base import LikelihoodModel
from nelbo.options import DataOptions
from nelbo.processes import join, rank
from nelbo.report.paths import free
from nelbo.report.progress import console
from nelbo.training.machine import usual_batch

EACH = "each"
"""Where an answer has the nats of each image."""


def score(
    run: str | Path | Run,
    *,
    data: DataOptions | str | Path | None = None,
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
    batch: int | None = None,
    per_image: Path | None = None,
    sort: bool = False,
    profile: Path | None = None,
    against: str | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Measure a run on data.

    Args:
        run: the run, or its directory.
        data: other data than the run's own, of the same shape and levels: a SPEC, or with how to read it.
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
        batch: images at a time; what is quickest on the device if None.
        per_image: also write each image's origin, label, split and terms to this CSV file.
        sort: order its rows by the total, the strangest image first.
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
        free(per_image, "per_image")
    elif sort:
        raise InputError("sort", "orders the rows of `per_image`; add that, or leave it out")
    if data is not None and not isinstance(data, DataOptions):
        data = DataOptions(data=data_spec(data))
    if against is not None:
        require_against(against, data is not None and "data" in data.model_fields_set)
    run = opened(run)
    if (warning := run.changed_data) is not None:
        console().print(warning, soft_wrap=True)
    dataset = chosen_data(run, data)
    images, copies = dataset.split(split)[:limit], dataset.copies(split)[:limit]
    model = run.model(weights, device)
    batch = batch or usual_batch(model.device)
    asked: dict[str, Any] = {
        "family": run.config.family,
        "data": dataset.name,
        "data_sha256": dataset.sha256,
        "split": split,
        "n": len(images),
        "n_distinct": int(copies.max()) + 1,
        "weights": weights,
        "step": run.step,
        "seed": seed,
        **digests(run, weights),
    }
    if not isinstance(model, LikelihoodModel):
        options = {"form": form, "timesteps": timesteps, "k": k, "T": T, "baseline": baseline}
        refuse_for_no_bound(model, options | {"per_image": per_image, "profile": profile, "against": against})
        return kept(run, asked, again, lambda: own_measures(model, images, copies, asked, dataset.levels))
    bounded, how = Estimation.chosen(model, form=form, timesteps=timesteps, k=k, T=T, replicates=replicates)
    if profile is not None:
        require_profile(bounded, profile)
    asked |= how.asked
    other = None
    if baseline is not None:
        opponent = opened(baseline)
        other = baseline_model(opponent, run, weights, device, how)
        asked |= {"baseline_run": str(baseline), "baseline_step": opponent.step}
        asked |= {f"baseline_{name}": value for name, value in digests(opponent, weights).items()}
    if against is not None:
        own = chosen_data(run, None)
        require_two_sets(dataset, own, split, against, limit)
        asked |= {"against_split": against, "against_sha256": own.sha256}

    def measure(model: LikelihoodModel, images: Tensor, label: str = "") -> LikelihoodScore:
        return shared_score(
            model,
            images,
            f"scoring {len(images):,} images{label}",
            replicates,
            seed=seed,
            timesteps=how.timesteps,
            batch=batch,
            form=how.form,
            k=how.k or 1,
        )

    def answer() -> dict[str, Any]:
        result = replace(measure(bounded, images), copies=copies)
        summary = summarise(result, asked, dataset.levels, bounded.forms[how.form])
        summary |= condition(bounded, images, run.step)
        summary["warnings"] = [*summary["warnings"], *result.warnings()]
        if other is not None:
            summary["baseline"] = against_baseline(result, measure(other, images, " with the baseline"))
        if against is not None:
            normal = run.dataset.split(against)[:limit]
            of_normal = measure(bounded, normal, f" of {against}")
            told = detection(run, bounded, (images, result), (normal, of_normal), seed=seed, batch=batch)
            summary["against"] = {"split": against} | told
        if per_image is not None and rank() == 0:
            write_per_image(result, dataset, split, per_image, sort=sort)
        return summary | {EACH: result.estimates("total").mean(1)}

    summary = kept(run, asked, again or per_image is not None, answer)
    if profile is not None:
        write_profile(bounded, images, summary, seed, batch, profile)
    return summary


def kept(run: Run, asked: dict[str, Any], again: bool, answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What RUN/scores holds for what was asked, or the answer, kept there. ``again`` asks anew.

    What was asked has the digests of all that the answer depends on, and the file's name is the digest of it all.
    The nats of each image, under ``EACH`` in the answer, are kept beside it as .npy, to compare two runs by.
    """
    file = run.path / "scores" / f"{asked['split']}-{digest_of(asked)[:12]}.json"
    team = join()
    known = None if again else json.loads(team.from_main(lambda: json.dumps(stored(file, asked)).encode()))
    if known is not None:
        return cast(dict[str, Any], known)
    started = time.monotonic()
    summary = answer() | {"seconds": round(time.monotonic() - started, 3)}
    each = summary.pop(EACH, None)
    if not team.main:
        return summary
    if each is not None:
        with atomic_write(file.with_suffix(".npy")) as aside:
            np.save(aside, each.numpy())
    replace_text(file, json.dumps(summary, indent=1))
    return summary
