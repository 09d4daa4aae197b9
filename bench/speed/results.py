"""All measurements of speed, written to bench/RESULTS.md.

make bench
.venv-bench/bin/python bench/run.py results --only pairs memory --networks "6.5 M"
.venv-bench/bin/python bench/run.py results --only hour          an hour of training
"""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Callable
from pathlib import Path

import torch

import busy
import host
import large
import learn
import memory
import noise
import pairs
import parts
import scaling
import startup
import step
from nelbo.training.machine import pick_device

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
BY_HAND = "## Missed targets"


def sections(text: str) -> dict[str, str]:
    """The sections of the existing page, by title."""
    return {
        part.split("\n", 1)[0]: part for part in re.split(r"^(?=## )", text, flags=re.MULTILINE) if part[:3] == "## "
    }


def main() -> None:
    """Measure, and write the page; sections that are not measured stay unchanged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = "step, pairs, startup, noise, host, parts, busy, memory, large, scaling, learn, hour"
    parser.add_argument("--only", nargs="+", metavar="SECTION", help=names)
    parser.add_argument("--networks", nargs="+", choices=pairs.NETWORKS, default=list(pairs.NETWORKS))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    device = pick_device("auto")
    measured: dict[str, Callable[[], str]] = {
        "step": lambda: step.table(device),
        "pairs": lambda: pairs.table(device, given.networks),
        "startup": startup.table,
        "noise": lambda: noise.table(device),
        "host": lambda: host.table(device),
        "parts": lambda: parts.table(device),
        "busy": busy.table,
        "memory": memory.table,
        "large": large.table,
        "scaling": scaling.table,
        "learn": lambda: learn.table(given.runs, hour=False),
        "hour": lambda: learn.table(given.runs, hour=True),
    }
    chosen = given.only or [name for name in measured if name != "hour"]
    if unknown := set(chosen) - set(measured):
        parser.error(f"--only: {', '.join(unknown)} is not one of {', '.join(measured)}")
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    page = sections(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in chosen:
        page |= sections(f"{measured[name]().rstrip()}\n\n{chip}, {platform.machine()}, torch {torch.__version__}.\n\n")
        write(page)


def write(page: dict[str, str]) -> None:
    """Write the page, section by section, with the hand-written section last."""
    measured = [part for title, part in page.items() if title != BY_HAND]
    by_hand = [part for title, part in page.items() if title == BY_HAND]
    parts = ["# Speed\n`make bench` writes this page.", *(part.rstrip() for part in measured + by_hand)]
    RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
