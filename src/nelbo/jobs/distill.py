"""Distil a diffusion run: a new run, whose model samples in a few steps."""

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
from nelbo.models._diffusion_labels import GUIDANCE
from nelbo.models._distilled import DistillationOptions, Distilled
from nelbo.models.diffusion import Diffusion
from nelbo.options import DistillOptions, TrainingOptions
from nelbo.report.paths import free, unused
from nelbo.training import Trainer, load_weights
from nelbo.training.machine import conditions

DEFAULT_MINUTES = 5.0
TEACHER_STEPS = 64
"""The default is the smallest multiple of the student's steps that is at least this."""


def distill(path: str | Path, *, options: DistillOptions | None = None, **settings: Any) -> Path:
    """Train a student that samples in a few steps, from the EMA weights of a run, on the run's own data.

    Args:
        path: the run to distil, a ``ddpm`` or ``vdm``.
        options: the options; or give
        settings: any fields of :class:`~nelbo.options.DistillOptions` by name, ``steps=2``.

    Returns:
        The student's run directory.

    Raises:
        InputError: an argument cannot be used; nothing has been written then.
        Interrupted: a signal stopped the training, after a checkpoint.
    """
    options = options or checked(DistillOptions, settings)
    steps, student = options.steps, options.out
    if options.minutes is not None and options.train_steps is not None:
        raise InputError("minutes, train_steps", "both set the length of the training; give only one")
    given = {"steps": options.train_steps, **options.model_dump(include={"minutes", "lr", "seed", "device"})}
    given = {name: value for name, value in given.items() if value is not None}
    if options.resume:
        if student is None:
            raise InputError("resume", "needs the run to continue; add `out` RUN")
        return train_together(
            lambda: resume_run(
                require_student(Run(student), options), Request(Run(student).config.family, {}, {}, given)
            )
        )
    how = {
        "steps": steps,
        "teacher_steps": options.teacher_steps or -(-TEACHER_STEPS // steps) * steps,
        "guidance": options.guidance,
    }
    return train_together(lambda: begun(Run(path), how, given, student))


def begun(source: Run, how: dict[str, Any], given: dict[str, Any], out: Path | None) -> Work:
    """A new run of a student, which includes its teacher."""
    how = {"teacher": str(source.path.resolve()), **how}
    steps = how["steps"]
    if how["guidance"] is None:
        how["guidance"] = usual_guidance(source)
    config = settings(source, merged(DistillationOptions, "distillation", how, {}, None), given)
    model = fresh_model(config)
    require_doable(model, config.training)
    assert isinstance(model, Distilled)
    load_weights(model.teacher, source.checkpoint, "ema")
    model.begin()
    name = f"{source.path.name}-{steps}-step{'s' * (steps > 1)}"
    out = unused(Path("runs"), name, "") if out is None else free(out, "out")
    with atomic_write(out) as aside:  # with a checkpoint from the start, which contains the teacher
        aside.mkdir()
        write_run_config(aside, config)
        images = source.dataset.for_training[0]
        Trainer(model, images, config.training, aside, settings=weight_settings(config)).save()
    return Work(out, config, source.dataset, model)


def usual_guidance(source: Run) -> float:
    """g of the samples that the run draws by default."""
    model = source.config.model
    return GUIDANCE if getattr(model, "clusters", None) or getattr(model, "labels", False) else 1.0


def settings(source: Run, how: DistillationOptions, given: dict[str, Any]) -> RunConfig:
    """The settings of the student's run: its teacher's, with other training options.

    Raises:
        InputError: the run is not of a diffusion model, is itself distilled, or its data have changed.
    """
    config = source.config
    if config.distillation is not None:
        raise InputError(str(source.path), f"is itself distilled; distil {config.distillation.teacher}")
    if not issubclass(family_module(config.family).MODEL, Diffusion):
        raise InputError(str(source.path), f"is a run of {config.family}; only ddpm and vdm can be distilled")
    require_unchanged(source)
    own = {"minutes": None, "steps": None, "compile": "auto", "warmup": TrainingOptions().warmup}
    length = {} if {"minutes", "steps"} & set(given) else {"minutes": DEFAULT_MINUTES}
    recipe = {**config.training.model_dump(), **own, **length, **given}
    training = complete_recipe(merged(TrainingOptions, "training", recipe, {}, None))
    made = {"versions": versions(config.family), "machine": conditions(training)}
    return config.model_copy(update={"training": training, "distillation": how, "trained_on": (), **made})


def require_student(run: Run, options: DistillOptions) -> Run:
    """The run, if it is distilled in this way.

    Raises:
        InputError: it is not.
    """
    how = run.config.distillation
    if how is None:
        raise InputError("resume", f"{run.path} is not distilled; continue it with 'nelbo train'")
    if how.steps != options.steps:
        raise InputError("steps", f"{run.path} is distilled to {how.steps} steps; use that number to resume")
    for name in ("teacher_steps", "guidance"):
        asked, own = getattr(options, name), getattr(how, name)
        if asked not in (None, own):
            raise InputError(name, f"{run.path} is distilled with {own:g}, not {asked:g}; leave it out to resume")
    return run
