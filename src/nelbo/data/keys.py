"""Which arrays of an archive are images and labels, by their keys, or else by their shapes."""

from __future__ import annotations

from collections.abc import Mapping

from nelbo.data.dataset import SPLITS
from nelbo.data.raw import ALL
from nelbo.data.words import IMAGES, LABELS, split_and_role
from nelbo.errors import InputError

LEVELS = "levels"
"""The key of the number of levels in archives of 'nelbo sample'."""
Keys = dict[str, tuple[str, str | None]]


def choose(shapes: Mapping[str, tuple[int, ...] | None], where: str) -> Keys:
    """The keys of the images and labels.

    Args:
        shapes: key → shape of the array; None if its header cannot be read.
        where: the archive, for messages.

    Returns:
        split → (images, labels or None); the split is ``all`` if the keys name none.

    Raises:
        InputError: two keys have the same meaning, or the meaning of the keys is missing or ambiguous.
    """
    meant: dict[tuple[str, str], str] = {}
    for key in sorted(shapes):
        means = split_and_role(key)
        if means is None:
            continue
        place = (means[0] or ALL, means[1])
        if place in meant:
            what = place[1] if place[0] == ALL else f"{place[1]} of {place[0]}"
            raise InputError(where, f"has two arrays for the {what}: {meant[place]}, {key}; keep one")
        meant[place] = key
    for splits in ((ALL,), SPLITS):
        if (splits[-1] == ALL or ("train", IMAGES) in meant) and any((split, IMAGES) in meant for split in splits):
            return {s: (meant[s, IMAGES], meant.get((s, LABELS))) for s in splits if (s, IMAGES) in meant}
    images = [key for key, shape in shapes.items() if shape is None or len(shape) in (3, 4)]
    if not any(role == IMAGES for _, role in meant) and (len(shapes) == 1 or len(images) == 1):
        key = images[0] if images else next(iter(shapes))
        return {ALL: (key, meant.get((ALL, LABELS)) or unnamed_labels(key, shapes))}
    listed = ", ".join(sorted(shapes)) or "no arrays"
    raise InputError(where, f"has {listed}; rename them to images (and labels), or x_train, y_train, x_test, y_test")


def unnamed_labels(images: str, shapes: Mapping[str, tuple[int, ...] | None]) -> str | None:
    """``arr_1`` for the images ``arr_0`` (numpy.savez's default names), if it has one value for each image."""
    count, shape = shapes[images], shapes.get("arr_1")
    if images != "arr_0" or len(shapes) != 2 or not count or not shape:
        return None
    return "arr_1" if shape in ((count[0],), (count[0], 1)) else None
