"""From a reader's result to a Dataset: missing splits, one array, a check of the levels, and a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nelbo.data.dataset import SPLITS, Dataset, fingerprint
from nelbo.data.raw import ALL, Part, Pixels, Raw
from nelbo.data.splits import Rows, by_content, marks
from nelbo.data.storage import allocate, picked
from nelbo.errors import InputError
from nelbo.options import RunDataOptions

Plan = dict[str, tuple[Part, Rows]]


def assemble(raw: Raw, spec: str, options: RunDataOptions) -> Dataset:
    """Build the Dataset.

    Args:
        raw: the reader's result.
        spec: the user's SPEC.
        options: with ``holdout`` and ``levels``.

    Returns:
        the data set.

    Raises:
        InputError: there are too few images, the shapes differ, or a pixel is not below the levels.
    """
    check_shapes(raw)
    plan, notes = complete(raw, options)
    images, bounds = gather(plan, raw.where)
    levels = check_levels(images, raw, options.levels)
    tensor = torch.from_numpy(images)
    return Dataset(
        name=raw.name,
        spec=spec,
        images=tensor,
        labels=gather_labels(plan),
        classes=raw.classes,
        bounds=bounds,
        levels=levels,
        sha256=fingerprint(tensor, bounds, levels),
        notes=(*raw.notes, *notes, *few_levels(images, levels, options.levels)),
        sources=gather_sources(plan),
    )


def check_shapes(raw: Raw) -> None:
    """Check that every part has images of at least one pixel, all of one shape."""
    shapes = {name: part.images.shape[1:] for name, part in raw.parts.items()}
    for name, part in raw.parts.items():
        if 0 in part.images.shape:
            what = "" if name == ALL else f" in {name}"
            size = "x".join(str(length) for length in part.images.shape)
            raise InputError(raw.where, f"has no pixels{what} ({size}); provide images of at least 1x1")
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise InputError(raw.where, f"its splits differ in shape ({listed}); give all the same C x H x W")


def complete(raw: Raw, options: RunDataOptions) -> tuple[Plan, list[str]]:
    """The part and rows of each split; missing splits are held out of the images by content."""
    if ALL in raw.parts:
        part = raw.parts[ALL]
        found = marks(part.images)
        rows, notes = by_content(found, ("test", "val"), options.holdout, raw.where, options.split_by)
        split = {name: [found[row] for row in rows[name]] for name in SPLITS}
        return {name: (part, rows[name]) for name in SPLITS}, [*notes, *repeats(split)]
    plan: Plan = {name: (part, np.arange(len(part.images))) for name, part in raw.parts.items()}
    split = {} if raw.published else {name: marks(raw.parts[name].images) for name in SPLITS if name in raw.parts}
    notes = overlaps(split)
    missing = [name for name in ("test", "val") if name not in raw.parts]
    if missing:
        part = raw.parts["train"]
        found = split.get("train") or marks(part.images)
        rows, more = by_content(found, missing, options.holdout, f"{raw.where} (train)", options.split_by)
        plan |= {name: (part, rows[name]) for name in ("train", *missing)}
        notes.append(f"{' and '.join(missing)} held out of train: {raw.where} has no such split")
        notes += more
        split |= {name: [found[row] for row in rows[name]] for name in ("train", *missing)}
    return {name: plan[name] for name in SPLITS}, [*notes, *repeats(split)]


def repeats(found: Mapping[str, Sequence[bytes]]) -> list[str]:
    """A note for each split that contains an image more than once."""
    counts = {name: (len(some), len(set(some))) for name, some in found.items()}
    return [f"{name}: {n:,} images, {distinct:,} distinct" for name, (n, distinct) in counts.items() if distinct < n]


def overlaps(found: Mapping[str, Sequence[bytes]]) -> list[str]:
    """A note for each split that shares images with train, from the hashes of each split."""
    train = set(found.get("train", ()))
    shared = {name: sum(mark in train for mark in found[name]) for name in found if name != "train"}
    return [f"{count} of the {len(found[n])} images of {n} are also in train" for n, count in shared.items() if count]


def gather(plan: Plan, where: str) -> tuple[Pixels, dict[str, tuple[int, int]]]:
    """Copy the splits one after another into one array."""
    total = sum(len(rows) for _, rows in plan.values())
    images = allocate((total, *next(iter(plan.values()))[0].images.shape[1:]), where)
    bounds, start = {}, 0
    for name, (part, rows) in plan.items():
        stop = start + len(rows)
        picked(part.images, rows, into=images[start:stop])
        bounds[name] = (start, stop)
        start = stop
    return images, bounds


def gather_labels(plan: Plan) -> torch.Tensor | None:
    """The labels in the order of the images, or None if any part has none."""
    pieces = [part.labels[rows] for part, rows in plan.values() if part.labels is not None]
    return torch.from_numpy(np.concatenate(pieces)) if len(pieces) == len(plan) else None


def gather_sources(plan: Plan) -> list[str | int]:
    """The source of each image, in the order of the images."""
    sources: list[str | int] = []
    for part, rows in plan.values():
        sources += rows.tolist() if part.sources is None else [part.sources[row] for row in rows]
    return sources


def check_levels(images: Pixels, raw: Raw, asked: int | None) -> int:
    """The number of levels; every pixel must be below it."""
    levels = raw.levels if asked is None else asked
    top = int(images.max())
    if top >= levels and asked is not None:
        raise InputError("levels", f"{levels} is too few: {raw.where} has a pixel of {top}; use more than that")
    if top >= levels:
        raise InputError(raw.where, f"has a pixel of {top}, but {levels} levels; set `levels` to {top + 1} or more")
    return levels


def few_levels(images: Pixels, levels: int, asked: int | None) -> list[str]:
    """A note if the pixels seem to have fewer levels than 256, the number of their dtype."""
    top = int(images.max())
    if asked is not None or levels < 256:
        return []
    if top == 255 and all(bool(np.all((image == 0) | (image == 255))) for image in images):
        return ["every pixel is 0 or 255, but bits/dim count 256 levels and are too low: `binarize` gives 2 levels"]
    if not 1 <= top < 128:
        return []
    what = f"no pixel is above {top}, but bits/dim count 256 levels"
    return [f"{what} and are too low: if there are {top + 1} levels, add `levels` {top + 1}"]
