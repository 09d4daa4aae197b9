"""Train a model, from settings to a run directory, and keep what a person would want to look at on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from nelbo.config.families import family_module, family_word
from nelbo.config.files import CONFIG, RunConfig, merged, read_user_config, versions, write_run_config
from nelbo.data import Dataset
from nelbo.data.loading import NAMES
from nelbo.errors import InputError
from nelbo.files import is_empty, naming, sole, whole
from nelbo.jobs.run import Run, build_model, images_config, read_data
from nelbo.metrics import score_likelihood
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.options import DataOptions, FamilyOptions, TrainingOptions
from nelbo.report.paths import reachable, unused
from nelbo.report.pictures import grid
from nelbo.report.progress import bar, console, training_note
from nelbo.training import Step, Trainer, latest_checkpoint, load_weights, read_checkpoint
from nelbo.training.machine import keep_memory, pick_device

DEFAULT_MINUTES = 10.0
LOG_STEPS = 10
VAL_IMAGES = 128
GRID_IMAGES = 36
EXTENDABLE = {"minutes", "steps", "device", "tensorboard"}


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
    data: str | None = None,
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
        InputError: anything that cannot be used; nothing has been written then.
        Interrupted: stopped by a signal, after a checkpoint.
    """
    given = {"data": data, "minutes": minutes, "steps": steps, "seed": seed, "device": device}
    options |= {name: value for name, value in given.items() if value is not None}
    in_data = {name: options.pop(name) for name in list(options) if name in DataOptions.model_fields}
    in_training = {name: options.pop(name) for name in list(options) if name in TrainingOptions.model_fields}
    file = Path(config) if config is not None else None
    request = Request(family, in_data, options, in_training, file, changed_data)
    return carry_out(request, Path(out) if out is not None else None, resume, Path(init) if init is not None else None)


def carry_out(request: Request, out: Path | None, resume: bool, init: Path | None) -> Run:
    """Do what was asked: resolve, check, and only then write."""
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
        raise InputError("--out", f"{out} exists already; name another directory, or add --resume to go on with it")
    if out is not None:
        reachable(out, "--out")
    config, dataset = resolve(request)
    path = out or unused(Path("runs"), f"{config.family}-{config.images.name}", "")
    model = fresh_model(config)
    if init is not None:
        initialise(model, Run(init))
    for note in dataset.notes:
        console().print(note)
    path.mkdir(parents=True, exist_ok=True)
    write_run_config(path, config)
    return follow(path, config, dataset, model)


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
    training = how_long(merged(TrainingOptions, "training", request.training, in_file["training"], request.config))
    data = merged(DataOptions, "data", request.data, in_file["data"], request.config)
    pick_device(training.device)
    if training.tensorboard:
        summary_writer()
    if data.data and data.data not in NAMES and Path(data.data).expanduser().exists():
        # The run has to find them from any working directory.
        data = data.model_copy(update={"data": str(Path(data.data).expanduser().resolve())})
    dataset = read_data(data)
    config = RunConfig(
        family=family,
        data=data,
        model=options.resolved(dataset.shape),
        training=training,
        images=images_config(dataset),
        versions=versions(),
    )
    return config, dataset


def how_long(training: TrainingOptions) -> TrainingOptions:
    """The recipe with one of minutes and steps set.

    Raises:
        InputError: both were given.
    """
    if training.minutes is not None and training.steps is not None:
        raise InputError("--minutes, --steps", "both say how long to train; give one")
    if training.minutes is None and training.steps is None:
        return training.model_copy(update={"minutes": DEFAULT_MINUTES})
    return training


def fresh_model(config: RunConfig) -> GenerativeModel:
    """The model with the initial weights of its seed, and of nothing else."""
    with torch.random.fork_rng([]):
        torch.manual_seed(config.training.seed)
        return build_model(config)


def summary_writer() -> Any:
    """TensorBoard's writer.

    Raises:
        InputError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard", "is not installed; pip install 'nelbo[tensorboard]'") from None
    return SummaryWriter


def initialise(model: GenerativeModel, source: Run) -> None:
    """Begin with another run's averaged weights.

    Raises:
        InputError: they do not fit.
    """
    load_weights(model, source.checkpoint, "ema")


def go_on(run: Run, request: Request) -> Run:
    """Resume a run. Its settings stand; only how long, on which device and what is logged may be new.

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
    for section, fields, own in (
        (DataOptions, request.data, config.data),
        (kind, request.model, config.model),
        (TrainingOptions, {k: v for k, v in request.training.items() if k not in EXTENDABLE}, config.training),
    ):
        asked = merged(section, "", fields, {}, None)
        for field in fields:
            if named(getattr(asked, field)) != named(getattr(own, field)):
                mine = getattr(own, field)
                raise InputError(
                    "--" + field.replace("_", "-"), f"the run was begun with {mine!r}; leave it out to resume"
                )
    fresh = {k: v for k, v in request.training.items() if k in EXTENDABLE}
    if {"minutes", "steps"} & set(fresh):
        fresh = {"minutes": None, "steps": None} | fresh
    training = how_long(merged(TrainingOptions, "training", {**config.training.model_dump(), **fresh}, {}, None))
    pick_device(training.device)
    if training.tensorboard:
        summary_writer()
    if training.steps is not None and training.steps < (done := run.step if latest_checkpoint(run.path) else 0):
        raise InputError("--steps", f"{training.steps} is less than the {done} steps that the run has taken")
    if request.changed_data:
        config = with_changed_data(run)
    else:
        require_unchanged(run, "; bring it back, or add --changed-data to go on with what is there now")
    config = config.model_copy(update={"training": training})
    return follow(run.path, config, run.dataset, fresh_model(config))


def require_unchanged(run: Run, mend: str = "") -> None:
    """See to it that the run's data are what it was begun with.

    Raises:
        InputError: they are not.
    """
    if run.dataset.sha256 != run.config.images.sha256:
        spec = run.config.data.data
        raise InputError("--data", f"{spec} is no longer what the run was begun with (its hash has changed){mend}")


def with_changed_data(run: Run) -> RunConfig:
    """The run's settings with the data as they are now; what has changed is said.

    Raises:
        InputError: images of another shape, or with other levels: those are for a new run.
    """
    old, new = run.config.images, images_config(run.dataset)
    if (old.shape, old.levels) != (new.shape, new.levels):
        raise InputError("--changed-data", "the images now have another size, or other levels; begin a new run")
    if old.sha256 != new.sha256:
        before, now = (f"{images.counts['train']:,} ({images.sha256[:12]})" for images in (old, new))
        console().print(f"training images: {before} when the run was begun, now {now}", soft_wrap=True)
    return run.config.model_copy(update={"images": new})


def named(value: Any) -> Any:
    """A setting, a path as the place that it leads to."""
    return Path(value).expanduser().resolve() if isinstance(value, str) and Path(value).expanduser().exists() else value


def follow(path: Path, config: RunConfig, dataset: Dataset, model: GenerativeModel) -> Run:
    """Train to the end, with a progress bar, metrics, and now and then a look at samples and ``val``."""
    keep_memory()
    model.to(pick_device(config.training.device))
    images, grey_levels = dataset.for_training
    with sole(path):
        checkpoint = latest_checkpoint(path)
        if checkpoint is None:
            with console().status("looking at the training images"):
                model.prepare(images, grey_levels or model.levels, config.training.seed)
        trainer = Trainer(model, images, config.training, path, grey_levels)
        if checkpoint is not None:
            trainer.restore(read_checkpoint(checkpoint), checkpoint)
            write_run_config(path, config)
        announce(path, config, dataset, model, trainer)
        with bar("training", 1.0) as progress, Journal(path, config.training.tensorboard) as journal:
            watcher = Watcher(trainer, dataset, journal, progress, config)
            for step in trainer:
                watcher.see(step)
            watcher.tell()
            watcher.bring_back()
    return Run(path)


def announce(path: Path, config: RunConfig, dataset: Dataset, model: GenerativeModel, trainer: Trainer) -> None:
    """Say what is about to happen, for how long, and where."""
    training = config.training
    count, unit = (training.minutes, "minute") if training.steps is None else (training.steps, "step")
    length = f"{count:,.10g} {unit}{'' if count == 1 else 's'}"
    channels, height, width = dataset.shape
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    begun = f", from step {trainer.step:,} on" if trainer.step else ""
    console().print(
        f"{model.family} on {dataset.name}: {len(dataset.split('train')):,} images of {channels}×{height}×{width}, "
        f"{size / 1e6:.2f} M parameters, {length}{begun} on {model.device} → {path}"
    )


class Journal:
    """RUN/metrics.jsonl, one object per logged step, and TensorBoard if asked.

    Args:
        path: the run directory.
        tensorboard: whether to write TensorBoard's files too.

    Raises:
        InputError: TensorBoard is asked for and not installed.
    """

    def __init__(self, path: Path, tensorboard: bool) -> None:
        self.board: Any = None
        if tensorboard:
            self.board = summary_writer()(str(path / "tensorboard"))
        self.place = path / "metrics.jsonl"
        self.open()

    def open(self) -> None:
        """Open the file, or where it is gone make it."""
        self.file = self.place.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.place):
            self.file.close()
        if self.board is not None:
            self.board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append what was measured at this step."""
        with naming(self.place):
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)


class Watcher:
    """Looks at a training run from outside: logs, moves the bar, draws samples and scores ``val`` at milestones."""

    def __init__(
        self, trainer: Trainer, dataset: Dataset, journal: Journal, progress: Progress, config: RunConfig
    ) -> None:
        self.trainer, self.dataset, self.journal, self.progress = trainer, dataset, journal, progress
        self.config = config
        self.last = (time.monotonic(), trainer.step)
        self.val = ""
        self.said: str | None = None

    def see(self, step: Step) -> None:
        """Take in one step. What cannot be written is said, and training goes on."""
        self.tell()
        try:
            written = self.note(step)
        except OSError as error:
            self.say(f"{error.filename or self.trainer.run_folder}: {error.strerror or error}")
        else:
            if written or self.trainer.trouble:
                self.say(self.trainer.trouble)

    def tell(self) -> None:
        """What the trainer has to say."""
        while self.trainer.news:
            console().print(self.trainer.news.pop(0), soft_wrap=True)

    def say(self, trouble: str | None) -> None:
        """Say what cannot be written, once, and when it can again."""
        if trouble != self.said:
            line = "can be written again" if trouble is None else f"{trouble}; training goes on"
            console().print(f"step {self.trainer.step:,}: {line}", soft_wrap=True)
        self.said = trouble

    def note(self, step: Step) -> bool:
        """Log it, and look where it is time to; returns whether anything was written."""
        if step.step % LOG_STEPS and not step.milestone:
            return False
        self.bring_back()
        if step.milestone:
            self.look(step)
        loss, now = float(step.loss), time.monotonic()
        rate = (step.step - self.last[1]) * self.trainer.options.batch_size / max(1e-9, now - self.last[0])
        self.last = (now, step.step)
        self.journal.write(
            step.step,
            {"loss": loss, "lr": step.lr, "images_per_second": round(rate, 1), "seconds": round(step.seconds, 2)},
        )
        note = training_note(step, loss, rate) + self.val
        self.progress.update(self.progress.task_ids[0], completed=step.progress, note=note)
        return True

    def bring_back(self) -> None:
        """Where the run directory was deleted under the run, make it anew with what it takes to open it.

        Checkpoints go on being written; what was drawn and logged before is lost.
        """
        place = self.trainer.run_folder
        if not (place / CONFIG).exists():
            place.mkdir(parents=True, exist_ok=True)
            write_run_config(place, self.config)
            self.journal.open()
            line = f"{place} was deleted under the run; it is made anew, and training goes on"
            console().print(f"step {self.trainer.step:,}: {line}", soft_wrap=True)

    def look(self, step: Step) -> None:
        """Score some ``val`` images, always the same with the same noise, and draw a grid."""
        model = self.trainer.ema.model
        if isinstance(model, LikelihoodModel):
            bound = score_likelihood(model, self.dataset.split("val")[:VAL_IMAGES])
            self.val = f" · val {bound.bits():.3f} bits/dim"
            self.journal.write(step.step, {"val_bits_per_dim": bound.bits(), "val_stderr": bound.stderr() or 0.0})
        val = self.dataset.split("val")[:VAL_IMAGES]
        with torch.no_grad():
            found = {f"val_{name}": float(each.mean()) for name, each in model.measures(val).items()}
            ailments = model.ailments(model.diagnostics(val))
        if found:
            self.journal.write(step.step, found)
            self.val = "".join(f" · {name.removeprefix('val_').replace('_', ' ')} {v:.3f}" for name, v in found.items())
        for line in ailments:
            console().print(f"step {step.step:,}: {line}", soft_wrap=True)
        images = model.sample(GRID_IMAGES, settings=model.glance)
        folder = self.trainer.run_folder / "samples"
        with whole(folder / f"step-{step.step:08d}.png") as aside:
            grid(images, model.levels).save(aside)
        if not self.progress.console.is_terminal:
            console().print(f"{100 * step.progress:.0f}% · step {step.step:,} · {step.seconds:.0f} s{self.val}")
