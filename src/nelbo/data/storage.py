"""Memory for images: in RAM, or in a memory-mapped file if there are too many.

A mapped array behaves like any other. The system reads its pages on demand and can drop them. The file has no name, so
it is deleted when the process ends.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np

from nelbo.data.raw import Pixels
from nelbo.errors import InputError
from nelbo.limits import memory

SHARE = 4
"""An array larger than this fraction (1/4) of the memory goes to disk, because building it needs two copies."""
CHUNK = 1024
"""Images copied at a time."""


def allocate(shape: tuple[int, ...], where: str) -> Pixels:
    """An uninitialised array, uint8; in memory, or in a file if it is large and the disk has space.

    Raises:
        InputError: it fits into neither; the message names ``where``.
    """
    size = math.prod(shape)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes on this machine, each with its own array
    try:
        if size <= memory() // (SHARE * beside):
            return np.empty(shape, dtype=np.uint8)
        try:
            return mapped(shape)
        except OSError:
            if size > memory() // (2 * beside):
                raise
            return np.empty(shape, dtype=np.uint8)
    except (MemoryError, ValueError, OverflowError, OSError) as error:
        why = f" ({error.strerror} in {folder()})" if isinstance(error, OSError) else ""
        listed = "x".join(str(length) for length in shape)
        fix = "use a smaller `size` or fewer images"
        raise InputError(where, f"{listed} bytes fit neither into memory nor on the disk{why}; {fix}") from None


def folder() -> Path:
    """The folder of mapped files."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("nelbo")) / "mapped"


def mapped(shape: tuple[int, ...]) -> Pixels:
    """An array in a file without a name, whose disk space is allocated at once.

    Raises:
        OSError: the disk does not have the space.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder()) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape).view(np.ndarray)


def picked(images: Pixels, rows: np.ndarray, into: Pixels) -> Pixels:
    """Copy these rows of ``images`` to ``into``, in pieces, because indexing makes a copy."""
    for first in range(0, len(rows), CHUNK):
        some = rows[first : first + CHUNK]
        into[first : first + len(some)] = images[some]
    return into
