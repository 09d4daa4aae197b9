"""Paths for results; existing files are never overwritten."""

from __future__ import annotations

import os
from pathlib import Path

from nelbo.errors import InputError


def free(path: Path, option: str) -> Path:
    """The path, if it does not exist and its folder can be made.

    Raises:
        InputError: the path exists, or a file is in place of its folder.
    """
    if os.path.lexists(path):
        raise InputError(option, f"{path} already exists; name another, or remove it")
    return reachable(path, option)


def reachable(path: Path, option: str) -> Path:
    """The path, if its folder exists or can be made.

    Raises:
        InputError: a file is in place of its folder.
    """
    for parent in path.absolute().parents:
        if parent.exists():
            if not parent.is_dir():
                raise InputError(option, f"{parent} is a file, not a folder")
            break
    return path


def unused(folder: Path, name: str, suffix: str = ".png") -> Path:
    """The first unused path of name.png, name-2.png, … in this folder."""
    path, number = folder / f"{name}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}{suffix}"
    return path
