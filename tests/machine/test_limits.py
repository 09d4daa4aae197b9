"""The limits of control groups, of version 2 and 1, and of those that they are in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from nelbo import cores, limits

Groups = Callable[[str, Mapping[str, str]], None]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Writes the line of /proc/self/cgroup and the files of /sys/fs/cgroup."""

    def write(line: str, files: Mapping[str, str]) -> None:
        for name, text in {"own": line, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text + "\n")

    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(limits, "GROUPS", tmp_path)
    return write


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/a/b", {"memory.max": "max", "a/memory.max": "3000", "a/b/memory.max": "4000"}, 3000),
        ("4:memory:/a/b", {"memory/memory.limit_in_bytes": "9000", "memory/a/b/memory.limit_in_bytes": "2000"}, 2000),
        ("0::/gone", {"memory.max": "5000"}, 5000),
        ("3:cpuset:/a", {"a/memory.max": "1"}, None),
    ],
)
def test_the_memory_of_a_container_counts(
    groups: Groups, line: str, files: Mapping[str, str], expected: int | None
) -> None:
    without = min(2**40, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    groups(line, files)
    assert limits.memory() == (expected or without)


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a", {"cpu.max": "30000 100000", "a/cpu.max": "50000 100000"}, 0.3),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        ("4:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None),
        ("4:memory:/a", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, None),
        ("nonsense", {"cpu.max": "1000 100000"}, None),
    ],
)
def test_the_processor_time_of_a_container_counts(
    groups: Groups, line: str, files: Mapping[str, str], expected: float | None
) -> None:
    most = len(cores.ALLOWED) or os.cpu_count() or 1
    groups(line, files)
    assert limits.cores() == min(most, expected or most)
