"""A data set to look at: images by class and split, copies over splits, and files that are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.config.names import CONFIG
from nelbo.data import Dataset
from nelbo.data.decode import EXTENSIONS, quiet_decoding, read_pixels
from nelbo.data.folder import for_each
from nelbo.data.named import DIGITS
from nelbo.data.places import find, places
from nelbo.data.scan import scan
from nelbo.data.sources import SOURCES
from nelbo.errors import InputError
from nelbo.options import DataOptions, RunDataOptions
from nelbo.streams import as_text


class Page(NamedTuple):
    """Some images of a split.

    Attributes:
        images: integer levels, uint8, shape (n, C, H, W).
        names: of each image, its path or row, and its class.
        total: the number of images from which they were taken.
    """

    images: Tensor
    names: list[str]
    total: int


class Refused(NamedTuple):
    """A file that cannot be read.

    Attributes:
        name: its path in the folder.
        why: the reason, with a remedy if there is one.
    """

    name: str
    why: str


def page_of(dataset: Dataset, split: str, label: str | None, start: int, count: int) -> Page:
    """``count`` images of a split, and of a class if one is named, from number ``start`` on.

    Args:
        dataset: the images.
        split: ``train``, ``val``, ``test`` or ``all``.
        label: the name of a class; None for all.
        start: the number of images to skip, from 0.
        count: the number of images.

    Raises:
        InputError: there is no such split or class.
    """
    images, labels = dataset.split(split), dataset.split_labels(split)
    rows = torch.arange(len(images))
    if label is not None:
        names = [as_text(name) for name in dataset.classes]
        if labels is None or label not in names:
            raise InputError("class", f"{label!r} is not a class of {dataset.name}")
        rows = rows[labels == names.index(label)]
    shown = rows[start : start + count]
    return Page(images[shown], [name_of(dataset, split, row) for row in shown.tolist()], len(rows))


def name_of(dataset: Dataset, split: str, row: int) -> str:
    """The path or row of an image, and its class."""
    source, label, _ = dataset.origin(split, row)
    place = as_text(source) if isinstance(source, str) and source else f"row {source if source != '' else row}"
    return ", ".join([place, *[f"class {as_text(label)}"] * bool(label)])


def copies_over_splits(dataset: Dataset) -> list[list[tuple[str, int]]]:
    """The groups of equal images that are in more than one split: (split, its row there) of each image.

    Such an image of ``test`` has been trained on, which makes bits/dim too small.
    """
    places: dict[int, list[tuple[str, int]]] = {}
    numbers = dataset.copies("all").tolist()
    for split, (start, stop) in dataset.bounds.items():
        for row in range(start, stop):
            places.setdefault(numbers[row], []).append((split, row - start))
    return [group for group in places.values() if len({split for split, _ in group}) > 1]


def class_counts(dataset: Dataset) -> Mapping[str, Sequence[int]]:
    """Class → its number of images in each split, in the order of ``dataset.bounds``; empty without labels."""
    if dataset.labels is None:
        return {}
    counts = [
        torch.bincount(dataset.labels[start:stop].clamp(min=0), minlength=len(dataset.classes)).tolist()
        for start, stop in dataset.bounds.values()
    ]
    return {as_text(name): [each[k] for each in counts] for k, name in enumerate(dataset.classes)}


def refused_files(options: DataOptions) -> list[Refused]:
    """The files of a folder that cannot be read, each with the reason; none if the data are not a folder.

    Raises:
        InputError: the folder has no images, or cannot be read.
    """
    folder, bad = Path(options.data).expanduser(), dict[Path, str]()
    if not folder.is_dir():
        return []
    paths = [path for each in scan(folder)[0].values() for path in each.paths]
    skipping = RunDataOptions(data=options.data, skip_bad=True)
    with quiet_decoding():
        for_each(paths, read_pixels, "looking at every file", skipping, bad)
    return [Refused(as_text(path.relative_to(folder).as_posix()), why) for path, why in bad.items()]


def names_here() -> list[str]:
    """The named sets that can be read without a download."""
    spots = places(None)
    here = (name for name, source in SOURCES.items() if all(find(source, file, spots) for file in source.files))
    return [DIGITS, *here]


def data_below(folders: Iterable[Path]) -> list[Path]:
    """What looks like data in these folders: folders with images, and arrays; runs and hidden folders are not."""
    found = []
    for folder in folders:
        try:
            below = sorted(folder.iterdir())
        except OSError:
            continue
        if not (folder / CONFIG).exists() and has_images(folder):
            found.append(folder)
        for path in below:
            if path.is_symlink() or path.name.startswith("."):
                continue
            arrays = path.is_file() and path.suffix in (".npy", ".npz")
            if arrays or (path.is_dir() and not (path / CONFIG).exists() and has_images(path, below=True)):
                found.append(path)
    return found


def has_images(folder: Path, below: bool = False) -> bool:
    """Whether a file in a folder has the extension of an image; with ``below`` also in its direct subfolders."""
    try:
        for path in folder.iterdir():
            if path.suffix.lower() in EXTENSIONS and path.is_file():
                return True
            if below and path.is_dir() and not path.name.startswith(".") and has_images(path):
                return True
    except OSError:
        return False
    return False
