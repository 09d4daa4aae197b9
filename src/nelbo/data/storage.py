"""Memory for images: in RAM, or in a memory-mapped file if there are too many.

A mapped array behaves like any other. The system reads its pages on demand and can drop them. The file has no name, so
it is deleted when the process ends.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from pathlib import Path

import numpy as np

from nelbo.data.raw import Pixels
from nelbo.errors import InputError

SHARE = 4
"""An array larger than this fraction (1/4) of the memory goes to disk, because building it needs two copies."""
CHUNK = 1024
"""Images copied at a time."""
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def memory() -> int:
    """Bytes of memory available to this process: the machine's or its container's."""
    sizes = [2**40]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ValueError, OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, kinds, place = line.split(":", 2)
            sizes += [size for size in map(limit, limits(kinds, place)) if size]
    return min(sizes)


def limits(kinds: str, place: str) -> list[Path]:
    """The files with the memory limits of a control group and its parents."""
    if kinds not in ("", "memory"):
        return []
    root, name = (GROUPS / "memory", "memory.limit_in_bytes") if kinds else (GROUPS, "memory.max")
    own = root / place.lstrip("/")
    return [folder / name for folder in (own, *own.parents) if folder.is_relative_to(root)]


def limit(file: Path) -> int | None:
    """The number in this file, or None."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


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
