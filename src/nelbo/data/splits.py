"""Which image belongs to which split: by content, so that renaming a file moves nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nelbo.data.raw import Pixels
from nelbo.errors import InputError

Rows = NDArray[np.intp]


def marks(images: Pixels) -> list[bytes]:
    """The SHA-256 of each image's pixels; ``images`` is uint8, ``(N, C, H, W)``."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def by_content(found: Sequence[bytes], held: Sequence[str], holdout: float, where: str) -> dict[str, Rows]:
    """Hold a share of the distinct images out for each split in ``held``; the rest is ``train``.

    The distinct images are ordered by their mark. The first share goes to the first split of ``held``, the next to the
    next. Equal images therefore always land in the same split.

    Args:
        found: the mark of each image.
        held: the splits to make besides ``train``, in order.
        holdout: the share of the distinct images for each, at least one image.
        where: what to name when there are too few images.

    Returns:
        split → the rows that belong to it, ordered by mark.

    Raises:
        InputError: there are fewer distinct images than splits.
    """
    distinct = sorted(set(found))
    if len(distinct) <= len(held):
        have = f"{len(found)} images" if len(distinct) == len(found) else f"only {len(distinct)} distinct images"
        raise InputError(where, f"has {have}; {', '.join([*held, 'train'])} need at least {len(held) + 1}")
    count = max(1, min(round(holdout * len(distinct)), (len(distinct) - 1) // len(held)))
    rank = {mark: index // count for index, mark in enumerate(distinct)}
    order = sorted(range(len(found)), key=lambda row: (found[row], row))
    names = [*held, "train"]
    rows: dict[str, list[int]] = {name: [] for name in names}
    for row in order:
        rows[names[min(rank[found[row]], len(held))]].append(row)
    return {name: np.asarray(index, dtype=np.intp) for name, index in rows.items()}


def stratified(labels: NDArray[np.int64], test: float, val: float, seed: int) -> dict[str, Rows]:
    """Split within each class, by a permutation whose algorithm is frozen (:class:`numpy.random.RandomState`).

    Args:
        labels: ``(N,)``.
        test: the share of each class for ``test``.
        val: the share of each class for ``val``.
        seed: of the permutations, which are drawn class after class.

    Returns:
        split → its rows, ascending.
    """
    random = np.random.RandomState(seed)
    rows: dict[str, list[Rows]] = {"train": [], "val": [], "test": []}
    for label in np.unique(labels):
        order = random.permutation(np.flatnonzero(labels == label))
        first = round(test * len(order))
        second = first + round(val * len(order))
        rows["test"].append(order[:first])
        rows["val"].append(order[first:second])
        rows["train"].append(order[second:])
    return {name: np.sort(np.concatenate(pieces)) for name, pieces in rows.items()}
