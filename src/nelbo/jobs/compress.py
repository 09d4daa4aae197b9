"""Compress images with a run: a file that decodes to the same images, and weighs what the bound says."""

from __future__ import annotations

import errno
import lzma
import os
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nelbo import __version__
from nelbo.check import checked
from nelbo.codec.archive import MOST_IMAGES, ArchiveWriter, Header
from nelbo.codec.chain import MOST_STEPS
from nelbo.codec.chunks import DamagedChunkError, plain_chunk
from nelbo.codec.coder import Coder, EachCoder, Images, require_codec
from nelbo.errors import InputError
from nelbo.files import atomic_write
from nelbo.jobs._digest import digests
from nelbo.jobs.archive_facts import facts_of
from nelbo.jobs.codec_bounds import measured_bounds, require_bound
from nelbo.jobs.codec_crew import Crew, Here, Lane, Step, Worker, WorkerError, WorkerLostError
from nelbo.jobs.codec_model import new_coder
from nelbo.jobs.codec_plan import Counter, in_order, planned, usable_lanes, usable_threads
from nelbo.jobs.codec_worker import ChunkCoder
from nelbo.jobs.compress_inputs import Inputs, of_array, read_inputs
from nelbo.jobs.run import WEIGHTS, Run
from nelbo.jobs.steps import in_best_steps
from nelbo.models.base import GenerativeModel
from nelbo.models.diffusion import Diffusion
from nelbo.options import CompressOptions
from nelbo.report.compressed import Compression
from nelbo.report.paths import free
from nelbo.report.progress import bar
from nelbo.training.folders import kept

STEPS = 24
"""K of a diffusion model, by default."""
XZ_AT_ONCE = 256
"""Images between two looks whether to stop."""
EXAMPLES = 256
"""Images for the choice of a coder's settings, and of how to code a chunk."""


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
        images: a SPEC, a file or folder of images, several of these, or integer levels of shape (n, C, H, W).
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
    inputs = given_inputs(run, images, labels, options)
    model = in_asked_steps(run, run.model(options.weights, "cpu"), options)
    job = Job.of(run, model, inputs, options)
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


def in_asked_steps(run: Run, model: GenerativeModel, options: CompressOptions) -> GenerativeModel:
    """The model in the steps of the file, K network evaluations for each image.

    Raises:
        InputError: it has no codec, or steps are given, but it has none, or fewer.
    """
    require_codec(model, options.each)
    if isinstance(model, Diffusion):
        evaluations = evaluations_of(model, options)  # in continuous time, the first latent takes one more
        return in_best_steps(run, model, max(1, evaluations - (model.timeline.gammas is None)), options.weights)
    if options.steps is not None:
        raise InputError("steps", f"a {model.family} has no steps; leave it out")
    return model


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


@dataclass
class Job:
    """The images of one file, and who codes them.

    Attributes:
        run: the run.
        coder: its coder.
        inputs: the images.
        options: the options.
        header: the header of the file.
        edges: the first image of each chunk, and n.
        plain: the first images of a chunk that are coded without the model.
        facts: what is measured.
        notes: lines for the user.
        xz_bytes: of all levels.
    """

    run: Run
    coder: Coder | EachCoder
    inputs: Inputs
    options: CompressOptions
    header: Header
    edges: list[int]
    plain: int
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    xz_bytes: int = 0

    @classmethod
    def of(cls, run: Run, model: GenerativeModel, inputs: Inputs, options: CompressOptions) -> Job:
        """Plan a file.

        Raises:
            InputError: the model has no codec.
        """
        images = inputs.images
        if len(images) + len(inputs.apart) > MOST_IMAGES:
            raise InputError("images", f"are more than {MOST_IMAGES:,}, the most of one file; make several")
        inputs.table.text()  # raises now if it would be too long at the end
        coder = new_coder(model, images[:EXAMPLES], options.each)
        found = digests(run, options.weights)
        header = Header(
            nelbo=__version__,
            family=run.config.family,
            weights="ema" if options.weights == "ema" else "raw",
            weights_sha256=found["weights_sha256"],
            model_sha256=found["model_sha256"],
            step=run.step,
            shape=run.config.images.shape,
            levels=run.config.images.levels,
            count=len(images),
            apart=len(inputs.apart),
            coder=coder.settings,
        )
        facts = {
            "each": options.each,
            "steps": evaluations_of(model, options) if isinstance(model, Diffusion) else None,
            "weights_bytes": run.state["files"][WEIGHTS[options.weights]]["bytes"],
            "given_bytes": inputs.files,
        }
        edges, plain = planned(images, coder, options.each, usable_lanes())
        return cls(run, coder, inputs, options, header, edges, plain, facts, list(inputs.notes))

    def crew(self) -> Crew:
        """The workers."""
        options, shape = self.options, self.header.shape
        if self.run.parts:
            here = ChunkCoder(self.coder, shape, options.each)
            return Crew(lambda threads, core: Here(here, threads), 1, usable_threads(), options.check)
        opening = {
            "run": str(self.run.path.absolute()),
            "weights": options.weights,
            "weights_sha256": self.header.weights_sha256,
            "settings": self.coder.settings,
            "each": options.each,
        }
        lanes = min(usable_lanes(), len(self.edges) - 1)
        return Crew(lambda threads, core: Worker(opening, threads, core, shape), lanes, usable_threads(), options.check)

    def payloads(self) -> Generator[bytes]:
        """The chunks in their order, each checked."""
        spans = list(pairwise(self.edges))
        if self.edges[-1] <= self.plain:  # too few for the model, whose initial bits would be more
            self.xz_bytes = XzLength(self.inputs.images).measure()
            yield from (plain_chunk(self.inputs.images[first:stop], first) for first, stop in spans)
            return
        passes = 2 if self.options.check else 1
        with self.crew() as crew, bar(f"compressing {self.edges[-1]:,} images", passes * self.edges[-1]) as progress:
            counter = Counter(progress.move)
            with ThreadPoolExecutor(len(crew.lanes) + 1) as pool:
                xz = XzLength(self.inputs.images)
                length = pool.submit(xz.measure)
                try:
                    yield from in_order(crew.lanes, spans, pool, lambda lane, span: self.coded(lane, span, counter.add))
                except BaseException:
                    xz.stopped = True
                    crew.close()  # so that no thread waits for a worker
                    raise
                self.xz_bytes = length.result()
            self.facts["encode_seconds"] = round(sum(lane.coder.seconds for lane in crew.lanes), 3)
            checkers = [lane.checker for lane in crew.lanes if lane.checker is not None]
            self.facts["check_seconds"] = round(sum(checker.seconds for checker in checkers), 3)

    def coded(self, lane: Lane, span: tuple[int, int], step: Step) -> bytes:
        """One chunk, which decodes to its images.

        Raises:
            InputError: the run cannot be opened by the worker.
            WorkerLostError: a worker has ended.
        """
        first, images = span[0], self.inputs.images[span[0] : span[1]]
        where = f"images {first:,} to {span[1] - 1:,}"
        for worker in lane:
            if worker is not None:
                worker.open()
        try:
            payload = lane.coder.encode(images, first, step)
            back = images if lane.checker is None else lane.checker.decode(payload, step)
            if not np.array_equal(back, images):
                raise DamagedChunkError("other images")
        except (DamagedChunkError, WorkerError) as error:
            if isinstance(error, WorkerLostError):
                raise
            self.notes.append(f"{where} did not come back ({error}), and are stored without the model")
            return plain_chunk(images, first)
        plain = plain_chunk(images, first) if may_be_shorter(images, payload) else payload
        if len(plain) < len(payload):
            self.notes.append(f"{where} are shorter without the model, and are stored so")
            return plain
        return payload


def may_be_shorter(images: Images, payload: bytes) -> bool:
    """Whether a chunk may be shorter without the model, which takes seconds to know of many images.

    If the first images take more than twice as much without it, images like them do not take less.
    """
    some = images[:EXAMPLES]
    return len(some) == len(images) or len(plain_chunk(some, 0)) * len(images) < 2 * len(some) * len(payload)


class XzLength:
    """The bytes of xz of all levels.

    Args:
        images: the levels.

    Attributes:
        stopped: whether to stop early.
    """

    def __init__(self, images: Images) -> None:
        self.images, self.stopped = images, False

    def measure(self) -> int:
        """The bytes."""
        packer, total = lzma.LZMACompressor(preset=6), 0
        for first in range(0, len(self.images), XZ_AT_ONCE):
            if self.stopped:
                return 0
            total += len(packer.compress(self.images[first : first + XZ_AT_ONCE].tobytes()))
        return total + len(packer.flush())
