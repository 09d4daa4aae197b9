"""Train and score every family on MNIST, and write docs/targets.md. At most half an hour each on two cores.

python bench/run.py targets [NAME …] [--runs runs] [--write docs/targets.md]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

MNIST = ("--data", "mnist")
BINARY = (*MNIST, "--binarize")
SAMPLES = ("--samples", "2000")
BATCH = ("--batch-size", "64")
REMARKS = "\n## Remarks\n"
"""The page below this line is hand-written, and kept."""


class Target(NamedTuple):
    """A run, its score, and its target.

    Attributes:
        minutes: of training.
        train, score: words of the two commands, without RUN.
        asked: the target, as text.
        found: a score → the result, as text, and whether the target is reached.
        measure: the second command.
    """

    minutes: float
    train: tuple[str, ...]
    score: tuple[str, ...]
    asked: str
    found: Callable[[dict[str, Any]], tuple[str, bool]]
    measure: str = "score"


def at_most(most: float, unit: str) -> Callable[[dict[str, Any]], tuple[str, bool]]:
    """The score's total, in ``nats`` or ``bits_per_dim``, with its error."""

    def found(score: dict[str, Any]) -> tuple[str, bool]:
        value, scale = score[unit], score["nats"] / score["bits_per_dim"] if unit == "nats" else 1.0
        digits = 2 if unit == "nats" else 4
        error = score["stderr"] * scale
        return f"{value:.{digits}f} ± {error:.{digits}f} ({score['kind']}, {score['n']:,} images)", value <= most

    return found


def as_real(score: dict[str, Any]) -> tuple[str, bool]:
    """Readable samples relative to readable images, and the χ² test of their classes."""
    modes, quality = score["modes"], score["quality"]
    share = modes["readable"] / modes["readable_images"]
    words = f"{share:.3f} as readable, p = {modes['p_value']:.3g}, recall {quality['recall']['value']:.3f}"
    return words, share >= 0.98 and modes["p_value"] >= 0.01


TARGETS = {
    "vdm": Target(30, ("vdm", *MNIST), (), "≤ 0.95 bits/dim", at_most(0.95, "bits_per_dim")),
    "ddpm": Target(5, ("ddpm", *MNIST), ("--limit", "1000"), "", at_most(float("inf"), "bits_per_dim")),
    "vae-binary": Target(
        22,
        ("vae", *BINARY, "--latent", "50", *BATCH),
        ("--form", "iw", "--k", "5000", "--limit", "500", "--batch-size", "250"),
        "≤ 86.0 nats by 5,000 importance samples",
        at_most(86.0, "nats"),
    ),
    "hvae-binary": Target(
        25,
        ("hvae", *BINARY, "--stream", "--depth", "10", *BATCH, "--weight-decay", "0.1"),
        (),
        "≤ 82.0 nats",
        at_most(82.0, "nats"),
    ),
    "vae": Target(9, ("vae", *MNIST, "--latent", "64", *BATCH), (), "≤ 1.35 bits/dim", at_most(1.35, "bits_per_dim")),
    "hvae": Target(14, ("hvae", *MNIST, "--stream", *BATCH), (), "≤ 1.25 bits/dim", at_most(1.25, "bits_per_dim")),
    "gan": Target(
        14,
        ("gan", *MNIST),
        (*SAMPLES, "--temperature", "0.7"),
        "≥ 0.98 as readable as images, p ≥ 0.01",
        as_real,
        "evaluate",
    ),
}


def nelbo(*words: str) -> str:
    """Run a command; returns what it printed."""
    done = subprocess.run([sys.executable, "-m", "nelbo", *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def measured(name: str, target: Target, runs: Path) -> dict[str, Any]:
    """Train the run if it does not exist, score it, and return the table's entries."""
    run = runs / f"mnist-{name}"
    if not run.exists():
        nelbo("train", *target.train, "--minutes", str(target.minutes), "--out", str(run))
    score = json.loads(nelbo(target.measure, str(run), *target.score, "--json"))
    facts = json.loads(nelbo("info", str(run), "--json"))
    words, reached = target.found(score)
    commands = [
        f"nelbo train {' '.join(target.train)} --minutes {target.minutes:g} --out RUN",
        " ".join(("nelbo", target.measure, "RUN", *target.score)),
    ]
    return {
        "name": name,
        "asked": target.asked,
        "found": words,
        "reached": reached if target.asked else None,
        "parameters": facts["parameters"],
        "steps": facts["step"],
        "minutes": facts["training_seconds"] / 60,
        "commands": commands,
    }


def document(rows: list[dict[str, Any]]) -> str:
    """docs/targets.md."""
    machine = f"{torch.get_num_threads()} CPU threads ({platform.machine()}), torch {torch.__version__}"
    lines = [
        "# Targets",
        "Results of each family on MNIST on two cores, by `make targets`; nothing was tuned on the test split.",
        f"{machine}. Static and dynamic binarisation are not mixed: nats are for images binarised once with a fixed",
        "seed; training images are binarised at every step.",
        "",
        "| run | asked | found | reached | parameters | steps | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        reached = {None: "", True: "yes", False: "**no**"}[row["reached"]]
        lines.append(
            f"| {row['name']} | {row['asked']} | {row['found']} | {reached} | {row['parameters'] / 1e6:.2f} M "
            f"| {row['steps']:,} | {row['minutes']:.0f} |"
        )
    lines += ["", "| run | commands |", "| --- | --- |"]
    lines += [f"| {row['name']} | `{'`, `'.join(row['commands'])}` |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the named targets, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS], default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--write", type=Path, default=Path("docs/targets.md"))
    given = parser.parse_args()
    if "gan" in (given.names or TARGETS):
        nelbo("features", *MNIST)
    rows = [measured(name, TARGETS[name], given.runs) for name in given.names or TARGETS]
    remarks = given.write.read_text(encoding="utf-8").partition(REMARKS)[2] if given.write.exists() else ""
    given.write.write_text(document(rows) + (REMARKS + remarks if remarks else ""), encoding="utf-8")
    print(document(rows))


if __name__ == "__main__":
    main()
