"""Results of minutes of training on MNIST: bits/dim, readability of samples, and the time to sample 64.

    make bench          (a section of bench/RESULTS.md)

Runs are stored in runs/, and reused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nelbo
from nelbo.models.sampling import SampleSettings
from samplers import timed
from targets import MNIST, SAMPLES, Target, as_real, at_most
from targets import nelbo as run_nelbo

QUICK: dict[str, Target] = {
    "vdm": Target(10, ("vdm", *MNIST), ("--timesteps", "2"), "≤ 0.92 bits/dim", at_most(0.92, "bits_per_dim")),
    "gan": Target(
        5,
        ("gan", *MNIST),
        (*SAMPLES, "--temperature", "0.7"),
        "≥ 0.98 as readable as images, p ≥ 0.01",
        as_real,
        "evaluate",
    ),
}
HOUR = {"vdm": QUICK["vdm"]._replace(minutes=60, asked="≤ 0.82 bits/dim", found=at_most(0.82, "bits_per_dim"))}


def measured(name: str, target: Target, runs: Path) -> str:
    """Train the run if it does not exist, and score it: a row."""
    run = runs / f"bench-{name}-{target.minutes:g}"
    if not run.exists():
        run_nelbo("train", *target.train, "--minutes", f"{target.minutes:g}", "--out", str(run))
    score: dict[str, Any] = json.loads(run_nelbo(target.measure, str(run), *target.score, "--json"))
    words, reached = target.found(score)
    facts = json.loads(run_nelbo("info", str(run), "--json"))
    settings = SampleSettings(temperature=0.7) if name == "gan" else SampleSettings(sampler="unipc", steps=20)
    seconds = timed(nelbo.load(run), settings)
    measure = " ".join((target.measure, *target.score))
    commands = f"`nelbo train {' '.join(target.train)} --minutes {target.minutes:g}`, `{measure}`"
    return (
        f"| {name}, {target.minutes:g} min | {target.asked} | {words} | {'yes' if reached else '**no**'} "
        f"| {facts['step']:,} | {seconds:.2f} | {commands} |"
    )


def table(runs: Path, hour: bool) -> str:
    """The section of bench/RESULTS.md; with ``hour`` that of an hour's training."""
    run_nelbo("features", *MNIST)
    rows = [measured(name, target, runs) for name, target in (HOUR if hour else QUICK).items()]
    return (
        f"## MNIST from scratch{', an hour' if hour else ''}\n"
        "On the test split, on which nothing was tuned. Seconds: for 64 images, without loading; a vdm uses "
        "`--sampler unipc --steps 20`.\n\n"
        "| run | asked | found | reached | steps | seconds | commands |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    ) + "\n".join(rows)
