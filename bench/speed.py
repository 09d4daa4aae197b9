"""Everything that is measured of speed, into bench/RESULTS.md.

make bench
.venv/bin/python bench/speed.py --only pairs --networks "6.5 M"
"""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Callable
from pathlib import Path

import torch

import pairs
import step
from nelbo.training.machine import pick_device

RESULTS = Path(__file__).parent / "RESULTS.md"


def sections(text: str) -> dict[str, str]:
    """The sections of the page that is there, by their titles."""
    return {
        part.split("\n", 1)[0]: part for part in re.split(r"^(?=## )", text, flags=re.MULTILINE) if part[:3] == "## "
    }


def main() -> None:
    """Measure, and write the page; sections that are not measured stay as they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["step", "pairs"])
    parser.add_argument("--networks", nargs="+", choices=pairs.NETWORKS, default=["1.6 M", "6.5 M"])
    given = parser.parse_args()
    device = pick_device("auto")
    measured: dict[str, Callable[[], str]] = {
        "step": lambda: step.table(device),
        "pairs": lambda: pairs.table(device, given.networks),
    }
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    page = sections(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name, make in measured.items():
        if given.only in (None, name):
            page |= sections(f"{make().rstrip()}\n\n{chip}, {platform.machine()}, torch {torch.__version__}.\n\n")
    parts = ["# Speed\n`make bench` writes this page.", *(part.rstrip() for part in page.values())]
    RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
