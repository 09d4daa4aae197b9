"""A reader's result: unconverted images, in the splits of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

ALL = "all"


@dataclass(frozen=True, eq=False)
class Part:
    """Images of one split.

    Args:
        images: uint8, ``(N, C, H, W)``.
        labels: int64, ``(N,)``, or None.
        sources: each image's path in the folder or row in the array; None: its row here.
    """

    images: Pixels
    labels: NDArray[np.int64] | None = None
    sources: Sequence[str | int] | None = None


@dataclass(frozen=True, eq=False)
class Raw:
    """The contents of a source.

    Args:
        name: a short name for it.
        where: the file, folder or option, for messages.
        parts: ``{"all": part}``, or parts by the names of splits, ``train`` among them.
        classes: the names of the classes, ``()`` without labels.
        levels: the number of values a pixel can take.
        notes: notes for the user.
        published: whether the splits are the set's own, so that images that they share need no note.
    """

    name: str
    where: str
    parts: Mapping[str, Part]
    classes: tuple[str, ...] = ()
    levels: int = 256
    notes: tuple[str, ...] = ()
    published: bool = False


def named_labels(values: NDArray[np.generic]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of any kind as indices into their sorted distinct values, and the names of these values."""
    distinct, index = np.unique(values, return_inverse=True)
    return index.astype(np.int64).reshape(-1), tuple(str(value) for value in distinct)
