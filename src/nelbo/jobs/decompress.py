"""Decompress a file of ``nelbo compress``: the same images, or a line that says which are lost."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nelbo import __version__
from nelbo.codec.archive import ApartFile, Archive, Header, Table
from nelbo.codec.chunks import EACH, DamagedChunkError, Head
from nelbo.codec.coder import Images, coder_for
from nelbo.codec.container import Block
from nelbo.data.storage import allocate
from nelbo.errors import InputError
from nelbo.jobs.codec_crew import Crew, Here, Lane, Step, Worker, WorkerError, WorkerLostError
from nelbo.jobs.codec_model import model_of, require_golden, require_model
from nelbo.jobs.codec_plan import Counter, in_order, usable_cores, usable_lanes
from nelbo.jobs.codec_worker import ChunkCoder
from nelbo.jobs.decompress_output import require_out, write_images
from nelbo.jobs.run import Run
from nelbo.report.progress import bar


@dataclass(frozen=True)
class Decompressed:
    """The images of a file.

    Attributes:
        images: integer levels of the images of the run's shape, uint8, shape (n, C, H, W).
        rows: the number of each of them among all images of the file.
        levels: the number of values a pixel can take.
        apart: number → the file of each other image.
        names: of all images; None for an array.
        labels: of all images; None without labels.
        lost: the numbers of images that could not be decoded.
        problems: what is damaged, as ends of sentences.
    """

    images: Tensor = field(repr=False)
    rows: list[int] = field(repr=False)
    levels: int
    apart: dict[int, ApartFile] = field(repr=False)
    names: list[str] | None = field(repr=False)
    labels: list[str] | None = field(repr=False)
    lost: list[int]
    problems: list[str]


def decompress(
    run: str | Path | Run,
    file: str | Path,
    out: str | Path | None = None,
    *,
    indices: Sequence[int] | None = None,
    partial: bool = False,
) -> Decompressed:
    """Decompress a file, like ``nelbo decompress``.

    Args:
        run: the run that made it, or its directory.
        file: the file.
        out: where to write the images: a new folder, .npy or .npz; None to write nothing.
        indices: the numbers of the images to decode; None for all. Only the chunks of these images are decoded.
        partial: whether to return the other images if some are lost, instead of raising an error.

    Returns:
        The images.

    Raises:
        InputError: an argument cannot be used, or images are lost.
    """
    if out is not None:
        out = require_out(Path(out))
    run = run if isinstance(run, Run) else Run(run)
    with Archive(Path(file)) as archive:
        found = decoded(run, archive, indices)
        kinds = archive.table
    if found.lost and not partial:
        raise InputError(str(file), lost_line(found))
    if out is not None:
        write_images(found, kinds, out, str(file))
    return found


def lost_line(found: Decompressed) -> str:
    """Which images are lost, and why."""
    why = "; ".join(found.problems)
    return (
        f"is damaged ({why}): {spans(found.lost)} of {len(found.lost) + len(found.rows) + len(found.apart):,} are lost"
    )


def spans(numbers: Sequence[int]) -> str:
    """Numbers of images as spans.

    >>> spans([0, 1, 2, 7])
    'images 0 to 2, 7'
    """
    edges = [0, *(np.flatnonzero(np.diff(numbers) > 1) + 1).tolist(), len(numbers)]
    parts = [numbers[a:b] for a, b in pairwise(edges)]
    return "images " + ", ".join(f"{p[0]:,} to {p[-1]:,}" if len(p) > 1 else f"{p[0]:,}" for p in parts)


def rows_of(header: Header, table: Table, apart: set[int]) -> list[int]:
    """The number of each image with levels among all images; without a table, in their order beside those apart."""
    if table.runs:
        kinds = np.repeat([kind for kind, _ in table.runs], [count for _, count in table.runs])
        return np.flatnonzero(kinds >= 0).tolist()
    return [item for item in range(header.total) if item not in apart][: header.count]


def decoded(run: Run, archive: Archive, indices: Sequence[int] | None) -> Decompressed:
    """The images of a file.

    Raises:
        InputError: it is of another run, or this machine does not compute what made it.
    """
    header, table = archive.header, archive.table
    require_model(run, header)
    apart = archive.apart()
    rows = rows_of(header, table, set(apart))
    wanted = set(range(header.total)) if indices is None else checked_indices(indices, header.total)
    asked = [place for place, row in enumerate(rows) if row in wanted]
    images, have = chunked(run, archive, asked)
    names, labels = table.names, None
    if table.labels is not None:
        labels = [table.classes[label] for label in table.labels]
    kept = [place for place in asked if have[place]]
    others = {item: each for item, each in apart.items() if item in wanted}
    numbers = [rows[place] for place in kept]
    lost = sorted(wanted - set(numbers) - set(others))
    problems = [*archive.problems, *(["chunks of images are damaged"] if lost else [])]
    picked = images if len(kept) == len(images) else images[kept]
    return Decompressed(torch.from_numpy(picked), numbers, header.levels, others, names, labels, lost, problems)


def checked_indices(indices: Sequence[int], total: int) -> set[int]:
    """The numbers.

    Raises:
        InputError: there is no such image.
    """
    bad = [each for each in indices if not 0 <= each < total]
    if bad:
        raise InputError("indices", f"{bad[0]} is not the number of an image: they are 0 to {total - 1}")
    return set(indices)


def chunked(run: Run, archive: Archive, asked: Sequence[int]) -> tuple[Images, np.ndarray]:
    """All images with levels, of which those of the asked chunks are filled, and which are.

    Raises:
        InputError: this machine does not compute what made the file.
    """
    header = archive.header
    images = allocate((header.count, *header.shape), str(archive.path))
    have = np.zeros(header.count, bool)
    wanted = np.zeros(header.count, bool)
    wanted[list(asked)] = True
    found = [(head, block) for head, block in archive.chunks() if wanted[head.rows.start : head.rows.stop].any()]
    if not found:
        return images, have
    total = sum(head.n for head, _ in found)
    with crew_for(run, archive, found) as crew, bar(f"decompressing {total:,} images", total) as progress:
        step = Counter(progress.move).add
        payloads = [(head, archive.container.read(block)) for head, block in found]
        with ThreadPoolExecutor(len(crew.lanes)) as pool:
            try:
                results = in_order(crew.lanes, payloads, pool, lambda lane, chunk: attempt(lane, chunk[1], step))
                for (head, _), back in zip(payloads, results, strict=True):
                    if back is not None:
                        images[head.rows.start : head.rows.stop] = back
                        have[head.rows.start : head.rows.stop] = True
            except BaseException:
                crew.close()
                raise
    return images, have


def attempt(lane: Lane, payload: bytes, step: Step) -> Images | None:
    """The images of a chunk; None if it is damaged."""
    lane.coder.open()
    try:
        return lane.coder.decode(payload, step)
    except WorkerLostError:
        raise
    except (DamagedChunkError, WorkerError):
        return None


def crew_for(run: Run, archive: Archive, found: Sequence[tuple[Head, Block]]) -> Crew:
    """The workers, after a check that this machine computes what made the file.

    Raises:
        InputError: it does not.
    """
    header = archive.header
    model = model_of(run, header.weights, header.weights_sha256)
    each = any(head.kind == EACH for head, _ in found)
    coder = coder_for(model, header.coder)
    if archive.golden is not None:
        require_golden(coder, archive.golden, made_by(header))
    if run.parts:
        here = ChunkCoder(coder, header.shape, each)
        return Crew(lambda threads, core: Here(here, threads), 1, usable_cores(), check=False)
    opening = {
        "run": str(run.path.absolute()),
        "weights": header.weights,
        "weights_sha256": header.weights_sha256,
        "settings": header.coder,
        "each": each,
    }
    lanes = min(usable_lanes(), len(found))
    return Crew(lambda threads, core: Worker(opening, threads, core, header.shape), lanes, usable_cores(), check=False)


def made_by(header: Header) -> str:
    """The version that made a file, if it is another one."""
    return "" if header.nelbo == __version__ else f" (nelbo {header.nelbo} made the file)"
