"""Runs that are killed every 30 seconds for 20 minutes, compared bit by bit with uninterrupted runs.

    make soak

The uninterrupted run goes on in parallel with the killed sessions, whose lengths vary around 30 seconds. A run that is
done early is started again from there, and must not change.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from nelbo.jobs.run import Run
from nelbo.training import read_checkpoint

FAMILIES = ("vdm", "gan", "hvae")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def session(family: str, steps: int, out: Path) -> subprocess.Popen[bytes]:
    """A process that begins the run, or goes on with it."""
    words = ["train", family, "--data", "digits", "--steps", str(steps), "--out", str(out), "--resume"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "nelbo", *words], env=ENVIRONMENT, **quiet)  # type: ignore[call-overload,no-any-return]


def soak(family: str, steps: int, seconds: float, every: float, folder: Path) -> tuple[Counter[str], float]:
    """Kill a run until it is done and the time is up: how its sessions ended, and the share of right tensors."""
    straight, soaked = folder / f"{family}-straight", folder / f"{family}-soaked"
    beside = session(family, steps, straight)
    draw, ends, until = random.Random(0), Counter[str](), time.monotonic() + seconds
    while not ends["done"] or time.monotonic() < until:
        process = session(family, steps, soaked)
        try:
            code = process.wait(draw.uniform(0.7, 1.3) * every)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            ends["killed"] += 1
            continue
        if code != 0:
            raise RuntimeError(f"{family}: a session ended with exit code {code}")
        ends["done"] += 1
        time.sleep(min(every, max(0.0, until - time.monotonic())))
    if beside.wait() != 0:
        raise RuntimeError(f"{family}: the straight run failed")
    one, two = (read_checkpoint(Run(path).checkpoint) for path in (straight, soaked))
    if one.state["step"] != two.state["step"]:
        raise RuntimeError(f"{family}: {two.state['step']} steps where {one.state['step']} were asked for")
    tensors = [(kind, name) for kind in one.tensors for name in one.tensors[kind]]
    same = sum(torch.equal(one.tensors[kind][name], two.tensors[kind][name]) for kind, name in tensors)
    return ends, same / len(tensors)


def main() -> int:
    """Soak, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two kills, more or less")
    parser.add_argument("--steps", type=int, default=4000)
    given = parser.parse_args()
    print("| family | steps | sessions | tensors as in the straight run |\n| --- | --- | --- | --- |")
    well = True
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            seconds = 60 * given.minutes / len(FAMILIES)
            ends, same = soak(family, given.steps, seconds, given.every, Path(folder))
            well &= same == 1.0
            shown = ", ".join(f"{count} {how}" for how, count in ends.items())
            print(f"| {family} | {given.steps:,} | {shown} | {same:.0%} |", flush=True)
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
