"""The scripts of bench/ that wait for a GPU, at small size on the CPU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_a_race_ends_when_the_bound_is_low_enough_and_says_so() -> None:
    """On digits, where the code that knows nothing needs 4.09 bits/dim."""
    words = ["--data", "digits", "--bits", "3.9", "--minutes", "0.5", "--batch-size", "32", "--widths", "16"]
    done = subprocess.run(
        [sys.executable, BENCH / "race.py", *words, "--device", "cpu", "--no-compile"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ended = re.search(r"digits to 3.9 bits/dim on CPU: ([\d.]+) s \(([\d.]+)\), ([\d,]+) steps", done.stdout)
    assert ended, done.stdout
    assert float(ended[2]) <= 3.9
    looked = [float(bits) for bits in re.findall(r": ([\d.]+) bits/dim$", done.stdout, re.MULTILINE)]
    assert all(bits > 3.9 for bits in looked[:-1])
    assert looked[-1] == float(ended[2])
