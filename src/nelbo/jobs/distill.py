"""Distil a diffusion run: another run, whose model draws in a few steps what the first draws in many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nelbo.check import checked
from nelbo.config.families import family_module
from nelbo.config.files import RunConfig, merged, versions, write_run_config
from nelbo.config.trained import weight_settings
from nelbo.errors import InputError
from nelbo.files import atomic_write
from nelbo.jobs.resume import require_unchanged, resume_run
from nelbo.jobs.run import Run
from nelbo.jobs.settings import Request, complete_recipe
from nelbo.jobs.training import Work, fresh_model, require_doable, train_together
from nelbo.models._distilled import DistillationOptions, Distilled
from nelbo.models.diffusion import Diffusion
from nelbo.options import DistillOptions, TrainingOptions
from nelbo.report.paths import free, unused
from nelbo.training import Trainer, load_weights
from nelbo.training.machine import conditions

DEFAULT_MINUTES = 5.0
TEACHER_STEPS = 64
"""About so many: the least multiple of the student's that is not below."""


def distill(path: str | Path, *, options: DistillOptions | None = None, **settings: Any) -> Path:
    """Train a student that draws in a few steps, from the averaged weights of a run, on the run's own data.

    Args:
        path: the run to distil, a ``ddpm`` or ``vdm``.
        options: what is asked for; or else
        settings: any field of :class:`~nelbo.options.DistillOptions` by name, ``steps=2``.

    Returns:
        The student's run directory.

    Raises:
        InputError: anything that cannot be used; nothing has been written then.
        Interrupted: stopped by a signal, after a checkpoint.
    """
    options = options or checked(DistillOptions, settings)
    steps, student = options.steps, options.out
    if options.minutes is not None and options.train_steps is not None:
        raise InputError("minutes, train_steps", "both say how long to train; give one")
    given = {"steps": options.train_steps, **options.model_dump(include={"minutes", "lr", "seed", "device"})}
    given = {name: value for name, value in given.items() if value is not None}
    if options.resume:
        if student is None:
            raise InputError("resume", "needs the run to go on with; add `out` RUN")
        return train_together(
            lambda: resume_run(require_student(Run(student), steps), Request(Run(student).config.family, {}, {}, given))
        )
    how = {"steps": steps, "teacher_steps": options.teacher_steps or -(-TEACHER_STEPS // steps) * steps}
    return train_together(lambda: begun(Run(path), how, given, student))


def begun(source: Run, how: dict[str, Any], given: dict[str, Any], out: Path | None) -> Work:
    """A new run of a student, with its teacher in it."""
    how = {"teacher": str(source.path.resolve()), **how}
    steps = how["steps"]
    config = settings(source, merged(DistillationOptions, "distillation", how, {}, None), given)
    model = fresh_model(config)
    require_doable(model, config.training)
    assert isinstance(model, Distilled)
    load_weights(model.teacher, source.checkpoint, "ema")
    model.begin()
    name = f"{source.path.name}-{steps}-step{'s' * (steps > 1)}"
    out = unused(Path("runs"), name, "") if out is None else free(out, "out")
    with atomic_write(out) as aside:  # with a checkpoint from the start: nothing else holds the teacher
        aside.mkdir()
        write_run_config(aside, config)
        images = source.dataset.for_training[0]
        Trainer(model, images, config.training, aside, settings=weight_settings(config)).save()
    return Work(out, config, source.dataset, model)


def settings(source: Run, how: DistillationOptions, given: dict[str, Any]) -> RunConfig:
    """The settings of the student's run: its teacher's, but for how it is trained.

    Raises:
        InputError: the run is no diffusion model, was distilled already, or its data have changed.
    """
    config = source.config
    if config.distillation is not None:
        raise InputError(str(source.path), f"was distilled itself; distil {config.distillation.teacher}")
    if not issubclass(family_module(config.family).MODEL, Diffusion):
        raise InputError(str(source.path), f"is a run of {config.family}; only ddpm and vdm walk in steps")
    require_unchanged(source)
    own = {"minutes": None, "steps": None, "compile": "auto", "warmup": TrainingOptions().warmup}
    length = {} if {"minutes", "steps"} & set(given) else {"minutes": DEFAULT_MINUTES}
    recipe = {**config.training.model_dump(), **own, **length, **given}
    training = complete_recipe(merged(TrainingOptions, "training", recipe, {}, None))
    made = {"versions": versions(config.family), "machine": conditions(training)}
    return config.model_copy(update={"training": training, "distillation": how, "trained_on": (), **made})


def require_student(run: Run, steps: int) -> Run:
    """The run itself, if it was distilled to so many steps.

    Raises:
        InputError: it was not.
    """
    how = run.config.distillation
    if how is None:
        raise InputError("resume", f"{run.path} was not distilled; go on with it by 'nelbo train'")
    if how.steps != steps:
        raise InputError("steps", f"{run.path} is distilled to {how.steps}; give that to resume")
    return run
