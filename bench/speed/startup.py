"""The duration of short commands, and of the start of every command.

make bench          (a section of bench/RESULTS.md)
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMES = 7


def taken(*words: str) -> tuple[float, float]:
    """Wall and processor seconds of one command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "nelbo", *words], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table() -> str:
    """The section of bench/RESULTS.md."""
    lines = [
        "## Duration of commands",
        f"Medians of {TIMES}. RUN is a `ddpm` of the default size on digits.",
        "",
        "| command | seconds | of processor time |",
        "| --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        taken("train", "ddpm", "--steps", "20", "--out", run)
        for words in (
            ("--help",),
            ("train", "vdm", "--help"),
            ("info", run),
            ("sample", run, "-n", "16", "--sampler", "dpm++"),
        ):
            both = [taken(*words) for _ in range(TIMES)]
            wall, processor = (statistics.median(each) for each in zip(*both, strict=True))
            shown = " ".join(words).replace(run, "RUN")
            lines.append(f"| `nelbo {shown}` | {wall:.2f} | {processor:.2f} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"
