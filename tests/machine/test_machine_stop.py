"""SIGTERM and Ctrl-C at any time: the command stops within seconds, and the run continues with --resume."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine_helpers import TINY, call_well, environment

from nelbo.training import latest_checkpoint, read_checkpoint
from nelbo.training.folders import all_checkpoints, step_of

SECONDS = 15.0
"""For a process to stop on a busy machine, five of them for what may still be finished; each stand-in takes minutes."""
CODE = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import nelbo.training.checkpoint as checkpoint
import nelbo.training.stopping as stopping
from nelbo.jobs.previews import Previews
from nelbo.models._diffusion_inspector import DiffusionRecipe
from nelbo.cli import run
import nelbo.jobs.settings as settings

def busy(seconds=300.0):
    print("busy", file=sys.stderr, flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)

write = checkpoint.write_synced

def slow_file(path, data):
    if path.name == "model.safetensors":
        busy()
    write(path, data)

def slowish_file(path, data):
    if path.name == "model.safetensors":
        busy(2.0)
    write(path, data)

def reading(options):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda k: busy(), range(20)))

def a_look():
    Previews.draw_samples = lambda *given: busy()
def a_checkpoint():
    checkpoint.write_synced = slow_file
    stopping.SOONEST = stopping.CHECKPOINT_SECONDS = 0.0
def a_checkpoint_that_is_soon_done():
    checkpoint.write_synced = slowish_file
    stopping.SOONEST = stopping.CHECKPOINT_SECONDS = 0.0
def data():
    settings.read_data = lambda options: busy()
def data_in_threads():
    settings.read_data = reading
def preparation():
    DiffusionRecipe.prepare = lambda *given: busy()

globals()[sys.argv[1]]()
from nelbo.__main__ import main
sys.argv[:2] = ["nelbo"]
main()
"""
PLACES = ["a_look", "a_checkpoint", "a_checkpoint_that_is_soon_done", "data", "data_in_threads", "preparation"]


def stopped(place: str, signum: signal.Signals, out: Path, steps: int) -> tuple[str, float]:
    """What a run says that gets a signal in the midst of something, and how many seconds it took to end."""
    words = ["train", "ddpm", *TINY, "--steps", str(steps), "--out", str(out), "--resume"]
    with subprocess.Popen(
        [sys.executable, "-c", CODE, place, *words],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            while "busy" not in (line := process.stderr.readline()):
                assert line, "it ended before"
            process.send_signal(signum)
            sent = time.monotonic()
            assert process.wait(timeout=60) == 128 + signum
            return process.stderr.read(), time.monotonic() - sent
        finally:
            process.kill()


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_stops_it_within_seconds(here: Path, place: str) -> None:
    signum = signal.SIGINT if place in ("data", "a_look") else signal.SIGTERM
    out = here / "run"
    said, seconds = stopped(place, signum, out, 12)
    assert seconds < SECONDS
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("nelbo: ")]
    assert len(lines) == 1
    assert f"stopped by signal {int(signum)}" in lines[0]
    folder = latest_checkpoint(out) if out.exists() else None
    if place == "a_look":
        assert folder is not None
        assert f"at step {step_of(folder)}; continue with --resume" in lines[0]
    elif place == "a_checkpoint":
        assert folder is None
        assert "was abandoned, there is no earlier one" in lines[0]
    elif place == "a_checkpoint_that_is_soon_done":
        assert folder is not None
        assert step_of(folder) == 1, "the one that was being written is the last"
    else:
        assert folder is None
    for folder in all_checkpoints(out):
        read_checkpoint(folder)
    call_well("train", "ddpm", *TINY, "--steps", "12", "--out", out, "--resume")
    assert step_of(latest_checkpoint(out) or out) == 12


def test_a_checkpoint_that_takes_too_long_leaves_the_one_before(here: Path) -> None:
    out = here / "run"
    call_well("train", "ddpm", *TINY, "--steps", "3", "--out", out)
    said, seconds = stopped("a_checkpoint", signal.SIGTERM, out, 9)
    assert seconds < SECONDS
    assert "at step 4; its checkpoint took longer than 5 s and was abandoned, the last one is of step 3" in said
    folder = latest_checkpoint(out)
    assert folder is not None
    assert read_checkpoint(folder).state["step"] == 3
    call_well("train", "ddpm", *TINY, "--steps", "9", "--out", out, "--resume")
