"""A diffusers folder made a run, and a run a diffusers folder."""

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
"""The hash of data that nobody named."""


def import_folder(
    folder: str | Path, out: str | Path, *, data: DataOptions | None = None, label: int | None = None
) -> Run:
    """Make a run of a diffusers pipeline: a ``ddpm`` with the same network, weights, β and predictions.

    Args:
        folder: of the pipeline, or of its ``UNet2DModel`` with the scheduler's settings beside.
        out: the run directory, which must not exist.
        data: the images that it was trained on, if they are at hand: the run is then scored on them unless told
            otherwise, and can be trained on.
        label: the class whose images are drawn and scored, where the network has to be told one.

    Raises:
        InputError: the folder cannot be used, or is something that a ``ddpm`` cannot be; nothing has been written then.
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
    """See to it that the weights are those that the settings describe, before anything of that size is made.

    Raises:
        InputError: they are not.
    """
    assert options.unet2d is not None
    require_network(options, options.unet2d.in_channels)
    with torch.device("meta"):
        own = {name: value.shape for name, value in UNet2D(options.unet2d).state_dict().items()}
    theirs = {name: value.shape for name, value in pipeline.tensors.items()}
    odd = sorted(name for name in {*own, *theirs} if own.get(name) != theirs.get(name))
    if odd:
        raise InputError(str(folder), f"its weights are not those that config.json describes (first at {odd[0]!r})")


def settings(pipeline: Pipeline, folder: Path, label: int | None) -> DDPMOptions:
    """The settings of the ``ddpm``.

    Raises:
        InputError: one of the network's is unknown, or not one that is read.
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
    """What the images are: those of the data, or 8-bit ones of the size that the network's settings say.

    Raises:
        InputError: they do not say it, or the data are others.
    """
    theirs = options.unet2d
    assert theirs is not None
    size = (theirs.sample_size,) * 2 if isinstance(theirs.sample_size, int) else theirs.sample_size
    if data is not None:
        found = images_config(read_data(data))
        if size is not None and found.shape != (theirs.in_channels, *size):
            own, other = ("×".join(map(str, shape)) for shape in (found.shape, (theirs.in_channels, *size)))
            raise InputError("data", f"its images are {own}, and the network's {other} (C×H×W); see `size`, `channels`")
        return found
    if size is None:
        raise InputError("data", f"{folder} does not say how large its images are; name a data set of them")
    shape = (theirs.in_channels, *size)
    return ImagesConfig(name=folder.resolve().name, sha256=UNKNOWN, shape=shape, levels=256, counts={})


def export_run(path: str | Path, folder: str | Path, weights: str = "ema") -> Path:
    """Make a diffusers pipeline of a run that has diffusers' network.

    Args:
        path: the run directory.
        folder: where to write it; it must not exist.
        weights: ``ema`` or ``raw``.

    Returns:
        The folder.

    Raises:
        InputError: the run is something that diffusers has no class for.
    """
    run, folder = Run(path), free(Path(folder), "DIR")
    options = run.config.model
    if not isinstance(options, DDPMOptions) or options.unet2d is None:
        fix = "of a ddpm whose settings have a [model.unet2d], as 'nelbo import' makes them"
        raise InputError(
            str(path), f"has a network of nelbo's own, for which diffusers has no class; export a run {fix}"
        )
    if options.predict == "mean":
        raise InputError(str(path), "predicts the mean of the reverse step, and no scheduler of diffusers does")
    if options.decoder_variance != "beta_1":
        raise InputError(str(path), "learned the decoder's variance, for which a UNet2DModel has no output")
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
