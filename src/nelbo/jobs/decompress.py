"""Decompress a file of ``nelbo compress``: the same images, or a line that says which are lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.archive import ApartFile, Archive, Header, Table
from nelbo.errors import InputError
from nelbo.jobs.codec_model import made_by, require_model
from nelbo.jobs.decompress_chunks import chunked
from nelbo.jobs.decompress_output import require_out, write_images
from nelbo.jobs.run import Run


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
        The images, in the order of the file.

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
    images, have, failed = chunked(run, archive, asked)
    names, labels = table.names, None
    if table.labels is not None:
        labels = [table.classes[label] for label in table.labels]
    kept = [place for place in asked if have[place]]
    others = {item: each for item, each in apart.items() if item in wanted}
    numbers = [rows[place] for place in kept]
    lost = sorted(wanted - set(numbers) - set(others))
    problems = list(archive.problems)
    if failed:
        problems.append(f"{failed} chunks are whole, but do not decode to their images here{made_by(header)}")
    elif lost:
        problems.append("chunks of images are damaged")
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
