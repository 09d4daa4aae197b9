"""Train a model, from settings to a run directory, and keep what a person would want to look at on the way."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nelbo.config.families import family_module, family_word
from nelbo.config.files import (
    CONFIG,
    RunConfig,
    TrainedOn,
    merged,
    read_user_config,
    run_config,
    run_config_text,
    versions,
    write_run_config,
)
from nelbo.config.trained import weight_settings
from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.files import is_empty, sole
from nelbo.jobs.journal import Journal, summary_writer
from nelbo.jobs.monitor import Monitor
from nelbo.jobs.run import Run, build_model, data_spec, images_config, is_place, read_data
from nelbo.models.base import GenerativeModel
from nelbo.options import DataOptions, FamilyOptions, RunDataOptions, TrainingOptions
from nelbo.processes import Team, count, join, shares_asked
from nelbo.report.paths import reachable, unused
from nelbo.report.progress import bar, console
from nelbo.streams import as_text
from nelbo.training import Trainer, latest_checkpoint, load_weights, read_checkpoint
from nelbo.training.checkpoint import read_state, shared
from nelbo.training.compiling import require_compilable
from nelbo.training.learning_rate import learning_rate, progress_at
from nelbo.training.machine import conditions, default_dtype, keep_memory, pick_device

DEFAULT_MINUTES = 10.0
EXTENDABLE = {"minutes", "steps", "lr", "device", "compile", "shard", "tensorboard"}
"""What may change when a run with a checkpoint is resumed; without one, all of the recipe."""


@dataclass(frozen=True)
class Request:
    """What a user asked ``train`` for: the fields that were given, and no defaults."""

    family: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    config: Path | None = None
    changed_data: bool = False


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
        family: ``ae``, ``vae``, ``hvae``, ``gan``, ``ddpm`` or ``vdm``.
        data: SPEC: a name, a folder of images, a file; ``digits`` if None.
        out: the run directory; ``runs/FAMILY-DATA`` if None.
        minutes, steps: how long; 10 minutes if neither is given.
        seed: of every random number.
        device: where to compute.
        config: a TOML file with tables [data], [model] and [training]; what is given here wins over it.
        resume: go on with the run in ``out``; if there is none, start it.
        init: begin with the weights of this run.
        changed_data: resume though the data are no longer what the run was begun with.
        options: any other field of :class:`~nelbo.options.DataOptions`, :class:`~nelbo.options.TrainingOptions` or the
            family's own options.

    Returns:
        The run.

    Raises:
        InputError: anything that cannot be used; nothing has been written then. Also after training, on a process that
            does not see the disk of the main one: there the run cannot be opened.
        Interrupted: stopped by a signal, after a checkpoint.
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


class Work(NamedTuple):
    """What is to be trained.

    Attributes:
        path: the run directory.
        config: its settings, every one filled in.
        dataset: the images.
        model: with the weights to begin with.
        notes: what to say before training goes on.
    """

    path: Path
    config: RunConfig
    dataset: Dataset
    model: GenerativeModel
    notes: tuple[str, ...] = ()


def carry_out(request: Request, out: Path | None, resume: bool, init: Path | None) -> Path:
    """Do what was asked, in this process and in those that were started with it; returns the run directory."""
    return together(lambda: settled(request, out, resume, init))


def together(settle: Callable[[], Work]) -> Path:
    """Train what the main process settles on, in all processes; returns the run directory, which is the main one's.

    Raises:
        InputError: another process has other images.
    """
    team, works = join(), []

    def told() -> bytes:
        works.append(settle())
        return json.dumps({"path": str(works[0].path), "config": run_config_text(works[0].config)}).encode()

    heard = json.loads(team.from_main(told))
    if not works:
        path = Path(heard["path"])
        config = run_config(tomllib.loads(heard["config"]), path / CONFIG)
        works.append(Work(path, config, read_data(config.data), fresh_model(config)))
        if works[0].dataset.sha256 != config.images.sha256:
            raise InputError("--data", f"{config.data.data} holds other images here than where the main process runs")
    follow(works[0], team)
    return works[0].path


def settled(request: Request, out: Path | None, resume: bool, init: Path | None) -> Work:
    """What was asked for: resolve, check, and only then write."""
    if resume and out is None:
        raise InputError("--resume", "needs the run to go on with; add --out RUN")
    if resume and init is not None:
        raise InputError("--init", "is for a new run, and --resume goes on with an old one; leave one out")
    if request.changed_data and not resume:
        raise InputError("--changed-data", "is for a run that is resumed; leave it out")
    if out is not None and resume and (out / CONFIG).exists():
        return go_on(Run(out), request)
    if out is not None and resume and out.is_dir() and not is_empty(out):
        raise InputError(
            "--out", f"{out} is not a run: it has no {CONFIG}; name the run to go on with, or a new directory"
        )
    if out is not None and out.exists() and not (out.is_dir() and is_empty(out)):
        raise InputError("--out", f"{out} exists already; name another directory, or {instead(out)}")
    if out is not None:
        reachable(out, "--out")
    config, dataset = resolve(request)
    path = out or unused(Path("runs"), f"{config.family}-{config.images.name}", "")
    model = fresh_model(config)
    require_doable(model, config.training)
    if init is not None:
        initialise(model, Run(init))
    for note in dataset.notes:
        console().print(note)
    path.mkdir(parents=True, exist_ok=True)
    write_run_config(path, config)
    return Work(path, config, dataset, model)


def instead(out: Path) -> str:
    """What to do with a directory that exists, to end a sentence."""
    if (out / CONFIG).exists() and latest_checkpoint(out) is None:
        return "add --resume to begin anew in it, with another recipe if you like: it has no checkpoint yet"
    return "add --resume to go on with it"


def resolve(request: Request) -> tuple[RunConfig, Dataset]:
    """Settings with every default and everything that the data decide filled in."""
    family = family_word(request.family)
    file = read_user_config(request.config) if request.config is not None else {}
    if file.get("family", {"family": family})["family"] != family:
        raise InputError(f"{request.config}: family", f"is {file['family']['family']!r}, and {family!r} was asked for")
    kind = family_module(family).OPTIONS
    in_file = {section: file.get(section, {}) for section in ("data", "model", "training")}
    for ours, theirs in (("minutes", "steps"), ("steps", "minutes")):
        if ours in request.training:
            in_file["training"] = {k: v for k, v in in_file["training"].items() if k != theirs}
    options: FamilyOptions = merged(kind, "model", request.model, in_file["model"], request.config)
    training = settled_recipe(
        merged(TrainingOptions, "training", request.training, in_file["training"], request.config)
    )
    if named(request.data.get("data")) not in (None, named(in_file["data"].get("data", request.data.get("data")))):
        # How the file's data were split says nothing of others.
        in_file["data"] = {k: v for k, v in in_file["data"].items() if k != "split_by"}
    data = located(merged(RunDataOptions, "data", request.data, in_file["data"], request.config))
    pick_device(training.device)
    if training.tensorboard:
        summary_writer()
    dataset = read_data(data)
    config = RunConfig(
        family=family,
        data=data,
        model=options.resolved(dataset.shape),
        training=training,
        images=images_config(dataset),
        versions=versions(family),
        machine=conditions(training),
    )
    return config, dataset


def located(data: RunDataOptions) -> RunDataOptions:
    """The same settings with a path that leads to the data from any working directory.

    Raises:
        InputError: a path that no run can record.
    """
    if as_text(data.data) != data.data:
        raise InputError("--data", f"{data.data}: this name is no text in UTF-8, so no run can record it; rename it")
    if not is_place(data.data) or not Path(data.data).expanduser().exists():
        return data
    return data.model_copy(update={"data": str(Path(data.data).expanduser().resolve())})


def settled_recipe(training: TrainingOptions) -> TrainingOptions:
    """The recipe with one of minutes and steps set, and with shares if the launcher wants them.

    Raises:
        InputError: both were given.
    """
    if training.minutes is not None and training.steps is not None:
        raise InputError("--minutes, --steps", "both say how long to train; give one")
    if training.minutes is None and training.steps is None:
        training = training.model_copy(update={"minutes": DEFAULT_MINUTES})
    return training.model_copy(update={"shard": training.shard or shares_asked()})


def fresh_model(config: RunConfig) -> GenerativeModel:
    """The model with the initial weights of its seed, and of nothing else."""
    with torch.random.fork_rng([]), default_dtype(config.training.precision):
        torch.manual_seed(config.training.seed)
        return build_model(config)


def initialise(model: GenerativeModel, source: Run) -> None:
    """Begin with another run's averaged weights.

    Raises:
        InputError: they do not fit.
    """
    load_weights(model, source.checkpoint, "ema")


def go_on(run: Run, request: Request) -> Work:
    """Resume a run. Its settings stand, but for those in ``EXTENDABLE``, and all of its recipe if it has no checkpoint.

    Raises:
        InputError: another setting than the run's was given, or the data have changed.
    """
    config = run.config
    if request.family != config.family:
        raise InputError("FAMILY", f"{run.path} is a run of {config.family!r}, not {family_word(request.family)!r}")
    kind = type(config.model)
    if request.config is not None:  # its settings count as asked for
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
            if field == "layout" and getattr(own, field) is None:  # whether it reads the same, the hash tells
                data = config.data.model_copy(update={"layout": getattr(asked, field)})
                run.config = config = config.model_copy(update={"data": data})
            elif named(getattr(asked, field)) != named(getattr(own, field)):
                mine = getattr(own, field)
                mend = "leave it out to resume" + other_way(run)
                raise InputError("--" + field.replace("_", "-"), f"the run was begun with {mine!r}; {mend}")
    fresh = {k: v for k, v in request.training.items() if k in changeable}
    if {"minutes", "steps"} & set(fresh):
        fresh = {"minutes": None, "steps": None} | fresh
    training = settled_recipe(merged(TrainingOptions, "training", {**config.training.model_dump(), **fresh}, {}, None))
    pick_device(training.device)
    if training.tensorboard:
        summary_writer()
    if training.steps is not None and training.steps < (done := run.step if latest_checkpoint(run.path) else 0):
        raise InputError("--steps", f"{training.steps} is less than the {done} steps that the run has taken")
    spec = request.data.get("data")
    if spec is not None and named(spec) != named(config.data.data):  # read in the run's own way, wherever they are
        if not is_place(spec) and not request.changed_data:
            raise InputError(
                "--data", f"the run was begun with {config.data.data!r}; leave it out to resume, or add --changed-data"
            )
        run.move(located(config.data.model_copy(update={"data": spec})))
    if request.changed_data:
        config = with_changed_data(run)
    else:
        require_unchanged(run, "; bring it back, or add --changed-data to go on with what is there now")
        config = run.config
    if (warning := run.changed_data) is not None:
        console().print(warning, soft_wrap=True)
    notes = tuple(changed_rate(run, training))
    made = {"versions": versions(config.family), "machine": conditions(training)}
    config = config.model_copy(update={"training": training, **made})
    model = fresh_model(config)
    require_doable(model, training, request.training)
    return Work(run.path, config, run.dataset, model, notes)


def other_way(run: Run) -> str:
    """What else to do where a setting of a run cannot change; nothing that loses a checkpoint."""
    return "" if latest_checkpoint(run.path) else f", or delete {run.path}, which has no checkpoint, to begin anew"


def changed_rate(run: Run, training: TrainingOptions) -> Iterator[str]:
    """A line if the learning rate jumps up, because a run whose rate had come down is made longer.

    Args:
        run: as it was.
        training: the recipe with which it goes on.
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
        line = (
            f"the learning rate, which had come down to {before:.2g}, goes back up to {after:.2g}, as the run is longer"
        )
        yield f"{line}; --lr {before:.2g} would go on at the low rate"


def require_unchanged(run: Run, mend: str = "") -> None:
    """See to it that the run's data are what it was begun with.

    Raises:
        InputError: they are not.
    """
    if run.dataset.sha256 != run.config.images.sha256:
        spec = run.config.data.data
        raise InputError("--data", f"{spec} is no longer what the run was begun with (its hash has changed){mend}")


def with_changed_data(run: Run) -> RunConfig:
    """The run's settings with the data as they are now; what has changed is said, and recorded from the first step on.

    Raises:
        InputError: images of another shape, or with other levels: those are for a new run.
    """
    old, new = run.config.images, images_config(run.dataset)
    if (old.shape, old.levels) != (new.shape, new.levels):
        raise InputError("--changed-data", "the images now have another size, or other levels; begin a new run")
    if old.sha256 != new.sha256:
        before, now = (f"{images.counts['train']:,} ({images.sha256[:12]})" for images in (old, new))
        console().print(f"training images: {before} when the run was begun, now {now}", soft_wrap=True)
        done = run.step if latest_checkpoint(run.path) else 0
        first = TrainedOn(from_step=0, sha256=old.sha256, counts=old.counts)
        past = [data for data in run.config.trained_on or (first,) if data.from_step < done]
        now_on = TrainedOn(from_step=done, sha256=new.sha256, counts=new.counts)
        run.config = run.config.model_copy(update={"images": new, "trained_on": (*past, now_on) if past else ()})
    return run.config


def named(value: Any) -> Any:
    """A setting, a path as the place that it leads to."""
    return Path(value).expanduser().resolve() if isinstance(value, str) and Path(value).expanduser().exists() else value


def follow(work: Work, team: Team) -> None:
    """Train to the end, with a progress bar, metrics, and now and then a look at samples and ``val``."""
    path, config, dataset, model, notes = work
    keep_memory()
    if not (config.training.shard and team.count > 1):  # shares go to the device as they are made
        model.to(pick_device(config.training.device))
    images, grey_levels = dataset.for_training
    with ExitStack() as stack:
        stack.enter_context(default_dtype(config.training.precision))
        begun = team.from_main(lambda: held(stack, path))
        folder = path / begun.decode() if begun else None
        checkpoint = shared(team, None if folder is None else lambda: read_checkpoint(folder))
        if checkpoint is None:
            with console().status("looking at the training images"):
                model.recipe.prepare(images, grey_levels or model.levels, config.training.seed)
        trainer = Trainer(model, images, config.training, path, grey_levels, team, weight_settings(config))
        if checkpoint is not None:
            trainer.restore(checkpoint, folder or path)
        if not team.main:
            for _ in trainer:
                pass
            return
        write_run_config(path, config)
        announce(path, config, dataset, trainer)
        for note in notes:
            console().print(note, soft_wrap=True)
        shown = bar("training", 1.0, trainer.progress, lines=False)
        with shown as progress, Journal(path, config.training.tensorboard) as journal:
            watcher = Monitor(trainer, dataset, journal, progress, config)
            for step in trainer:
                watcher.see(step)
            watcher.tell()
            watcher.bring_back()
            watcher.sum_up()


def require_doable(model: GenerativeModel, training: TrainingOptions, asked: Mapping[str, Any] | None = None) -> None:
    """See to it that every process has an image of each batch, and that what is to be compiled can be.

    Args:
        model: what is to be trained.
        training: the recipe.
        asked: the settings that were asked for, if the others are those of an old run.

    Raises:
        InputError: there are more processes, or compiling was asked for and cannot be.
    """
    if training.batch_size < count():
        raise InputError("--batch-size", f"{training.batch_size} is less than the {count()} processes that share it")
    if asked is None or "compile" in asked:
        require_compilable(model, training, count())


def held(stack: ExitStack, path: Path) -> bytes:
    """Hold the run directory against other runs, and say which checkpoint in it to go on from, if any."""
    stack.enter_context(sole(path))
    checkpoint = latest_checkpoint(path)
    return b"" if checkpoint is None else str(checkpoint.relative_to(path)).encode()


def announce(path: Path, config: RunConfig, dataset: Dataset, trainer: Trainer) -> None:
    """Say what is about to happen, for how long, and where."""
    training, model = config.training, trainer.model
    amount, unit = (training.minutes, "minute") if training.steps is None else (training.steps, "step")
    length = f"{amount:,.10g} {unit}{'' if amount == 1 else 's'}"
    channels, height, width = dataset.shape
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    begun = f", from step {trainer.step:,} on" if trainer.step else ""
    how = "sharing the weights, " * trainer.sharded
    where = f"{trainer.team.count} processes, {how}" * (trainer.team.count > 1) + str(model.device)
    console().print(
        f"{model.family} on {dataset.name}: {len(dataset.split('train')):,} images of {channels}×{height}×{width}, "
        f"{size / 1e6:.2f} M parameters, {length}{begun} on {where} → {path}"
    )
