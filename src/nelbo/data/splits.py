"""Which image belongs to which split: by content, so that renaming a file moves nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nelbo.data.raw import Pixels
from nelbo.errors import InputError
from nelbo.options import SplitBy

Rows = NDArray[np.intp]


def marks(images: Pixels) -> list[bytes]:
    """The SHA-256 of each image's pixels; ``images`` is uint8, ``(N, C, H, W)``."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def by_content(
    found: Sequence[bytes], held: Sequence[str], holdout: float, where: str, split_by: SplitBy = "hash"
) -> tuple[dict[str, Rows], list[str]]:
    """Hold about a share of the distinct images out for each split in ``held``; the rest is ``train``.

    Equal images always land in the same split.

    Args:
        found: the mark of each image.
        held: the splits to make besides ``train``, in order.
        holdout: the share of the distinct images for each, at least one image.
        where: what to name when there are too few images.
        split_by: ``hash``: an image stays in its split whatever images come or go (:func:`by_hash`). ``rank``: the
            rule of runs of format 1 (:func:`by_rank`).

    Returns:
        split → the rows that belong to it, ordered by mark; and notes.

    Raises:
        InputError: there are fewer distinct images than splits.
    """
    distinct = sorted(set(found))
    if len(distinct) <= len(held):
        have = f"{len(found)} images" if len(distinct) == len(found) else f"only {len(distinct)} distinct images"
        raise InputError(where, f"has {have}; {', '.join([*held, 'train'])} need at least {len(held) + 1}")
    names = [*held, "train"]
    side, notes = (by_hash if split_by == "hash" else by_rank)(distinct, names, holdout)
    rows: dict[str, list[int]] = {name: [] for name in names}
    for row in sorted(range(len(found)), key=lambda row: (found[row], row)):
        rows[side[found[row]]].append(row)
    return {name: np.asarray(index, dtype=np.intp) for name, index in rows.items()}, notes


def by_hash(distinct: Sequence[bytes], names: Sequence[str], holdout: float) -> tuple[dict[bytes, str], list[str]]:
    """Split k has the images whose hash, a number in [0, 1), lies in [k·holdout, (k + 1)·holdout), ``train`` the rest.

    A split that would be empty gets the image with the nearest hash, of those whose split has another image.

    Args:
        distinct: the marks, sorted, at least one for each split.
        names: the splits, ``train`` the last.
        holdout: the share of each but the last.

    Returns:
        mark → its split, and a note for each split that would have been empty.
    """
    place = {mark: int.from_bytes(mark[:8].ljust(8, b"\0")) / 2**64 for mark in distinct}
    last = len(names) - 1
    ends = [(k * holdout, (k + 1) * holdout) for k in range(last)] + [(last * holdout, 1.0)]
    # An image above the last threshold is in train: sum the thresholds that it has passed.
    side = {mark: names[sum(place[mark] >= stop for _, stop in ends[:-1])] for mark in distinct}
    notes = []
    for name, (start, stop) in zip(names, ends, strict=True):
        count = Counter(side.values())
        if not count[name]:
            free = (mark for mark in distinct if count[side[mark]] > 1)
            side[min(free, key=lambda mark: max(start - place[mark], place[mark] - stop))] = name
            notes.append(f"{name} would be empty, and has the one image whose hash is nearest; more images would help")
    return side, notes


def by_rank(distinct: Sequence[bytes], names: Sequence[str], holdout: float) -> tuple[dict[bytes, str], list[str]]:
    """The rule of format 1: the first share of the sorted marks is the first split, the next the next.

    Images change sides when others come or go. Arguments and result are those of :func:`by_hash`.
    """
    held = len(names) - 1
    count = max(1, min(round(holdout * len(distinct)), (len(distinct) - 1) // held))
    return {mark: names[min(index // count, held)] for index, mark in enumerate(distinct)}, []


def copies(found: Sequence[bytes]) -> NDArray[np.int64]:
    """For each image the number of its distinct image, from 0: copies of one image have the same number."""
    numbers: dict[bytes, int] = {}
    return np.asarray([numbers.setdefault(mark, len(numbers)) for mark in found], dtype=np.int64)


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
