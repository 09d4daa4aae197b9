"""Results of minutes of training on MNIST: bits/dim, readability of samples, and the time to sample 64.

    make bench          (a section of bench/RESULTS.md)

Runs are stored in runs/, and reused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nelbo
from nelbo.models.sampling import SampleSettings
from samplers import timed
from targets import MNIST, Target, bits, command, readable

QUICK: dict[str, Target] = {
    "ddpm": Target(10, ("ddpm", *MNIST), (readable(0.95, 0.75), bits(1.05, "--limit", "2000"))),
    "vdm": Target(10, ("vdm", *MNIST), (bits(0.92, "--timesteps", "2"),)),
    "gan": Target(5, ("gan", *MNIST), (readable(0.98, 0.0, "--temperature", "0.7"),)),
}
HOUR = {"vdm": QUICK["vdm"]._replace(minutes=60, measures=(bits(0.82, "--timesteps", "2"),))}


def measured(name: str, target: Target, runs: Path) -> Iterator[str]:
    """Train the run if it does not exist, and measure it: a row for each measure."""
    run = runs / f"bench-{name}-{target.minutes:g}"
    if not run.exists():
        command("train", *target.train, "--minutes", f"{target.minutes:g}", "--out", str(run))
    facts = json.loads(command("info", str(run), "--json"))
    settings = SampleSettings(temperature=0.7) if name == "gan" else SampleSettings(sampler="unipc", steps=20)
    seconds = timed(nelbo.load(run), settings)
    for measure, asked, found in target.measures:
        words, reached = found(json.loads(command(measure[0], str(run), *measure[1:], "--json")))
        commands = f"`nelbo train {' '.join(target.train)} --minutes {target.minutes:g}`, `{' '.join(measure)}`"
        yield (
            f"| {name}, {target.minutes:g} min | {asked} | {words} | {'yes' if reached else '**no**'} "
            f"| {facts['step']:,} | {seconds:.2f} | {commands} |"
        )


def table(runs: Path, hour: bool) -> str:
    """The section of bench/RESULTS.md; with ``hour`` that of an hour's training."""
    command("features", *MNIST)
    targets = (HOUR if hour else QUICK).items()
    rows = [row for name, target in targets for row in measured(name, target, runs)]
    return (
        f"## MNIST from scratch{', an hour' if hour else ''}\n"
        "On the test split, on which nothing was tuned. Seconds: for 64 images, without loading; a vdm uses "
        "`--sampler unipc --steps 20`.\n\n"
        "| run | asked | found | reached | steps | seconds | commands |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    ) + "\n".join(rows)
