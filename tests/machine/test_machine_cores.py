"""Threads: one for each core and bound to it, as many as a container allows, and what the user says goes first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from machine_helpers import environment

from nelbo import cores, limits

BOUND = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "GOMP_SPINCOUNT": cores.SPIN}
LINUX = hasattr(os, "sched_getaffinity")


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, files: dict[str, str], expected: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text(line + "\n")
    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(limits, "GROUPS", tmp_path)
    assert limits.cores() == (expected or len(cores.ALLOWED) or os.cpu_count())


@pytest.mark.parametrize(
    ("allowed", "quota", "given", "expected"),
    [
        ({0, 1}, 2.0, {}, BOUND),
        ({0}, 1.0, {}, BOUND),
        ({0, 1, 2, 3}, 1.5, {}, {"OMP_NUM_THREADS": "2"}),
        ({0, 1}, 0.5, {}, {"OMP_NUM_THREADS": "1"}),
        ({0, 1}, 2.0, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1"}),
        ({0, 1}, 2.0, {"GOMP_CPU_AFFINITY": "1"}, {"GOMP_CPU_AFFINITY": "1"}),
        (set(), 2.0, {}, {}),
    ],
)
def test_what_is_settled(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    allowed: set[int],
    quota: float,
    given: dict[str, str],
    expected: dict[str, str],
) -> None:
    monkeypatch.setattr(cores, "ALLOWED", allowed)
    monkeypatch.setattr(cores, "cores", lambda: quota)
    monkeypatch.setattr(cores, "GPU", tmp_path / "none")
    environ = dict(given)
    cores.settle_threads(environ)
    assert environ == expected


def test_where_a_gpu_works_nothing_is_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cores, "GPU", tmp_path)
    environ: dict[str, str] = {}
    cores.settle_threads(environ)
    assert environ == {}


CODE = """
import json, os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from nelbo.cores import leave_core, settle_threads
settle_threads(os.environ)
import torch
before = set(os.listdir("/proc/self/task"))
torch.ones(2**22).add(1).sum()
team = {str(os.getpid())} | (set(os.listdir("/proc/self/task")) - before)
print(json.dumps({
    "team": [sorted(os.sched_getaffinity(int(thread))) for thread in team],
    "free": sorted(ThreadPoolExecutor(1, initializer=leave_core).submit(os.sched_getaffinity, 0).result()),
    "bound": sorted(ThreadPoolExecutor(1).submit(os.sched_getaffinity, 0).result()),
}))
"""


@pytest.mark.skipif(not LINUX or len(cores.ALLOWED) < 2, reason="threads are bound on Linux, with two cores or more")
def test_each_thread_of_a_team_has_its_core_and_other_threads_have_all() -> None:
    """In a process of its own, as OpenMP reads its settings once. Without ``leave_core``, a new thread has one core."""
    clean = {name: value for name, value in environment().items() if name not in cores.CHOSEN}
    done = subprocess.run([sys.executable, "-c", CODE], env=clean, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if limits.cores() < len(cores.ALLOWED) or cores.GPU.exists():
        pytest.skip("this machine's container has less time than cores, or a GPU")
    assert len(found["team"]) > 1
    taken = [core for allowed in found["team"] for core in allowed]
    assert len(taken) == len(set(taken)), "two threads of a team share a core"
    assert set(found["free"]) == cores.ALLOWED
    assert set(found["bound"]) < cores.ALLOWED
