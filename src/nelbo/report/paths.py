"""Where a result may be written: never over something that is there."""

from __future__ import annotations

from pathlib import Path

from nelbo.errors import InputError


def free(path: Path, option: str) -> Path:
    """The path itself, if nothing is there yet and its folder can be made.

    Raises:
        InputError: something is there.
    """
    if path.exists():
        raise InputError(option, f"{path} exists already; name another, or move it away")
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".pt"):
        raise InputError(option, f"{path.suffix} is not written; give a .png, a .gif, an .npz, or a folder")
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
