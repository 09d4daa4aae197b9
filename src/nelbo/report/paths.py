"""Where a result may be written: never over something that is there."""

from __future__ import annotations

import os
from pathlib import Path

from nelbo.errors import InputError


def free(path: Path, option: str) -> Path:
    """The path itself, if nothing is there yet and its folder can be made.

    Raises:
        InputError: something is there.
    """
    if os.path.lexists(path):
        raise InputError(option, f"{path} exists already; name another, or move it away")
    return reachable(path, option)


def reachable(path: Path, option: str) -> Path:
    """The path itself, if its folder is there or can be made.

    Raises:
        InputError: a file is in the way.
    """
    for parent in path.absolute().parents:
        if parent.exists():
            if not parent.is_dir():
                raise InputError(option, f"{parent} is a file, not a folder")
            break
    return path


def unused(folder: Path, name: str, suffix: str = ".png") -> Path:
    """A path in this folder that nothing has yet: name.png, name-2.png, …"""
    path, number = folder / f"{name}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}{suffix}"
    return path
