"""The chunks of a compressed file, decoded side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nelbo.codec.archive import Archive, Header
from nelbo.codec.chunks import EACH, PLAIN, DamagedChunkError, Head, decode_chunk
from nelbo.codec.coder import Images, coder_for
from nelbo.data.storage import allocate
from nelbo.jobs.codec_crew import Crew, Here, Lane, Step, Worker, WorkerError, WorkerLostError
from nelbo.jobs.codec_model import made_by, model_of, require_golden
from nelbo.jobs.codec_plan import Counter, in_order, usable_lanes, usable_threads
from nelbo.jobs.codec_worker import ChunkCoder
from nelbo.jobs.run import Run
from nelbo.report.progress import bar

Payload = tuple[Head, bytes]


def chunked(run: Run, archive: Archive, asked: Sequence[int]) -> tuple[Images, np.ndarray, int]:
    """All images with levels, those of the asked chunks filled; which are; and the number of chunks that failed.

    Raises:
        InputError: this machine does not compute what made the file.
    """
    header = archive.header
    images = allocate((header.count, *header.shape), str(archive.path))
    have = np.zeros(header.count, bool)
    wanted = np.zeros(header.count, bool)
    wanted[list(asked)] = True
    payloads = [
        (head, archive.container.read(block))
        for head, block in archive.chunks()
        if wanted[head.rows.start : head.rows.stop].any()
    ]
    failed = 0
    for head, back in without_model(payloads, header):
        failed += not filled(images, have, head, back)
    for head, back in by_model(run, archive, [each for each in payloads if each[0].kind != PLAIN]):
        failed += not filled(images, have, head, back)
    return images, have, failed


def filled(images: Images, have: np.ndarray, head: Head, back: Images | None) -> bool:
    """Put the images of a chunk in their places; returns whether there are any."""
    if back is not None:
        images[head.rows.start : head.rows.stop] = back
        have[head.rows.start : head.rows.stop] = True
    return back is not None


def without_model(payloads: Sequence[Payload], header: Header) -> Iterator[tuple[Head, Images | None]]:
    """The images of the chunks without a model; None instead of those that do not come back."""
    for head, payload in payloads:
        if head.kind == PLAIN:
            try:
                yield head, decode_chunk(payload, header.shape, None)
            except (DamagedChunkError, MemoryError):
                yield head, None


def by_model(run: Run, archive: Archive, payloads: Sequence[Payload]) -> Iterator[tuple[Head, Images | None]]:
    """The images of the chunks of a model; None instead of those that do not come back.

    Raises:
        InputError: this machine does not compute what made the file.
    """
    if not payloads:
        return
    total = sum(head.n for head, _ in payloads)
    with crew_for(run, archive, payloads) as crew, bar(f"decompressing {total:,} images", total) as progress:
        step = Counter(progress.move).add
        with ThreadPoolExecutor(len(crew.lanes)) as pool:
            try:
                results = in_order(crew.lanes, payloads, pool, lambda lane, chunk: attempt(lane, chunk[1], step))
                yield from zip((head for head, _ in payloads), results, strict=True)
            except BaseException:
                crew.close()  # so that no thread waits for a worker
                raise


def attempt(lane: Lane, payload: bytes, step: Step) -> Images | None:
    """The images of a chunk; None if it is damaged, or ends the process that decodes it."""
    lane.coder.open()
    try:
        return lane.coder.decode(payload, step)
    except WorkerLostError:
        lane.coder.restart()
        return None
    except (DamagedChunkError, WorkerError):
        return None


def crew_for(run: Run, archive: Archive, payloads: Sequence[Payload]) -> Crew:
    """The workers, after a check that this machine computes what made the file.

    Raises:
        InputError: it does not.
    """
    header = archive.header
    model = model_of(run, header.weights, header.weights_sha256)
    each = any(head.kind == EACH for head, _ in payloads)
    coder = coder_for(model, header.coder)
    if archive.golden is not None:
        require_golden(coder, archive.golden, made_by(header))
    if run.parts:
        here = ChunkCoder(coder, header.shape, each)
        return Crew(lambda threads, core: Here(here, threads), 1, usable_threads(), check=False)
    opening = {
        "run": str(run.path.absolute()),
        "weights": header.weights,
        "weights_sha256": header.weights_sha256,
        "settings": header.coder,
        "each": each,
    }
    lanes = min(usable_lanes(), len(payloads))
    return Crew(
        lambda threads, core: Worker(opening, threads, core, header.shape), lanes, usable_threads(), check=False
    )
