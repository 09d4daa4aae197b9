"""Compress images with a run: a file that decodes to the same images, and weighs what the bound says."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nelbo.check import checked
from nelbo.codec.archive import ArchiveWriter
from nelbo.codec.chain_settings import MOST_STEPS
from nelbo.codec.coder import require_codec
from nelbo.errors import InputError
from nelbo.files import atomic_write
from nelbo.jobs.archive_facts import facts_of
from nelbo.jobs.codec_bounds import measured_bounds, require_bound
from nelbo.jobs.compress_inputs import Inputs, of_array, read_inputs
from nelbo.jobs.compress_job import Job
from nelbo.jobs.run import Run
from nelbo.jobs.steps import in_best_steps
from nelbo.models.base import GenerativeModel
from nelbo.models.diffusion import Diffusion
from nelbo.options import CompressOptions
from nelbo.report.compressed import Compression
from nelbo.report.paths import free
from nelbo.training.folders import kept

STEPS = 24
"""K of a diffusion model, by default."""


def compress(
    run: str | Path | Run,
    images: Any,
    out: str | Path,
    *,
    labels: Sequence[int | str] | None = None,
    options: CompressOptions | None = None,
    **settings: Any,
) -> Compression:
    """Compress images without loss, like ``nelbo compress``.

    Args:
        run: the run, or its directory; decoding needs the same weights.
        images: a SPEC, a file or folder of images, several of these, or integer levels of shape (n, C, H, W); or
            what :func:`given_inputs` has read.
        out: the new file.
        labels: the label of each image of an array.
        options: the options; or give
        settings: fields of :class:`~nelbo.options.CompressOptions` by name, such as ``steps=96``.

    Returns:
        The facts of the file.

    Raises:
        InputError: an argument cannot be used.
        OSError: the file cannot be written, or not be read back.
    """
    started = time.monotonic()
    options = options or checked(CompressOptions, settings)
    out = free(Path(out), "out")
    run = run if isinstance(run, Run) else Run(run)
    inputs = images if isinstance(images, Inputs) else given_inputs(run, images, labels, options)
    model, steps = in_asked_steps(run, run.model(options.weights, "cpu"), options)
    job = Job.of(run, model, inputs, options, steps)
    with kept(run.checkpoint, str(out.absolute())), atomic_write(out, new=True) as aside:
        with aside.open("wb") as file:
            writer = ArchiveWriter(file, job.header, job.coder.golden())
            for payload in inputs.apart:
                writer.apart(payload)
            with closing(job.payloads()) as payloads:
                for payload in payloads:
                    writer.chunk(payload)
            facts = job.facts | {"notes": job.notes, "xz_bytes": job.xz_bytes}
            if options.bounds:
                own = require_bound(run.model(options.weights, "cpu"))
                facts["bounds"] = measured_bounds(own, require_bound(model), inputs.images, options.seed).as_dict()
            writer.finish(inputs.table.model_copy(update={"facts": facts}))
        written = facts_of(aside)
        if written.problems:
            raise OSError(errno.EIO, f"cannot be read back ({'; '.join(written.problems)}); it is not kept", str(out))
    return written.model_copy(update={"file": str(out), "seconds": round(time.monotonic() - started, 3)})


def given_inputs(run: Run, images: Any, labels: Sequence[int | str] | None, options: CompressOptions) -> Inputs:
    """The images that were given.

    Raises:
        InputError: they cannot be used.
    """
    if isinstance(images, str | os.PathLike):
        images = [images]
    if isinstance(images, Sequence) and all(isinstance(each, str | os.PathLike) for each in images):
        if labels is not None:
            raise InputError("labels", "are those of an array; data and folders have their own; leave it out")
        return read_inputs(run, list(images), options.split, options.limit)
    for name in ("split", "limit"):
        if getattr(options, name) is not None:
            raise InputError(name, "applies to a data set, not to an array; leave it out")
    array = images.cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    return of_array(array, run.config.images.shape, run.config.images.levels, labels)


def in_asked_steps(run: Run, model: GenerativeModel, options: CompressOptions) -> tuple[GenerativeModel, int | None]:
    """The model in the steps of the file, and K, the network evaluations for each image, of a diffusion model.

    Raises:
        InputError: it has no codec, or steps are given, but it has none, or fewer.
    """
    require_codec(model, options.each)
    if isinstance(model, Diffusion):
        evaluations = evaluations_of(model, options)  # in continuous time, the first latent takes one more
        steps = max(1, evaluations - (model.timeline.gammas is None))
        return in_best_steps(run, model, steps, options.weights), evaluations
    if options.steps is not None:
        raise InputError("steps", f"a {model.family} has no steps; leave it out")
    return model, None


def evaluations_of(model: Diffusion, options: CompressOptions) -> int:
    """K, the network evaluations for each image.

    Raises:
        InputError: a chain has fewer.
    """
    gammas = model.timeline.gammas
    most = MOST_STEPS if gammas is None else min(MOST_STEPS, len(gammas) - 1)
    if options.steps is not None and options.steps > most:
        raise InputError("steps", f"{options.steps:,} are more than {most:,}, the most of this run; give fewer")
    return options.steps or min(STEPS, most)
