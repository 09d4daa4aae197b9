"""The scripts of bench/ for GPUs, at small size on the CPU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import scale
from nelbo.training.muon import orthogonalised
from timing import counted

BENCH = Path(__file__).parents[2] / "bench"


def test_a_race_ends_when_the_bound_is_low_enough_and_says_so() -> None:
    """On digits, where the code that knows nothing needs 4.09 bits/dim."""
    words = ["--data", "digits", "--bits", "3.9", "--minutes", "0.5", "--batch-size", "32", "--widths", "16"]
    done = subprocess.run(
        [sys.executable, BENCH / "run.py", "race", *words, "--device", "cpu", "--no-compile"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ended = re.search(r"digits to 3.9 bits/dim on CPU: ([\d.]+) s \(([\d.]+)\), ([\d,]+) steps", done.stdout)
    assert ended, done.stdout
    assert float(ended[2]) <= 3.9
    looked = [float(bits) for bits in re.findall(r": ([\d.]+) bits/dim$", done.stdout, re.MULTILINE)]
    assert all(bits > 3.9 for bits in looked[:-1])
    assert looked[-1] == float(ended[2])


def test_the_page_of_a_gpu_is_written_on_a_cpu_too(tmp_path: Path) -> None:
    """Every section, at small size."""
    words = ["gpu", "--small", "--device", "cpu", "--out", tmp_path / "page.md"]
    done = subprocess.run([sys.executable, BENCH / "run.py", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    titles = re.findall(r"^## (.*)", (tmp_path / "page.md").read_text(), re.MULTILINE)
    assert titles == [
        "Time to a bound",
        "The default network",
        "Noise",
        "Host time with a free network",
        "Memory of a step",
        "Samples",
        "The same weights in diffusers",
    ]


@pytest.mark.parametrize(("rows", "columns"), [(8, 20), (20, 8), (9, 9)])
def test_muons_operations_are_those_that_torch_counts(rows: int, columns: int) -> None:
    assert scale.newton_schulz(rows, columns) == counted(lambda: orthogonalised(torch.randn(1, rows, columns)))


def test_bytes_over_links() -> None:
    """Within a node each of 8 gets 7/8 over the fast link; of 16, half of an eighth comes over the slow one first."""
    link = scale.Link(inside=100.0, between=10.0, latency=0.0, node=8)
    assert link.gather(800.0, 1) == 0
    assert link.gather(800.0, 8) == pytest.approx(7.0)
    assert link.gather(800.0, 16) == pytest.approx(7.0 + 0.5 * 100.0 / 10.0)


def test_a_step_that_sends_nothing_is_all_work() -> None:
    net = scale.Network(parameters=1000, step=100.0, muon=10.0, activations=0.0)
    link = scale.Link(inside=1e30, between=1e30, latency=0.0, node=8)
    for way in (scale.replicated, scale.sharded):
        step = way(net, 3, 64, 10.0, link)
        assert step.efficiency == pytest.approx(1.0)
        assert sum(step) == pytest.approx(30.0 + 1.0)
