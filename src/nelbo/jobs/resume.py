"""Resume a run, with its own settings and unchanged data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nelbo.config.families import family_word
from nelbo.config.files import RunConfig, TrainedOn, merged, read_user_config, versions
from nelbo.errors import InputError
from nelbo.jobs.run import Run, images_config, is_place
from nelbo.jobs.settings import Request, complete_recipe, located, place_of
from nelbo.jobs.training import Work, fresh_model, require_doable
from nelbo.models.base import GenerativeModel
from nelbo.options import RunDataOptions, TrainingOptions
from nelbo.report.progress import console
from nelbo.training import latest_checkpoint
from nelbo.training.checkpoint import read_state
from nelbo.training.learning_rate import learning_rate, progress_at
from nelbo.training.machine import conditions

EXTENDABLE = {"minutes", "steps", "lr", "device", "compile", "shard", "tensorboard"}
"""Settings that may change when a run with a checkpoint resumes; without one, all training options may."""


def resume_run(run: Run, request: Request, model: GenerativeModel | None = None) -> Work:
    """Resume a run with its own settings, but for those in ``EXTENDABLE`` (without a checkpoint, all training options).

    Args:
        run: the run.
        request: the requested settings.
        model: the model, if it was made in Python.

    Raises:
        InputError: a setting differs from the run's, or the data have changed.
    """
    config = run.config
    if request.family != config.family:
        raise InputError("FAMILY", f"{run.path} is a run of {config.family!r}, not {family_word(request.family)!r}")
    kind = type(config.model)
    if request.config is not None:  # its settings count as requested
        file = read_user_config(request.config)
        request = replace(
            request,
            data={**file["data"], **request.data},
            model={**file["model"], **request.model},
            training={**file["training"], **request.training},
        )
    changeable = EXTENDABLE if latest_checkpoint(run.path) else set(TrainingOptions.model_fields)
    for section, fields, own in (
        (RunDataOptions, {k: v for k, v in request.data.items() if k != "data"}, config.data),
        (kind, request.model, config.model),
        (TrainingOptions, {k: v for k, v in request.training.items() if k not in changeable}, config.training),
    ):
        asked = merged(section, "", fields, {}, None)
        for field in fields:
            if field == "layout" and getattr(own, field) is None:  # the hash shows whether the images are the same
                data = config.data.model_copy(update={"layout": getattr(asked, field)})
                run.config = config = config.model_copy(update={"data": data})
            elif place_of(getattr(asked, field)) != place_of(getattr(own, field)):
                mine = getattr(own, field)
                fix = "leave it out to resume" + other_way(run)
                raise InputError(field, f"the run was started with {mine!r}; {fix}")
    fresh = {k: v for k, v in request.training.items() if k in changeable}
    if {"minutes", "steps"} & set(fresh):
        fresh = {"minutes": None, "steps": None} | fresh
    training = complete_recipe(merged(TrainingOptions, "training", {**config.training.model_dump(), **fresh}, {}, None))
    if training.steps is not None and training.steps < (done := run.step if latest_checkpoint(run.path) else 0):
        raise InputError("steps", f"{training.steps} is less than the {done} steps that the run has taken")
    spec = request.data.get("data")
    if spec is not None and place_of(spec) != place_of(
        config.data.data
    ):  # read with the run's own options, wherever the images are
        if not is_place(spec) and not request.changed_data:
            raise InputError(
                "data", f"the run was started with {config.data.data!r}; leave it out to resume, or add `changed_data`"
            )
        run.move(located(config.data.model_copy(update={"data": spec})))
    if request.changed_data:
        config = with_changed_data(run)
    else:
        require_unchanged(run, "; restore the old data, or add `changed_data` to continue with the new data")
        config = run.config
    if (warning := run.changed_data) is not None:
        console().print(warning)
    notes = tuple(changed_rate(run, training))
    made = {"versions": versions(config.family), "machine": conditions(training)}
    config = config.model_copy(update={"training": training, **made})
    model = model or fresh_model(config)
    require_doable(model, training, request.training)
    return Work(run.path, config, run.dataset, model, notes)


def other_way(run: Run) -> str:
    """An alternative for a setting that cannot change, if the run has no checkpoint to lose."""
    return "" if latest_checkpoint(run.path) else f", or delete {run.path}, which has no checkpoint, to start again"


def changed_rate(run: Run, training: TrainingOptions) -> Iterator[str]:
    """A line if the learning rate increases because a run is extended after its decay.

    Args:
        run: the run before.
        training: the new training options.
    """
    if latest_checkpoint(run.path) is None:
        return
    state, old = read_state(run.checkpoint), run.config.training
    step, seconds = state["step"], state["seconds"]
    progress = progress_at(training, step, seconds)
    if step <= old.warmup or training.lr != old.lr or progress >= progress_at(old, step, seconds):
        return
    before = learning_rate(old, step - 1, progress_at(old, step - 1, seconds * (step - 1) / step))
    after = learning_rate(training, step, progress)
    if after > 1.1 * before:
        line = f"the learning rate had decayed to {before:.2g} and increases to {after:.2g}, because the run is longer"
        yield f"{line}; `lr` {before:.2g} would keep the low rate"


def require_unchanged(run: Run, fix: str = "") -> None:
    """Check that the run's data have not changed.

    Raises:
        InputError: they have changed.
    """
    if run.dataset.sha256 != run.config.images.sha256:
        spec = run.config.data.data
        raise InputError("data", f"{spec} has changed since the run was started (its hash differs){fix}")


def with_changed_data(run: Run) -> RunConfig:
    """The run's settings with its current data; the change is printed, and recorded with its step.

    Raises:
        InputError: the images have another shape or other levels, which needs a new run.
    """
    old, new = run.config.images, images_config(run.dataset)
    if (old.shape, old.levels) != (new.shape, new.levels):
        raise InputError("changed_data", "the images now have another size or other levels; start a new run")
    if old.sha256 != new.sha256:
        before, now = (f"{images.counts['train']:,} ({images.sha256[:12]})" for images in (old, new))
        console().print(f"training images: {before} when the run was started, now {now}")
        done = run.step if latest_checkpoint(run.path) else 0
        first = TrainedOn(from_step=0, sha256=old.sha256, counts=old.counts)
        past = [data for data in run.config.trained_on or (first,) if data.from_step < done]
        now_on = TrainedOn(from_step=done, sha256=new.sha256, counts=new.counts)
        run.config = run.config.model_copy(update={"images": new, "trained_on": (*past, now_on) if past else ()})
    return run.config
