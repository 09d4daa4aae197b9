"""The contents of a folder: images, classes and splits, from its layout and the first bytes of its files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nelbo.data.decode import EXTENSIONS, looks_like_image
from nelbo.data.raw import ALL
from nelbo.data.words import split_of
from nelbo.errors import InputError

NOT_DATA = frozenset(
    (
        *("@eadir", "#recycle", "@recycle", "@recently-snapshot", "__macosx", "lost+found", "$recycle.bin"),
        *(
            "system volume information",
            "thumbs.db",
            "ehthumbs.db",
            "desktop.ini",
            "picasa.ini",
            "icon\r",
            "__pycache__",
        ),
        *(".thumbnails", ".ds_store", ".ipynb_checkpoints", ".trash", ".git", ".cache"),
    )
)
"""Files and folders that systems and programs create among images, in lower case."""


@dataclass(frozen=True)
class Found:
    """The images of a folder, or of one of its splits.

    Args:
        paths: the files, in natural order.
        classes: the class of each, the name of a direct subfolder; None if the folder has no class folders.
        mixed: whether there are images both beside and in subfolders, so that subfolders are not classes.
    """

    paths: tuple[Path, ...]
    classes: tuple[str, ...] | None
    mixed: bool = False


@dataclass(frozen=True)
class Tree:
    """A folder and its subfolders.

    Args:
        images: the images directly in it, in natural order.
        below: its subfolders by name, in natural order.
        passed: how many of its entries were ignored, by kind.
    """

    images: list[Path]
    below: dict[str, Tree]
    passed: Counter[str]

    def walk(self) -> Iterator[Path]:
        """All images, those of the folder itself first."""
        yield from self.images
        for tree in self.below.values():
            yield from tree.walk()

    def all_passed(self) -> Counter[str]:
        """The ignored entries, here and below."""
        return sum((tree.all_passed() for tree in self.below.values()), start=self.passed)

    def classes(self) -> dict[str, Tree]:
        """The subfolders that have images, at any depth."""
        return {name: tree for name, tree in self.below.items() if any(tree.walk())}


def scan(folder: Path) -> tuple[dict[str, Found], list[str]]:
    """Find the images of a folder.

    Subfolders whose names mean train, val or test (:mod:`nelbo.data.words`) are splits. Otherwise each direct subfolder
    with images, at any depth, is a class. The extension or the first bytes of a file show whether it is an image.

    Args:
        folder: the folder.

    Returns:
        ``{"all": found}``, or found by split; and notes on ignored files.

    Raises:
        InputError: a folder cannot be read, there are no images, or its names can mean splits and classes.
    """
    tree = look(folder, frozenset())
    below, passed = tree.classes(), listed(tree.all_passed())
    if not tree.images and not below:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        seen = f" (ignored: {passed})" if passed else ""
        raise InputError(str(folder), f"has no images; files ending in {kinds} are read, also in subfolders{seen}")
    splits = split_folders(folder, tree, below)
    groups = [tree, *(below[name] for name in splits.values())]
    empty = {name: each for group in groups for name, each in group.below.items() if not any(each.walk())}
    notes = [f"no images in the folder {name} ({listed(each.all_passed()) or 'empty'})" for name, each in empty.items()]
    if passed:
        notes.append(f"ignored: {passed}")
    if not splits:
        return {ALL: classify(tree)}, notes
    return {split: classify(below[name]) for split, name in splits.items()}, notes


def split_folders(folder: Path, tree: Tree, below: Mapping[str, Tree]) -> dict[str, str]:
    """Split → subfolder; empty if no name means a split. Raises InputError if the meaning is ambiguous."""
    meant = {name: split for name in below if (split := split_of(name)) is not None}
    for split in dict.fromkeys(meant.values()):
        same = [name for name in meant if meant[name] == split]
        if len(same) > 1:
            problem = f"has {len(same)} folders for the split {split}: {', '.join(same)}"
            raise InputError(str(folder), f"{problem}; keep one, or rename them if they are classes")
    if not meant:
        check_not_deeper(folder, below)
        return {}
    others = [name for name in below if name not in meant]
    if tree.images or others:
        beside = others[0] if others else tree.images[0].name
        names = ", ".join(meant)
        fix = f"to read them as splits, move {beside} away; to read them as classes, rename {names}"
        raise InputError(str(folder), f"has {names} beside {beside}, which can be splits or classes; {fix}")
    if "train" not in meant.values():
        names = ", ".join(meant)
        fix = f"to read them as splits, add a folder train; to read them as classes, rename {names}"
        raise InputError(str(folder), f"has {names} but no folder train, so they can be splits or classes; {fix}")
    return {split: name for name, split in meant.items()}


def check_not_deeper(folder: Path, below: Mapping[str, Tree]) -> None:
    """Raise an InputError for splits inside a class folder, which would be mixed."""
    for name, tree in below.items():
        meant = {split_of(each): each for each in tree.classes() if split_of(each) is not None}
        if len(meant) > 1:
            names = " and ".join(meant.values())
            fix = f"use {folder / name}, or move {names} to the top, with the classes in them"
            raise InputError(str(folder), f"has {names} inside {name}, which would be mixed; {fix}")


def look(folder: Path, above: frozenset[str]) -> Tree:
    """A folder and its subfolders; a link to a parent folder is not followed."""
    tree = Tree([], {}, Counter())
    real = os.path.realpath(folder)
    if real in above:
        return tree
    try:
        seen = sorted(folder.iterdir(), key=natural)
    except OSError as error:
        raise InputError(str(folder), f"cannot be read: {error.strerror or error}") from None
    for path in seen:
        if path.name.lower() in NOT_DATA:
            tree.passed[path.name.strip()] += 1
        elif path.name.startswith("."):
            tree.passed["hidden"] += 1
        elif path.is_dir():
            tree.below[path.name] = look(path, above | {real})
        elif path.is_file() and looks_like_image(path):
            tree.images.append(path)
        else:
            kind = path.suffix.lower() or "without an extension"
            tree.passed[kind if path.is_file() else f"{kind} (no file, or a broken link)"] += 1
    return tree


def listed(passed: Mapping[str, int]) -> str:
    """Kinds and their counts, most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items(), key=lambda item: (-item[1], item[0])))


def classify(tree: Tree) -> Found:
    """The images of a folder; subfolders are classes unless images lie beside them."""
    below = tree.classes()
    names = [name for name, each in below.items() for _ in each.walk()]
    return Found(tuple(tree.walk()), None if tree.images else tuple(names), mixed=bool(tree.images and below))


def natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key that puts ``image2`` before ``image10``."""
    pieces = re.split(r"([0-9]+)", path.name)
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece], path.name
