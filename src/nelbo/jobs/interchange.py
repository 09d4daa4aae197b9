"""Convert a diffusers folder to a run, and a run to a diffusers folder."""

from __future__ import annotations

from pathlib import Path

import torch

from nelbo.check import checked
from nelbo.config.families import family_module
from nelbo.config.files import ImagesConfig, RunConfig, versions, write_run_config
from nelbo.config.trained import weight_settings
from nelbo.diffusion.schedules import betas_of
from nelbo.errors import InputError
from nelbo.files import atomic_write
from nelbo.interchange import Pipeline, read_pipeline, write_pipeline
from nelbo.jobs.run import Run, build_model, images_config, read_data
from nelbo.models.ddpm import DDPM, DDPMOptions, require_network
from nelbo.nn.unet2d import UNet2D
from nelbo.options import DataOptions, RunDataOptions, TrainingOptions
from nelbo.report.paths import free
from nelbo.training import Trainer
from nelbo.training.checkpoint import fit

UNKNOWN = "0" * 64
"""The hash of unknown data."""


def import_folder(
    folder: str | Path, out: str | Path, *, data: DataOptions | None = None, label: int | None = None
) -> Run:
    """Convert a diffusers pipeline to a run: a ``ddpm`` with the same network, weights, β and predictions.

    Args:
        folder: of the pipeline, or of its ``UNet2DModel`` together with the scheduler's settings.
        out: the run directory, which must not exist.
        data: its training images, if available; the run is then scored on them by default, and can be trained on them.
        label: the class to sample and score, for a class-conditional network.

    Returns:
        The run.

    Raises:
        InputError: the folder cannot be used, or a ``ddpm`` cannot represent it; nothing has been written then.
    """
    folder, out = Path(folder), free(Path(out), "RUN")
    pipeline = read_pipeline(folder)
    options = settings(pipeline, folder, label)
    config = RunConfig(
        family="ddpm",
        data=RunDataOptions(data="") if data is None else RunDataOptions(**data.model_dump(exclude_unset=True)),
        model=options,
        training=TrainingOptions(minutes=10.0),
        images=images(options, folder, data),
        versions=versions("ddpm"),
    )
    require_shapes(options, pipeline, folder)
    model = build_model(config)
    assert isinstance(model, DDPM)
    fit(model.network, pipeline.tensors, folder)
    with atomic_write(out) as aside:
        aside.mkdir()
        write_run_config(aside, config)
        Trainer(
            model, torch.zeros(1, dtype=torch.uint8), config.training, aside, settings=weight_settings(config)
        ).save()
    return Run(out)


def require_shapes(options: DDPMOptions, pipeline: Pipeline, folder: Path) -> None:
    """Check that the weights fit the settings, before any large tensor is allocated.

    Raises:
        InputError: they do not fit.
    """
    assert options.unet2d is not None
    require_network(options, options.unet2d.in_channels)
    with torch.device("meta"):
        own = {name: value.shape for name, value in UNet2D(options.unet2d).state_dict().items()}
    theirs = {name: value.shape for name, value in pipeline.tensors.items()}
    odd = sorted(name for name in {*own, *theirs} if own.get(name) != theirs.get(name))
    if odd:
        raise InputError(str(folder), f"its weights do not fit its config.json (first difference: {odd[0]!r})")


def settings(pipeline: Pipeline, folder: Path, label: int | None) -> DDPMOptions:
    """The settings of the ``ddpm``.

    Raises:
        InputError: a setting of the network is unknown or not supported.
    """
    values = {
        "timesteps": len(pipeline.betas),
        "betas": tuple(pipeline.betas.tolist()),
        "predict": pipeline.predict,
        "reverse_variance": pipeline.reverse_variance,
        "decoder_variance": "beta_1",
        "unet2d": pipeline.network,
        "label": label,
    }
    kind: type[DDPMOptions] = family_module("ddpm").OPTIONS
    return checked(kind, values, lambda field: f"{folder}: {field.removeprefix('unet2d.')}")


def images(options: DDPMOptions, folder: Path, data: DataOptions | None) -> ImagesConfig:
    """The description of the images: those of the data, or 8-bit images of the size in the network's settings.

    Raises:
        InputError: the settings have no size, or the data another one.
    """
    theirs = options.unet2d
    assert theirs is not None
    size = (theirs.sample_size,) * 2 if isinstance(theirs.sample_size, int) else theirs.sample_size
    if data is not None:
        found = images_config(read_data(data))
        if size is not None and found.shape != (theirs.in_channels, *size):
            own, other = ("×".join(map(str, shape)) for shape in (found.shape, (theirs.in_channels, *size)))
            raise InputError("data", f"its images are {own}, but the network's {other} (C×H×W); see `size`, `channels`")
        return found
    if size is None:
        raise InputError("data", f"{folder} does not state the size of its images; name a data set of them")
    shape = (theirs.in_channels, *size)
    return ImagesConfig(name=folder.resolve().name, sha256=UNKNOWN, shape=shape, levels=256, counts={})


def export_run(path: str | Path, folder: str | Path, weights: str = "ema") -> Path:
    """Convert a run with diffusers' network to a diffusers pipeline.

    Args:
        path: the run directory.
        folder: the pipeline's folder, which must not exist.
        weights: ``ema`` or ``raw``.

    Returns:
        The folder.

    Raises:
        InputError: diffusers has no class for the run's model.
    """
    run, folder = Run(path), free(Path(folder), "DIR")
    options = run.config.model
    if not isinstance(options, DDPMOptions) or options.unet2d is None:
        fix = "of a ddpm whose settings have [model.unet2d], such as one of 'nelbo import'"
        raise InputError(str(path), f"has nelbo's own network, for which diffusers has no class; export a run {fix}")
    if options.predict == "mean":
        raise InputError(str(path), "predicts the mean of the reverse step, which no scheduler of diffusers supports")
    if options.decoder_variance != "beta_1":
        raise InputError(str(path), "has a learned decoder variance, for which a UNet2DModel has no output")
    model = run.model(weights, "cpu")
    assert isinstance(model, DDPM)
    pipeline = Pipeline(
        options.unet2d.model_dump(),
        dict(model.network.state_dict()),
        torch.tensor(options.betas, dtype=torch.float64) if options.betas else betas_of(model.timeline.chain()[1:]),
        options.predict,
        options.reverse_variance,
    )
    write_pipeline(folder, pipeline)
    return folder
