"""Which image belongs to which split: by content, so that renaming a file changes nothing."""

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
    """Hold out about a fraction ``holdout`` of the distinct images for each split in ``held``; the rest is ``train``.

    Equal images are always in the same split.

    Args:
        found: the hash of each image.
        held: the splits to make besides ``train``, in order.
        holdout: the fraction of the distinct images for each, at least one image.
        where: the source, for messages.
        split_by: ``hash``: an image stays in its split when other images are added or removed (:func:`by_hash`).
            ``rank``: the rule of runs of format 1 (:func:`by_rank`).

    Returns:
        split → its rows, ordered by hash; and notes.

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
    """Split k has the images whose hash, a number in [0, 1), is in [k·holdout, (k + 1)·holdout); the rest is ``train``.

    An empty split gets the image with the nearest hash, from a split with another image.

    Args:
        distinct: the hashes, sorted, at least one for each split.
        names: the splits, ``train`` the last.
        holdout: the fraction of each but the last.

    Returns:
        hash → its split, and a note for each split that would have been empty.
    """
    place = {mark: int.from_bytes(mark[:8].ljust(8, b"\0")) / 2**64 for mark in distinct}
    last = len(names) - 1
    ends = [(k * holdout, (k + 1) * holdout) for k in range(last)] + [(last * holdout, 1.0)]
    # The index of the split is the number of thresholds below the hash.
    side = {mark: names[sum(place[mark] >= stop for _, stop in ends[:-1])] for mark in distinct}
    notes = []
    for name, (start, stop) in zip(names, ends, strict=True):
        count = Counter(side.values())
        if not count[name]:
            free = (mark for mark in distinct if count[side[mark]] > 1)
            side[min(free, key=lambda mark: max(start - place[mark], place[mark] - stop))] = name
            notes.append(f"{name} would be empty, so it has the one image with the nearest hash; use more images")
    return side, notes


def by_rank(distinct: Sequence[bytes], names: Sequence[str], holdout: float) -> tuple[dict[bytes, str], list[str]]:
    """The rule of format 1: the sorted hashes are cut into consecutive splits.

    Adding images can change the split of others. Arguments and result are those of :func:`by_hash`.
    """
    held = len(names) - 1
    count = max(1, min(round(holdout * len(distinct)), (len(distinct) - 1) // held))
    return {mark: names[min(index // count, held)] for index, mark in enumerate(distinct)}, []


def copies(found: Sequence[bytes]) -> NDArray[np.int64]:
    """For each image the index of its distinct image; copies of an image have the same index."""
    numbers: dict[bytes, int] = {}
    return np.asarray([numbers.setdefault(mark, len(numbers)) for mark in found], dtype=np.int64)


def stratified(labels: NDArray[np.int64], test: float, val: float, seed: int) -> dict[str, Rows]:
    """Split within each class, by a permutation with a frozen algorithm (:class:`numpy.random.RandomState`).

    Args:
        labels: ``(N,)``.
        test: the fraction of each class for ``test``.
        val: the fraction of each class for ``val``.
        seed: the seed of the permutations, drawn class after class.

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
