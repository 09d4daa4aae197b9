"""The chunks of one compressed file: each is coded, checked, and stored without the model where that is shorter."""

from __future__ import annotations

import lzma
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from nelbo import __version__
from nelbo.codec.archive import MOST_IMAGES, Header
from nelbo.codec.chunks import DamagedChunkError, plain_chunk
from nelbo.codec.coder import Coder, EachCoder, Images
from nelbo.errors import InputError
from nelbo.jobs._digest import digests
from nelbo.jobs.codec_crew import Crew, Here, Lane, Step, Worker, WorkerError, WorkerLostError
from nelbo.jobs.codec_model import new_coder
from nelbo.jobs.codec_plan import Counter, in_order, planned, usable_lanes, usable_threads
from nelbo.jobs.codec_worker import ChunkCoder
from nelbo.jobs.compress_inputs import Inputs
from nelbo.jobs.run import WEIGHTS, Run
from nelbo.models.base import GenerativeModel
from nelbo.options import CompressOptions
from nelbo.report.progress import bar

XZ_AT_ONCE = 256
"""Images between two looks whether to stop."""
EXAMPLES = 256
"""Images for the choice of a coder's settings, and of how to code a chunk."""


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
    def of(
        cls, run: Run, model: GenerativeModel, inputs: Inputs, options: CompressOptions, steps: int | None = None
    ) -> Job:
        """Plan a file.

        Args:
            run: the run.
            model: its model, in the steps of the file.
            inputs: the images.
            options: the options.
            steps: K, the network evaluations for each image, of a diffusion model.

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
            "steps": steps,
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
