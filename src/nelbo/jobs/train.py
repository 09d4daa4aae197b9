"""Train a model, from settings to a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nelbo.config.files import CONFIG, write_run_config
from nelbo.errors import InputError
from nelbo.files import is_empty
from nelbo.jobs.resume import resume_run
from nelbo.jobs.run import Run, data_spec
from nelbo.jobs.settings import Request, resolve
from nelbo.jobs.training import Work, fresh_model, require_doable, train_together
from nelbo.options import DataOptions, TrainingOptions
from nelbo.report.paths import reachable, unused
from nelbo.report.progress import console
from nelbo.training import latest_checkpoint, load_weights


def train(
    family: str,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    config: str | Path | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    changed_data: bool = False,
    **options: Any,
) -> Run:
    """Train a model.

    Args:
        family: ``ae``, ``vae``, ``hvae``, ``gan``, ``ddpm``, ``vdm``, ``diffusion``, or one of another package.
        data: a SPEC: a name, a folder of images or a file; None for ``digits``.
        out: the run directory; None for ``runs/FAMILY-DATA``.
        minutes, steps: the length of the training; 10 minutes if neither is given.
        seed: the seed of all random numbers.
        device: the device of the training.
        config: a TOML file with tables [data], [model] and [training]; arguments here have priority.
        resume: whether to continue the run in ``out``; it is started if it does not exist.
        init: a run whose weights are the initial weights.
        changed_data: whether to resume although the data have changed since the run was started.
        options: fields of :class:`~nelbo.options.DataOptions`, :class:`~nelbo.options.TrainingOptions` or the family's
            own options.

    Returns:
        The run.

    Raises:
        InputError: an argument cannot be used; nothing has been written then. Also after training, on a process that
            cannot access the run directory.
        Interrupted: a signal stopped the training, after a checkpoint.
    """
    given = {
        "data": None if data is None else data_spec(data),
        "minutes": minutes,
        "steps": steps,
        "seed": seed,
        "device": device,
    }
    options |= {name: value for name, value in given.items() if value is not None}
    in_data = {name: options.pop(name) for name in list(options) if name in DataOptions.model_fields}
    in_training = {name: options.pop(name) for name in list(options) if name in TrainingOptions.model_fields}
    file = Path(config) if config is not None else None
    request = Request(family, in_data, options, in_training, file, changed_data)
    start = Path(init) if init is not None else None
    return Run(carry_out(request, Path(out) if out is not None else None, resume, start))


def carry_out(request: Request, out: Path | None, resume: bool, init: Path | None) -> Path:
    """Carry out the request in all processes; returns the run directory."""
    return train_together(lambda: prepare_run(request, out, resume, init))


def prepare_run(request: Request, out: Path | None, resume: bool, init: Path | None) -> Work:
    """The work for a request: resolve and check it before anything is written."""
    if resume and out is None:
        raise InputError("resume", "needs the run to continue; add `out` RUN")
    if resume and init is not None:
        raise InputError("init", "is for a new run, but `resume` continues an old one; leave one out")
    if request.changed_data and not resume:
        raise InputError("changed_data", "applies to a resumed run; leave it out")
    if out is not None and resume and (out / CONFIG).exists():
        return resume_run(Run(out), request)
    if out is not None and resume and out.is_dir() and not is_empty(out):
        raise InputError("out", f"{out} is not a run: it has no {CONFIG}; name the run to continue, or a new directory")
    if out is not None and out.exists() and not (out.is_dir() and is_empty(out)):
        raise InputError("out", f"{out} already exists; name another directory, or {instead(out)}")
    if out is not None:
        reachable(out, "out")
    config, dataset = resolve(request)
    path = out or unused(Path("runs"), f"{config.family}-{config.images.name}", "")
    model = fresh_model(config)
    require_doable(model, config.training)
    if init is not None:
        load_weights(model, Run(init).checkpoint, "ema")
    for note in dataset.notes:
        console().print(note)
    path.mkdir(parents=True, exist_ok=True)
    write_run_config(path, config)
    return Work(path, config, dataset, model)


def instead(out: Path) -> str:
    """What to do with an existing directory, as the end of a sentence."""
    if (out / CONFIG).exists() and latest_checkpoint(out) is None:
        return "add `resume` to start again in it, with any settings: it has no checkpoint yet"
    return "add `resume` to continue it"
