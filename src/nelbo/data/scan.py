"""What a folder holds: images, classes and splits, by its layout alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nelbo.data.decode import EXTENSIONS
from nelbo.data.raw import ALL
from nelbo.errors import InputError

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Found:
    """The images of a folder, or of one split of it.

    Args:
        paths: the files, in natural order.
        classes: the class of each, the name of a direct subfolder; None if the folder has no class folders.
        mixed: there are images both beside and in subfolders, so that none are classes.
    """

    paths: tuple[Path, ...]
    classes: tuple[str, ...] | None
    mixed: bool = False


def scan(folder: Path) -> dict[str, Found]:
    """Find the images of a folder.

    Subfolders called ``train`` and ``val`` (also ``valid``, ``validation``) or ``test`` are splits. Otherwise each
    direct subfolder with images, at any depth, is a class. Hidden files and other extensions are passed over.

    Args:
        folder: where to look.

    Returns:
        ``{"all": found}``, or found by split.

    Raises:
        InputError: a folder cannot be read, there are no images, or two subfolders claim one split.
    """
    direct, below = survey(folder)
    if not direct and not below:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise InputError(str(folder), f"has no images; files ending in {kinds} are read, also in subfolders")
    if direct or "train" not in below or len(below) < 2 or not SPLIT_FOLDERS.keys() >= below.keys():
        return {ALL: classify(direct, below)}
    found: dict[str, Found] = {}
    for name in below:
        split = SPLIT_FOLDERS[name]
        if split in found:
            raise InputError(str(folder), f"has two folders for the split {split}; keep one")
        found[split] = classify(*survey(folder / name))
    return found


def survey(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """The images directly in a folder, and those in each of its subfolders that has any."""
    files, folders = entries(folder)
    below = {path.name: list(walk(path, {os.path.realpath(folder)})) for path in folders}
    return files, {name: paths for name, paths in below.items() if paths}


def walk(folder: Path, above: set[str]) -> Iterator[Path]:
    """All images below a folder; a link that leads back up is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    files, folders = entries(folder)
    yield from files
    for path in folders:
        yield from walk(path, above | {real})


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images and the folders directly in a folder, hidden ones left out, in natural order."""
    try:
        seen = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=natural)
    except OSError as error:
        raise InputError(str(folder), f"cannot be read: {error.strerror or error}") from None
    return [p for p in seen if p.suffix.lower() in EXTENSIONS and p.is_file()], [p for p in seen if p.is_dir()]


def classify(direct: list[Path], below: dict[str, list[Path]]) -> Found:
    """Images in subfolders have classes, unless others lie beside the subfolders."""
    paths = [*direct, *(path for some in below.values() for path in some)]
    classes = None if direct else tuple(name for name, some in below.items() for _ in some)
    return Found(tuple(paths), classes, mixed=bool(direct and below))


def natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """A key by which ``image2`` comes before ``image10``."""
    pieces = re.split(r"([0-9]+)", path.name)
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece], path.name
