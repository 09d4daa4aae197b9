"""Readable share, recall and Fréchet distance against the strength of guidance. Writes docs/guidance.md.

make guidance          (10 minutes of training a ddpm with labels on MNIST, then 1,000 samples for each point)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

import nelbo
from nelbo.training.folders import all_checkpoints, step_of

DOCS = Path(__file__).parents[2] / "docs"
STRENGTHS = (1.0, 1.5, 2.0, 3.0, 5.0)
INTERVAL = "-3,3"

PAGE = """# Guidance: what it gives and what it takes

A `ddpm` with labels on {data}, after {train_steps:,} steps in {minutes:.0f} minutes. {samples:,} samples of the classes
in turn (`--label all`), in 20 steps of unipc, are compared with the `val` split in the features of `nelbo features
--data {data}`. *As readable* is the share that its classifier reads with a probability of at least 0.9, relative to the
share of real images; *as asked* is the share whose most probable class is the label asked for; recall is the share of
images in the manifold of the samples; FD is the Fréchet distance. ε̂ = ε̂′ + g (ε̂(c, y) − ε̂′), where ε̂′ is that of no
cluster and no label, or that of an earlier checkpoint, of step {early:,}.

| guidance | g | as readable | as asked | p of equal classes | recall | FD | evaluations |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

![readable share, recall and Fréchet distance against g](images/guidance.png)

Stronger guidance makes samples more readable and less varied: recall falls. g = 1 is the law that `nelbo score` scores;
samples with another g are from no law that is scored.
"""


class Kind(NamedTuple):
    """A kind of guidance: its name, its options, and network evaluations per step with it."""

    name: str
    options: dict[str, Any]
    evaluations: str


def kinds(early: int) -> tuple[Kind, ...]:
    """By what is known, everywhere and in an interval; by the earlier checkpoint."""
    return (
        Kind("away from p(x)", {}, "40"),
        Kind(f"the same, γ in [{INTERVAL}]", {"guidance_interval": INTERVAL}, "20 to 40"),
        Kind("away from a checkpoint", {"autoguidance": early}, "40"),
    )


class Point(NamedTuple):
    """What was measured at one g."""

    g: float
    readable: float
    asked: float
    p: float
    recall: float
    fd: float


def measure(run: nelbo.Run, samples: int, g: float, options: dict[str, Any]) -> Point:
    """Draw and compare."""
    how = {"sampler": "unipc", "steps": 20, "guidance": g, **options}
    found = run.evaluate(split="val", samples=samples, label="all", **how)
    modes, quality = found.modes, found.quality
    assert modes is not None
    assert modes.as_asked is not None
    return Point(
        g,
        modes.readable / modes.readable_images,
        modes.as_asked,
        modes.p_value,
        quality["recall"].value,
        quality[f"FD-{found.features}"].value,
    )


def plot(curves: dict[str, list[Point]], path: Path) -> None:
    """Three panels against g, one line for each kind."""
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, (field, title) in zip(
        panels, (("readable", "as readable as images"), ("recall", "recall"), ("fd", "Fréchet distance")), strict=True
    ):
        for name, points in curves.items():
            axes.plot([point.g for point in points], [getattr(point, field) for point in points], "o-", label=name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("g")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    figure.savefig(path, dpi=120)


def rows(curves: dict[str, list[Point]], evaluations: dict[str, str]) -> Iterator[str]:
    """The lines of the table."""
    for name, points in curves.items():
        for point in points:
            if point.g == 1 and name != next(iter(curves)):
                continue  # no guidance is the same for every kind
            kind, cost = ("none", "20") if point.g == 1 else (name, evaluations[name])
            yield (
                f"| {kind} | {point.g:g} | {point.readable:.3f} | {point.asked:.3f} | {point.p:.2g} "
                f"| {point.recall:.3f} | {point.fd:.2f} | {cost} |"
            )


def main() -> None:
    """Train, draw, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--run", type=Path, default=Path("runs/target-ddpm-labels"), help="that of make targets")
    asked = parser.parse_args()
    if not asked.run.exists():
        nelbo.train("ddpm", asked.data, labels=True, minutes=asked.minutes, out=asked.run)
    nelbo.features(asked.data)
    run = nelbo.Run(asked.run)
    steps = [step_of(folder) for folder in all_checkpoints(asked.run)]
    early = min(steps, key=lambda step: abs(step - run.step / 4))
    curves: dict[str, list[Point]] = {}
    none = measure(run, asked.samples, 1.0, {})
    for kind in kinds(early):
        curves[kind.name] = [none]
        for g in STRENGTHS[1:]:
            curves[kind.name].append(measure(run, asked.samples, g, kind.options))
            print(kind.name, curves[kind.name][-1], flush=True)
    plot(curves, DOCS / "images" / "guidance.png")
    page = PAGE.format(
        data=asked.data,
        train_steps=run.step,
        minutes=run.state["seconds"] / 60,
        samples=asked.samples,
        early=early,
        rows="\n".join(rows(curves, {kind.name: kind.evaluations for kind in kinds(early)})),
    )
    (DOCS / "guidance.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
