"""Room for images: in memory, or, where they are too many for it, in a file that is mapped into it.

A mapped array is used like any other. The system reads what is asked for, and gives the memory back when it is short of
it. The file has no name: it is gone when the process ends, however it ends.
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
"""What is larger than this part of the memory goes to the disk: while it is put in order there are two of it."""
CHUNK = 1024
"""Images that are copied at a time."""
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def memory() -> int:
    """Bytes of memory that this process may have: the machine's, or its container's."""
    sizes = [2**40]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ValueError, OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, kinds, place = line.split(":", 2)
            sizes += [size for size in map(limit, limits(kinds, place)) if size]
    return min(sizes)


def limits(kinds: str, place: str) -> list[Path]:
    """The files that limit the memory of a control group and of those that it is in."""
    if kinds not in ("", "memory"):
        return []
    root, name = (GROUPS / "memory", "memory.limit_in_bytes") if kinds else (GROUPS, "memory.max")
    own = root / place.lstrip("/")
    return [folder / name for folder in (own, *own.parents) if folder.is_relative_to(root)]


def limit(file: Path) -> int | None:
    """The number in this file, if there is one."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def allocate(shape: tuple[int, ...], where: str) -> Pixels:
    """An array of zeros or anything else, uint8; in memory, or in a file if it is large and there is room for one.

    Raises:
        InputError: it fits into neither; ``where`` is what it is for.
    """
    size = math.prod(shape)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes on this machine, each with an array of its own
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
        raise InputError(where, f"{listed} bytes do not fit into memory, nor on the disk{why}; {fix}") from None


def folder() -> Path:
    """Where mapped files are made."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("nelbo")) / "mapped"


def mapped(shape: tuple[int, ...]) -> Pixels:
    """An array in a file without a name, whose room on the disk is taken at once.

    Raises:
        OSError: there is no such room.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder()) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape).view(np.ndarray)


def picked(images: Pixels, rows: np.ndarray, into: Pixels) -> Pixels:
    """``into`` with these rows of ``images``; not all at once, as picking rows copies them."""
    for first in range(0, len(rows), CHUNK):
        some = rows[first : first + CHUNK]
        into[first : first + len(some)] = images[some]
    return into
