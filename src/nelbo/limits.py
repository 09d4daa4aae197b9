"""Limits of this process: the memory and the processor time of its machine or its container (Linux control groups)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def memory() -> int:
    """Bytes of memory."""
    sizes = [2**40]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for folder, version in groups("memory"):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        with contextlib.suppress(ValueError, OSError):  # "max" is no limit
            sizes.append(int((folder / name).read_text()) or sizes[0])
    return min(sizes)


def cores() -> float:
    """Processor cores: those that the process may run on, or the fraction of time on them that it may use."""
    found = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    for folder, version in groups("cpu"):
        with contextlib.suppress(ValueError, OSError):
            if version == 2:
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            else:
                quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            found += [quota / period] if quota > 0 else []  # -1 is no limit
    return min(found)


def groups(controller: str) -> Iterator[tuple[Path, int]]:
    """The folders of the process's control group and its parents, and whether they are of version 1 or 2.

    Args:
        controller: ``memory`` or ``cpu``.
    """
    try:
        lines = OWN_GROUPS.read_text().splitlines()
        parts = [line.split(":", 2) for line in lines]
        found = [(kinds.split(","), place) for _, kinds, place in parts]
    except (ValueError, OSError):
        return
    for kinds, place in found:
        if kinds != [""] and controller not in kinds:
            continue
        root, version = (GROUPS, 2) if kinds == [""] else (GROUPS / controller, 1)
        own = root / place.lstrip("/")
        yield from ((folder, version) for folder in (own, *own.parents) if folder.is_relative_to(root))
