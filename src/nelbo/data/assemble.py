"""From what a reader hands over to a Dataset: splits completed, one array, levels checked, fingerprint taken."""

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
        raw: what the reader handed over.
        spec: what the user wrote.
        options: for ``holdout`` and ``levels``.

    Returns:
        the finished data set.

    Raises:
        InputError: too few images, images of different shapes, or a pixel that is not below the levels.
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
    """Every part has images of at least one pixel, and all of one shape."""
    shapes = {name: part.images.shape[1:] for name, part in raw.parts.items()}
    for name, part in raw.parts.items():
        if 0 in part.images.shape:
            what = "" if name == ALL else f" in {name}"
            size = "x".join(str(length) for length in part.images.shape)
            raise InputError(raw.where, f"has no pixels{what} ({size}); give images of at least 1x1")
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise InputError(raw.where, f"its splits differ in shape ({listed}); make them one channels x height x width")


def complete(raw: Raw, options: RunDataOptions) -> tuple[Plan, list[str]]:
    """Give each split its part and rows; what the source lacks is held out by content."""
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
        notes.append(f"{' and '.join(missing)} held out of train: {raw.where} has no split of that name")
        notes += more
        split |= {name: [found[row] for row in rows[name]] for name in ("train", *missing)}
    return {name: plan[name] for name in SPLITS}, [*notes, *repeats(split)]


def repeats(found: Mapping[str, Sequence[bytes]]) -> list[str]:
    """A note for each split in which an image stands more than once."""
    counts = {name: (len(some), len(set(some))) for name, some in found.items()}
    return [f"{name}: {n:,} images, {distinct:,} distinct" for name, (n, distinct) in counts.items() if distinct < n]


def overlaps(found: Mapping[str, Sequence[bytes]]) -> list[str]:
    """A note for each split that shares images with train, from the marks of each split."""
    train = set(found.get("train", ()))
    shared = {name: sum(mark in train for mark in found[name]) for name in found if name != "train"}
    return [f"{count} of the {len(found[n])} images of {n} are in train too" for n, count in shared.items() if count]


def gather(plan: Plan, where: str) -> tuple[Pixels, dict[str, tuple[int, int]]]:
    """Copy the splits into one array, one after another."""
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
    """Where each image comes from, in the order of the images."""
    sources: list[str | int] = []
    for part, rows in plan.values():
        sources += rows.tolist() if part.sources is None else [part.sources[row] for row in rows]
    return sources


def check_levels(images: Pixels, raw: Raw, asked: int | None) -> int:
    """The levels to use; every pixel must be below them."""
    levels = raw.levels if asked is None else asked
    top = int(images.max())
    if top >= levels and asked is not None:
        raise InputError("levels", f"{levels} is too few: {raw.where} has a pixel of {top}; it must be above that")
    if top >= levels:
        raise InputError(raw.where, f"has a pixel of {top}, but only {levels} levels; give `levels` {top + 1} or more")
    return levels


def few_levels(images: Pixels, levels: int, asked: int | None) -> list[str]:
    """A note where pixels look as if they had fewer levels than the 256 that their type allows."""
    top = int(images.max())
    if asked is not None or levels < 256:
        return []
    if top == 255 and all(bool(np.all((image == 0) | (image == 255))) for image in images):
        return ["every pixel is 0 or 255, yet they count as 256 levels, which flatters bits/dim: `binarize` makes it 2"]
    if not 1 <= top < 128:
        return []
    what = f"no pixel is above {top}, yet they count as 256 levels"
    return [f"{what}, which flatters bits/dim: if there are {top + 1}, add `levels` {top + 1}"]
