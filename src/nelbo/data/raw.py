"""What a reader hands over: images as they were found, in the splits that the source itself names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

ALL = "all"


@dataclass(frozen=True, eq=False)
class Part:
    """Some images that belong together.

    Args:
        images: uint8, ``(N, C, H, W)``.
        labels: int64, ``(N,)``, or None.
        sources: of each image, its path in the folder or its row in the array; None: its row here.
    """

    images: Pixels
    labels: NDArray[np.int64] | None = None
    sources: Sequence[str | int] | None = None


@dataclass(frozen=True, eq=False)
class Raw:
    """A source that has been read.

    Args:
        name: a short name for it.
        where: the file, folder or option to name when something is wrong.
        parts: ``{"all": part}``, or parts by the names of splits, ``train`` among them.
        classes: the names of the classes, ``()`` without labels.
        levels: the number of values a pixel can take.
        notes: what a user should know.
        published: the splits are the set's own; what they have in common is not worth a note.
    """

    name: str
    where: str
    parts: Mapping[str, Part]
    classes: tuple[str, ...] = ()
    levels: int = 256
    notes: tuple[str, ...] = ()
    published: bool = False


def named_labels(values: NDArray[np.generic]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of any kind as indices into their sorted distinct values, and those values' names."""
    distinct, index = np.unique(values, return_inverse=True)
    return index.astype(np.int64).reshape(-1), tuple(str(value) for value in distinct)
