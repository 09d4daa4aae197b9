"""Measure every study again whose page is not of the present code, one after the other, and record what made it.

python bench/figures.py              runs them: hours in all; run it again after an interruption
python bench/figures.py STUDY …      runs these, whatever made their pages
python bench/figures.py --list       says of each whether it is of the present code, and how long it took

The last line of a page of a study says which code, machine and command made it, and when. A study is skipped if that
line names the present version of nelbo and the present revision of the networks.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, get_args

import nelbo
from nelbo.nn import UNetOptions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
STUDIES = {
    "targets": "targets",  # first: the others use its runs
    "scale": "scale",
    "samplers": "samplers",
    "simplifications": "simplifications",
    "agreement": "agreement",
    "objectives": "objectives",
    "weights": "weights",
    "pictures": "pictures",
    "guidance": "guidance",  # uses a run of targets
    "anomalies": "anomalies",
    "classify": "classify",
    "estimators": "estimators",
    "gamma": "forms",  # only its picture
    "inference": "inference",
    "editing": "editing",
    "codec": "codec",
}
"""Each study, a target of make, and its page."""
LINE = re.compile(
    r"^\(Measured (?P<date>\S+) by `make (?P<study>\w+)`(?: in (?P<minutes>\d+) minutes)?, "
    r"with nelbo (?P<version>\S+), network revision (?P<revision>\d+)(?:, on (?P<machine>.+))?\.\)$",
    re.MULTILINE,
)


class Measured(NamedTuple):
    """What made a page of a study."""

    version: str
    revision: int
    minutes: int | None


def present_revision() -> int:
    """The revision of the diffusion networks of a new run."""
    annotation = UNetOptions.model_fields["revision"].annotation
    return max(get_args(annotation))


def measured(study: str) -> Measured | None:
    """The record in the study's page, or None; a new study has no page yet."""
    page = DOCS / f"{STUDIES[study]}.md"
    if not page.exists():
        return None
    for found in LINE.finditer(page.read_text(encoding="utf-8")):
        if found["study"] == study:
            return Measured(found["version"], int(found["revision"]), int(found["minutes"] or 0) or None)
    return None


def is_present(study: str) -> bool:
    """True if the present code made the study's page."""
    made = measured(study)
    return made is not None and (made.version, made.revision) == (nelbo.__version__, present_revision())


def machine() -> str:
    """The machine, as far as it matters to the numbers."""
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}"


def record(study: str, seconds: float) -> None:
    """Write what made the page at its end, instead of an earlier record of the same study."""
    page = DOCS / f"{STUDIES[study]}.md"
    text = page.read_text(encoding="utf-8")
    for found in [*LINE.finditer(text)]:
        if found["study"] == study:
            text = text.replace(found[0], "")
    day = datetime.now(UTC).date().isoformat()
    line = (
        f"(Measured {day} by `make {study}` in {max(1, round(seconds / 60))} minutes, with nelbo {nelbo.__version__}, "
        f"network revision {present_revision()}, on {machine()}.)"
    )
    page.write_text(f"{text.rstrip()}\n\n{line}\n", encoding="utf-8")


def listing() -> str:
    """One line for each study."""
    lines = []
    for study in STUDIES:
        made = measured(study)
        took = f"took {made.minutes} minutes with nelbo {made.version}" if made and made.minutes else "duration unknown"
        lines.append(f"{study:16} {'present' if is_present(study) else 'to measure':12} {took}")
    return "\n".join(lines)


def main() -> None:
    """Run the studies that are not of the present code; go on after a study that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", choices=[[], *STUDIES], default=[])
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    print(listing(), flush=True)
    if given.list:
        return
    failed = []
    for study in given.studies or [study for study in STUDIES if not is_present(study)]:
        print(f"{study}: started {datetime.now(UTC):%H:%M} UTC", flush=True)
        start = time.monotonic()
        if subprocess.run(["make", study], cwd=ROOT, check=False).returncode:
            failed.append(study)
            continue
        record(study, time.monotonic() - start)
        print(f"{study}: {(time.monotonic() - start) / 60:.0f} minutes", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
