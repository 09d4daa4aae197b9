"""SIGKILL at any moment: the run resumes from its last complete checkpoint, with the weights of an uninterrupted run.

``make test`` kills 5 times; ``make test-kill`` kills 100 times (NELBO_KILLS), and prints when.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from machine_helpers import TINY, same_tensors

from nelbo.training import latest_checkpoint, read_checkpoint
from nelbo.training.folders import step_of

KILLS = int(os.environ.get("NELBO_KILLS", "5"))
STEPS_EACH = 12
"""So many steps are left for each kill, more than one session takes before it comes."""
CODE = """
import sys
import nelbo.training.stopping as stopping
stopping.CHECKPOINT_SECONDS = 0.0
from nelbo.cli import run
sys.exit(run(sys.argv[1:]))
"""


def session(out: Path, steps: int) -> subprocess.Popen[str]:
    """A process that begins the run or goes on with it, and writes a checkpoint at every step."""
    words = ["train", "ddpm", *TINY, "--steps", str(steps), "--out", str(out), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def killed(out: Path, steps: int, draw: random.Random) -> str:
    """Kill one session at a random moment; returns what it was doing."""
    process = session(out, steps)
    assert process.stderr is not None
    if draw.random() < 0.1:
        time.sleep(draw.uniform(0, 3))
        where = "starting, or just begun"
    else:
        process.stderr.readline()  # it has begun
        time.sleep(draw.uniform(0, 0.3))
        where = "training"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    if process.returncode == 0:
        return "already done"
    return "writing a checkpoint" if list(out.glob("checkpoints/.writing-*")) else where


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_run_that_was_killed_ends_as_one_that_was_not(here: Path) -> None:
    """Weights, their average and the optimiser's state, to the bit; after every kill the last checkpoint is whole."""
    steps, draw = KILLS * STEPS_EACH, random.Random(0)
    straight = session(here / "straight", steps)
    assert straight.communicate()[1] is not None
    assert straight.returncode == 0
    hit: Counter[str] = Counter()
    for _ in range(KILLS):
        hit[killed(here / "run", steps, draw)] += 1
        folder = latest_checkpoint(here / "run") if (here / "run").exists() else None
        if folder is not None:
            read_checkpoint(folder)  # sizes and hashes
    end = session(here / "run", steps)
    assert end.communicate()[1] is not None
    assert end.returncode == 0
    first, second = (latest_checkpoint(here / name) for name in ("straight", "run"))
    assert first is not None
    assert second is not None
    assert step_of(first) == step_of(second) == steps
    expected, found = read_checkpoint(first), read_checkpoint(second)
    for name, tensors in expected.tensors.items():
        same_tensors(found.tensors[name], tensors)
    print("\n| when the kill came | kills | last checkpoint whole | the end is the straight run's, to the bit |")
    print("| --- | --- | --- | --- |")
    for what, count in hit.most_common():
        print(f"| {what} | {count} | {count} of {count} | yes |")
