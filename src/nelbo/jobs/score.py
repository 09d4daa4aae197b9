"""Score a run: its bits/dim, with errors, stored in RUN/scores/."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from nelbo.check import checked
from nelbo.jobs._rows import write_per_image
from nelbo.jobs.against import against_key, compared
from nelbo.jobs.kept import Answer, kept, kept_nats
from nelbo.jobs.profile import require_profile, write_profile
from nelbo.jobs.run import Run
from nelbo.jobs.score_request import (
    Baseline,
    Estimation,
    ScoreRequest,
    opened_with_warning,
    refuse_for_no_bound,
    spec_options,
)
from nelbo.jobs.score_result import against_baseline, condition, given_labels, own_measures, summarise
from nelbo.jobs.sharded import shared_score
from nelbo.jobs.threshold import Limit, chosen_limit
from nelbo.metrics import LikelihoodScore
from nelbo.models.base import LikelihoodModel
from nelbo.options import DataOptions, ScoreOptions
from nelbo.processes import rank
from nelbo.report.progress import console
from nelbo.report.results import Score


def score(
    run: str | Path | Run,
    *,
    data: DataOptions | str | Path | None = None,
    options: ScoreOptions | None = None,
    **settings: Any,
) -> Score:
    """Score images with a run: the negative ELBO in bits/dim, term by term, with its errors.

    Args:
        run: the run, or its directory.
        data: other data of the same shape and levels than the run's own: a SPEC or data options.
        options: the settings of the score, or
        settings: fields of :class:`~nelbo.options.ScoreOptions` by name, such as ``limit=100``.

    Returns:
        The result of ``nelbo score --json``, typed.

    Raises:
        InputError: an argument cannot be used.
    """
    options = options or checked(ScoreOptions, settings, str)
    request = ScoreRequest.of(opened_with_warning(run), spec_options(data), options)
    run = request.run
    if isinstance(request.model, LikelihoodModel):
        return beside_files(run, score_bound(request, request.model))
    refuse_for_no_bound(request.model, options)

    def answer() -> Answer:
        found = own_measures(request.model, request.images, request.copies)
        return found | condition(request.model, request.images, run.step), None

    return kept(run, Score, request.key, answer, options.again)


def beside_files(run: Run, found: Score) -> Score:
    """The score, beside the compressed files of these images; they are looked up again at each call."""
    if not run.dependents:
        return found
    from nelbo.jobs.archive_facts import files_of  # it imports the codec

    return found.model_copy(update={"files": files_of(found, run.dependents)})


def score_bound(request: ScoreRequest, own: LikelihoodModel) -> Score:
    """The bound of the model in the requested form, with the requested comparisons and files."""
    options, run = request.options, request.run
    model, how = Estimation.chosen(run, own, options)
    if options.profile is not None:
        require_profile(model, options.profile)
    baseline = Baseline.of(request, how)
    key = request.key | how.key | (baseline.key if baseline is not None else {}) | against_key(request)
    limit = chosen_limit(request, how, lambda of_val: score_bound(of_val, own)) if request.marks else Limit()
    again = options.again or options.per_image is not None or (request.marks and kept_nats(run, key) is None)
    found = kept(run, Score, key, partial(measured, request, model, how, baseline, limit), again)
    if options.profile is not None:
        write_profile(model, request.images, found, options.seed, request.batch, options.profile)
    if not request.marks:
        return found
    each = kept_nats(run, key)
    assert each is not None
    found = found.model_copy(update=limit.fields(each))
    if options.worst is not None:
        from nelbo.jobs.worst import write_worst  # it imports jinja2, which nothing else here needs

        return found.model_copy(update={"page": write_worst(request, model, how, found, each, limit)})
    if limit.why_none:
        console().print(limit.why_none)
    return found


def measured(
    request: ScoreRequest, model: LikelihoodModel, how: Estimation, baseline: Baseline | None, limit: Limit
) -> Answer:
    """The fields of a score, and the nats of each image; also writes the table of all images, if requested."""
    options, images = request.options, request.images
    measure = partial(estimates, request, how)
    result = replace(measure(model, images), copies=request.copies)
    found = summarise(result, model.forms[how.form]) | condition(model, images, request.run.step)
    found["warnings"] = [*found["warnings"], *result.warnings()]
    if model.classes and request.labels is None:
        found["warnings"] += [f"no bound of p(x|y): {request.dataset.name} has no labels of the run's classes"]
    if request.labels is not None:
        labelled = measure(model, images, " given their labels", labels=request.labels)
        found["given_labels"] = given_labels(result, labelled)
    if baseline is not None:
        other = measure(baseline.model, images, " with the baseline")
        found["baseline"] = against_baseline(result, other)
    if options.against is not None:
        found["against"] = compared(request, model, result, measure)
    if options.per_image is not None and rank() == 0:
        threshold = limit.threshold
        write_per_image(
            result, request.dataset, options.split, options.per_image, sort=options.sort, threshold=threshold
        )
    return found, result.estimates("total").mean(1)


def estimates(
    request: ScoreRequest,
    how: Estimation,
    model: LikelihoodModel,
    images: Tensor,
    title: str = "",
    labels: Tensor | None = None,
) -> LikelihoodScore:
    """The estimates of the bound of these images, in nats.

    Args:
        request: provides the seed and the batch size.
        how: the form, and the number of evaluations.
        model: the run's or the baseline's.
        images: integer levels, shape (n, C, H, W).
        title: the end of the progress bar's title.
        labels: y of each image, for the bound of p(x|y); None for p(x).
    """
    return shared_score(
        model,
        images,
        f"scoring {len(images):,} images{title}",
        how.replicates,
        seed=request.options.seed,
        timesteps=how.timesteps,
        batch=request.batch,
        form=how.form,
        k=how.k or 1,
        labels=labels,
    )
