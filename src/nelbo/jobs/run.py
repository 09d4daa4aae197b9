"""An opened run directory: its settings, its data, its model."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nelbo.config.families import family_module
from nelbo.config.files import CONFIG, ImagesConfig, RunConfig, made_by, read_run_config
from nelbo.config.trained import require_trained
from nelbo.data import Dataset
from nelbo.data.loading import is_source, load_described
from nelbo.errors import InputError, nearest
from nelbo.models._distilled import Distilled
from nelbo.models.base import GenerativeModel
from nelbo.models.diffusion import Diffusion
from nelbo.options import DataOptions, RunDataOptions
from nelbo.report.progress import console
from nelbo.streams import as_text
from nelbo.training import latest_checkpoint, load_weights
from nelbo.training.checkpoint import read_state
from nelbo.training.folders import all_checkpoints, folder_of, needed_by, step_of
from nelbo.training.machine import Sizing, has_float64, keep_memory, pick_device

if TYPE_CHECKING:
    from nelbo.jobs.edit import Edited, Verb
    from nelbo.jobs.edit_images import Given
    from nelbo.report.results import Classification, Evaluation, Score

OWN_IMAGES = "images.npz"
"""The file of a run with the images that were given as arrays."""
NETWORKS = {"network", "encoder", "decoder", "generator", "critic", "ladder"}
"""Parts of a model that are modules; a run records their classes."""
WEIGHTS = {"ema": "ema", "raw": "model"}


def read_data(options: DataOptions) -> Dataset:
    """The data set for these options.

    Raises:
        InputError: the options name no data, or the data cannot be used.
    """
    if not options.data:
        raise InputError("data", "the run was imported without data; add `data` SPEC")
    return load_described(options)


def data_spec(data: object) -> str:
    """A SPEC from Python, as text.

    Raises:
        InputError: ``data`` is not a name or a path, for example an array.
    """
    if isinstance(data, str | Path):
        return str(data)
    fix = "np.save('images.npy', images) and data='images.npy'"
    kind = type(data).__name__
    raise InputError("data", f"a run records the path of its images, but a {kind} has none; {fix} keep it")


def own_images(data: RunDataOptions, run: Path) -> RunDataOptions:
    """The same settings, with the path of the run's own images if they name these."""
    return data.model_copy(update={"data": str(run / OWN_IMAGES)}) if data.data == OWN_IMAGES else data


def is_place(spec: str) -> bool:
    """Whether a SPEC is a file or folder instead of a known set."""
    return bool(spec) and not is_source(spec)


def build_model(config: RunConfig, **parts: Any) -> GenerativeModel:
    """The model for the settings, with initial weights, except in networks among ``parts``.

    Raises:
        InputError: parts are missing, the model has no weights, or it does not fit into memory.
    """
    require_parts(config, parts)
    kind, images = family_module(config.family).MODEL, config.images
    with torch.random.fork_rng([]), contextlib.suppress(RuntimeError), Sizing():
        kind.from_options(config.model, images.shape, images.levels, **parts)
    model: GenerativeModel = kind.from_options(config.model, images.shape, images.levels, **parts)
    if next(model.parameters(), None) is None:
        raise InputError(config.family, "its MODEL has no parameters to train or load")
    if config.distillation is None:
        return model
    if not isinstance(model, Diffusion):
        raise InputError("distillation", f"a {config.family} cannot have been distilled")
    return Distilled(model, config.distillation)


def require_parts(config: RunConfig, parts: Mapping[str, Any]) -> None:
    """Check that exactly the model's parts from Python are given.

    Raises:
        InputError: a part is missing or unknown; the message names the class or function.
    """
    needed = config.parts or {}
    for name in needed.keys() - parts.keys():
        call = ", ".join(
            f"{part}={said.rpartition('.')[2]}{'()' * (part in NETWORKS)}" for part, said in needed.items()
        )
        why = f"of the run is {needed[name]} and must come from Python"
        raise InputError(name, f"{why}: use nelbo.load(RUN, {call})")
    for name in parts.keys() - needed.keys():
        listed = ", ".join(needed) or "none"
        raise InputError(name, f"is not a part from Python of this {config.family} (its parts: {listed})")


def images_config(dataset: Dataset) -> ImagesConfig:
    """The record of a run's data."""
    return ImagesConfig(
        name=dataset.name,
        sha256=dataset.sha256,
        shape=dataset.shape,
        levels=dataset.levels,
        counts={name: stop - start for name, (start, stop) in dataset.bounds.items()},
        classes=tuple(map(as_text, dataset.classes)),
    )


def scoring_device(name: str) -> torch.device:
    """The device of this name to score and sample on: the CPU, said in one line, where that has no float64.

    Raises:
        InputError: there is no such device here.
    """
    device = pick_device(name)
    if has_float64(device):
        return device
    console().print(f"{device.type} has no float64: scoring and sampling on the cpu")
    return torch.device("cpu")


class Run:
    """A run directory.

    Args:
        path: the directory, made by ``train`` or ``fit``.
        parts: parts of the model from Python, by argument name, such as ``network=MyNet()``.

    Raises:
        InputError: it is not a run, its settings cannot be read, or they differ from those of its latest checkpoint.
    """

    def __init__(self, path: str | Path, **parts: Any) -> None:
        self.path, self.parts = Path(path), parts
        if not self.path.is_dir():
            raise InputError(str(path), "there is no such run directory; make one with 'nelbo train'")
        self.config = read_run_config(self.path)
        latest = latest_checkpoint(self.path)
        if latest is not None:
            require_trained(self.config, read_state(latest).get("settings", {}), self.path, latest)

    def __repr__(self) -> str:
        """Its path, family, data and step."""
        folder = latest_checkpoint(self.path)
        how_far = "no checkpoint yet" if folder is None else f"step {step_of(folder):,}"
        return f"<nelbo run {str(self.path)!r}: {self.config.family} on {self.config.images.name}, {how_far}>"

    @cached_property
    def checkpoint(self) -> Path:
        """The folder of the latest checkpoint.

        Raises:
            InputError: there is none yet.
        """
        folder = latest_checkpoint(self.path)
        if folder is None:
            raise InputError(str(self.path), "has no checkpoint yet; continue with 'nelbo train … --resume'")
        return folder

    @property
    def dependents(self) -> list[Path]:
        """The compressed files that need the weights of this checkpoint, where they were written; the latest last."""
        return [Path(each) for each in needed_by(self.checkpoint)]

    def checkpoint_of(self, step: int) -> Path:
        """The folder of the checkpoint of a step.

        Raises:
            InputError: there is none.
        """
        folder = folder_of(self.path, step)
        if not folder.is_dir():
            steps = ", ".join(str(step_of(each)) for each in all_checkpoints(self.path)) or "none"
            raise InputError("step", f"{self.path} has no checkpoint of step {step} (its steps: {steps})")
        return folder

    @property
    def step(self) -> int:
        """The step of the latest checkpoint."""
        return step_of(self.checkpoint)

    @cached_property
    def state(self) -> dict[str, Any]:
        """state.json of the latest checkpoint."""
        return read_state(self.checkpoint)

    @cached_property
    def dataset(self) -> Dataset:
        """The run's training data, in their current state.

        Raises:
            InputError: they are missing or cannot be read, or config.toml describes them wrongly.
        """
        options = own_images(self.config.data, self.path)
        spec = options.data
        if is_place(spec) and not Path(spec).expanduser().exists():
            fix = f"nelbo train {self.config.family} --out {self.path} --resume --data NEW"
            raise InputError(
                "data", f"{spec}, the path of the run's images, is missing; give the new path with `data` NEW ({fix})"
            )
        dataset, recorded = read_data(options), self.config.images
        found = images_config(dataset)
        for field in ("shape", "levels", "counts"):
            said, real = getattr(recorded, field), getattr(found, field)
            if recorded.sha256 == found.sha256 and said != real:
                where = f"{self.path / CONFIG}: [images] {field}"
                raise InputError(where, f"is {said}, but the data with that hash have {real}; restore it")
        return dataset

    def move(self, data: RunDataOptions) -> None:
        """Read the run's data from another path, and record it in the settings.

        Raises:
            InputError: the path has no usable images.
        """
        self.dataset = read_data(data)
        self.config = self.config.model_copy(update={"data": data})

    def reopened(self) -> Run:
        """This run at its latest checkpoint, since its training may continue."""
        return Run(self.path, **self.parts)

    @property
    def changed_data(self) -> str | None:
        """A warning about held-out images if the run's data have changed, else None."""
        history = self.config.trained_on
        if not history:
            return None
        listed = ", ".join(
            f"{data.counts.get('train', 0):,} images ({data.sha256[:12]}) from step {data.from_step:,}"
            for data in history
        )
        return f"the run was trained on {listed}: images of val and test may be former training images"

    def sample(self, n: int = 64, **how: Any) -> Tensor:
        """Sample n images: :func:`nelbo.sample` of this run."""
        from nelbo.jobs.sample import sample

        return sample(self, n, **how)

    def edit(self, verb: Verb, *images: Given, **how: Any) -> Edited:
        """Edit images: :func:`nelbo.edit` of this run."""
        from nelbo.jobs.edit import edit

        return edit(self, verb, *images, **how)

    def score(self, **how: Any) -> Score:
        """Score images: :func:`nelbo.score` of this run."""
        from nelbo.jobs.score import score

        return score(self, **how)

    def classify(self, **how: Any) -> Classification:
        """Classify images: :func:`nelbo.classify` of this run."""
        from nelbo.jobs.classify import classify

        return classify(self, **how)

    def evaluate(self, **how: Any) -> Evaluation:
        """Measure samples: :func:`nelbo.evaluate` of this run."""
        from nelbo.jobs.evaluate import evaluate

        return evaluate(self, **how)

    def info(self) -> dict[str, Any]:
        """Settings and progress: :func:`nelbo.info` of this run."""
        from nelbo.jobs.describe import info

        return info(self)

    def model(self, weights: str = "ema", device: str = "auto", step: int | None = None) -> GenerativeModel:
        """The trained model, in evaluation mode.

        Args:
            weights: ``ema``, the moving average, or ``raw``.
            device: the device of the model.
            step: that of an earlier checkpoint; None for the latest.

        Raises:
            InputError: there is no such checkpoint, it is damaged, or the device is unknown.
        """
        if weights not in WEIGHTS:
            raise InputError("weights", f"{weights!r} is not ema or raw{nearest(weights, WEIGHTS)}")
        keep_memory()
        model = build_model(self.config, **self.parts)
        try:
            load_weights(model, self.checkpoint if step is None else self.checkpoint_of(step), WEIGHTS[weights])
        except InputError as error:
            raise InputError(error.where, error.problem + made_by(self.config.versions)) from None
        return model.to(scoring_device(device)).eval()


def load(
    run: str | Path, *, weights: str = "ema", device: str = "auto", step: int | None = None, **parts: Any
) -> GenerativeModel:
    """Load the model of a run.

    Args:
        run: the run directory.
        weights: ``ema``, the moving average, or ``raw``.
        device: the device of the model; ``auto`` is CUDA if available, else the CPU. A device without float64 is
            replaced by the CPU.
        step: that of an earlier checkpoint; None for the latest.
        parts: parts of the model from Python, by argument name, such as ``network=MyNet()``.

    Returns:
        The model: ``model.sample(n)`` samples images, ``model.bound(x)`` scores images.

    Raises:
        InputError: the run, its checkpoint or the device cannot be used.
    """
    return Run(run, **parts).model(weights, device, step)
