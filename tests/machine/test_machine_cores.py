"""Threads: one for each core and bound to it, as many as a container allows, and what the user says goes first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from machine_helpers import environment

from nelbo import cores, limits

SPINNING = {"GOMP_SPINCOUNT": cores.SPIN}
LINUX = hasattr(os, "sched_getaffinity")


@pytest.mark.parametrize(
    ("allowed", "quota", "given", "expected"),
    [
        ({0, 1}, 2.0, {}, SPINNING),
        ({0, 1, 2, 3}, 1.5, {}, {"OMP_NUM_THREADS": "2", **SPINNING}),
        ({0, 1}, 0.5, {}, {"OMP_NUM_THREADS": "1", **SPINNING}),
        ({0, 1}, 2.0, {"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
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
    monkeypatch.setattr(cores, "settled", False)
    monkeypatch.setattr(cores, "ALLOWED", allowed)
    monkeypatch.setattr(cores, "cores", lambda: quota)
    monkeypatch.setattr(cores, "GPU", tmp_path / "none")
    environ = dict(given)
    cores.settle_threads(environ)
    assert environ == expected
    assert cores.settled == (bool(allowed) and not set(given) & set(cores.CHOSEN))


def test_where_a_gpu_works_nothing_is_settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cores, "settled", False)
    monkeypatch.setattr(cores, "GPU", tmp_path)
    environ: dict[str, str] = {}
    cores.settle_threads(environ)
    assert environ == {}
    assert not cores.settled


def test_siblings_are_one_core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two cores of two threads each, of which one may not be used, and one that says nothing."""
    for core, text in ((0, "0,4"), (4, "0,4"), (1, "1-2"), (2, "1-2")):
        (tmp_path / f"cpu{core}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "topology" / "thread_siblings_list").write_text(text + "\n")
    monkeypatch.setattr(cores, "TOPOLOGY", tmp_path)
    assert cores.physical_cores({0, 1, 2, 4, 7}) == [{0, 4}, {1, 2}, {7}]
    assert cores.physical_cores({0, 1}) == [{0}, {1}]


CODE = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from nelbo.cores import leave_core, on_own_cores, settle_threads
if sys.argv[1] == "settled":
    settle_threads(os.environ)
import torch
def allowed(thread=0):
    return sorted(os.sched_getaffinity(thread))
before = set(os.listdir("/proc/self/task"))
with on_own_cores():
    torch.ones(2**22).add(1).sum()
    main = allowed()
    team = [allowed(int(thread)) for thread in set(os.listdir("/proc/self/task")) - before]
    inside = [ThreadPoolExecutor(1, initializer=first).submit(allowed).result() for first in (None, leave_core)]
print(json.dumps({"main": main, "team": team, "inside": inside, "after": allowed()}))
"""


def affinities(how: str) -> dict[str, Any]:
    """The cores of the threads of a process of its own, as OpenMP's threads stay where they are."""
    clean = {name: value for name, value in environment().items() if name not in cores.CHOSEN}
    done = subprocess.run([sys.executable, "-c", CODE, how], env=clean, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not LINUX or len(cores.ALLOWED) < 2, reason="threads are bound on Linux, with two cores or more")
@pytest.mark.skipif(
    limits.cores() < len(cores.ALLOWED) or cores.GPU.exists(), reason="a container with less time than cores, or a GPU"
)
def test_each_thread_of_a_team_has_its_core_and_other_threads_have_all() -> None:
    """A thread that starts inside has one core, unless it leaves it; afterwards the main thread has all again."""
    found = affinities("settled")
    bound = [allowed for allowed in found["team"] if set(allowed) < cores.ALLOWED and allowed != found["main"]]
    assert bound, "the helpers are bound, and not to the main thread's core"
    taken = [core for allowed in [found["main"], *bound] for core in allowed]
    assert len(taken) == len(set(taken)), "two threads of a team share a core"
    assert found["inside"] == [found["main"], sorted(cores.ALLOWED)]
    assert set(found["after"]) == cores.ALLOWED


@pytest.mark.skipif(not LINUX, reason="only Linux tells")
def test_a_library_leaves_threads_alone() -> None:
    found = affinities("as it was")
    assert all(set(allowed) == cores.ALLOWED for allowed in [found["main"], *found["team"], *found["inside"]])


TRAINING = """
import os, tempfile
from pathlib import Path

import torch

from nelbo.data import load
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.options import TrainingOptions
from nelbo.training import Trainer

data = load("digits")
model = DDPM.from_options(DDPMOptions(widths=(8,)).resolved(data.shape), data.shape, data.levels)
(torch.ones(400, 400) @ torch.ones(400, 400)).exp().sum()
before = set(os.listdir("/proc/self/task"))
with tempfile.TemporaryDirectory() as folder:
    for _ in Trainer(model, data.split("train"), TrainingOptions(steps=4), Path(folder)):
        tasks = set(os.listdir("/proc/self/task")) - before
print(len(tasks))
"""


@pytest.mark.skipif(not LINUX, reason="counts threads as Linux lists them")
def test_training_on_a_cpu_starts_no_thread() -> None:
    """Beside a thread with OpenMP threads of its own, all wait by sleeping, and a step takes 1.5 times as long."""
    ran = subprocess.run(
        [sys.executable, "-c", TRAINING], env=environment() | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "0"
