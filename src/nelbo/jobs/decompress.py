"""Decompress a file of ``nelbo compress``: the same images, or a line that says which are lost."""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.apart import ApartFile, ApartHead
from nelbo.codec.archive import Archive, Header, Table
from nelbo.codec.container import Block
from nelbo.errors import InputError
from nelbo.jobs.codec_model import made_by, require_model
from nelbo.jobs.decompress_chunks import chunked
from nelbo.jobs.decompress_output import require_out, write_images
from nelbo.jobs.run import Run
from nelbo.report.compressed import number


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
        unnamed: whether names, labels and kinds are lost.
        problems: what is damaged, as ends of sentences.
    """

    images: Tensor = field(repr=False)
    rows: list[int] = field(repr=False)
    levels: int
    apart: dict[int, ApartFile] = field(repr=False)
    names: list[str] | None = field(repr=False)
    labels: list[str] | None = field(repr=False)
    lost: list[int]
    unnamed: bool
    problems: list[str]

    @property
    def count(self) -> int:
        """The number of images that are there."""
        return len(self.rows) + len(self.apart)

    @property
    def whole(self) -> bool:
        """Whether nothing is lost."""
        return not self.lost and not self.unnamed


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
        out: where to write the images, unless all are lost: a new folder, .npy or .npz; None to write nothing.
        indices: the numbers of the images to decode; None for all. Only the chunks of these images are decoded.
        partial: whether to return what is left if images, or names and labels, are lost, instead of raising an error.

    Returns:
        The images, in the order of the file.

    Raises:
        InputError: an argument cannot be used, or images, or names and labels, are lost.
    """
    if out is not None:
        out = require_out(Path(out))
    run = run if isinstance(run, Run) else Run(run)
    with Archive(Path(file)) as archive:
        found = decoded(run, archive, indices)
        kinds = archive.table
    if not found.whole and not partial:
        raise InputError(str(file), lost_line(found))
    if out is not None and found.count:
        write_images(found, kinds, out, str(file))
    return found


def lost_line(found: Decompressed) -> str:
    """What is lost, and why."""
    what = ["names, labels and kinds of images"] if found.unnamed else []
    if found.lost:
        what.append(f"{spans(found.lost)} of {len(found.lost) + found.count:,}")
    return f"is damaged ({'; '.join(found.problems)}): {', and '.join(what)} are lost"


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
        InputError: it is of another run, this machine does not compute what made it, or the images of these numbers
            are not known.
    """
    header, table = archive.header, archive.table
    require_model(run, header)
    apart, problems = archive.apart(), list(archive.problems)
    wanted = set(range(header.total)) if indices is None else checked_indices(indices, header.total)
    if archive.unnamed and len(apart) < header.apart:
        problems.append("which number an image has is lost too, so they are numbered in their order")
        if indices is not None:
            raise InputError("indices", f"cannot be used, because {archive.path} is damaged ({'; '.join(problems)})")
    rows = rows_of(header, table, {head.item for head, _ in apart})
    asked = [place for place, row in enumerate(rows) if row in wanted]
    images, have, failed = chunked(run, archive, asked)
    names, labels = table.names, None
    if table.labels is not None:
        labels = [table.classes[label] for label in table.labels]
    kept = [place for place in asked if have[place]]
    others = files_apart(archive, apart, wanted)
    numbers = [rows[place] for place in kept]
    lost = sorted(wanted - set(numbers) - set(others))
    if failed:
        verbs = "is whole, but does" if failed == 1 else "are whole, but do"
        problems.append(f"{number(failed, 'chunk')} {verbs} not decode to the same images here{made_by(header)}")
    elif lost:
        problems.append("chunks of images are damaged")
    picked = images if len(kept) == len(images) else images[kept]
    return Decompressed(
        torch.from_numpy(picked), numbers, header.levels, others, names, labels, lost, archive.unnamed, problems
    )


def files_apart(
    archive: Archive, apart: Sequence[tuple[ApartHead, Block]], wanted: Container[int]
) -> dict[int, ApartFile]:
    """The wanted images apart that can be unpacked; they stay packed until they are written."""
    found = {}
    for head, block in apart:
        if head.item in wanted:
            file = ApartFile(head.name, archive.container.read(block), head.method != "webp")
            with suppress(ValueError, MemoryError):
                _ = file.data
                found[head.item] = file
    return found


def checked_indices(indices: Sequence[int], total: int) -> set[int]:
    """The numbers.

    Raises:
        InputError: there is no such image.
    """
    bad = [each for each in indices if not 0 <= each < total]
    if bad:
        raise InputError("indices", f"{bad[0]} is not the number of an image: they are 0 to {total - 1}")
    return set(indices)
