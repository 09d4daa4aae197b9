"""Time and memory as functions of batch, resolution, T, parameters and samples.

    make bench          (a section of bench/RESULTS.md, and docs/images/scaling.png)

Every point runs in its own process, to measure its peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch

from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.sampling import SampleSettings
from nelbo.options import TrainingOptions
from nelbo.theory.likelihoods import to_levels
from nelbo.training import Trainer
from nelbo.training.machine import keep_memory, pick_device

FIGURE = Path(__file__).parents[2] / "docs" / "images" / "scaling.png"
STEPS = 4


class Point(NamedTuple):
    """A measurement: a training step, or sampling of ``samples`` images.

    Attributes:
        side: height and width of the images, of one channel.
        batch: images of a step, or of a batch of samples.
        widths: channels at each resolution; empty for the default.
        T: the steps of the model and of sampling.
        samples: the number of samples; 0 measures a training step.
    """

    side: int = 28
    batch: int = 32
    widths: tuple[int, ...] = ()
    T: int = 1000
    samples: int = 0


CURVES: dict[str, tuple[str, dict[float, Point]]] = {
    "batch": ("a training step of 1×28×28", {b: Point(batch=b) for b in (8, 16, 32, 64, 128, 256)}),
    "resolution": ("a training step of 16 images", {s: Point(side=s, batch=16) for s in (8, 16, 32, 64, 128)}),
    "width": (
        "a training step of 32 of 1×28×28; parameters",
        {w: Point(widths=(w, 2 * w, 2 * w)) for w in (16, 32, 64, 128)},
    ),
    "T": ("drawing 16 of 1×28×28, every step", {T: Point(T=T, samples=16, batch=16) for T in (10, 30, 100, 300, 1000)}),
    "samples": (
        "drawing them, 30 steps, 64 at a time",
        {n: Point(T=30, samples=n, batch=64) for n in (16, 64, 256, 1024)},
    ),
}


def measure(point: Point) -> dict[str, float]:
    """Seconds of one step, or of all images; the process's peak memory minus that of imports; parameters."""
    keep_memory()
    device = pick_device("auto")
    before = peak(device)
    shape = (1, point.side, point.side)
    options = DDPMOptions(timesteps=point.T, widths=point.widths).resolved(shape)
    model = DDPM.from_options(options, shape, 256).to(device)
    if point.samples:
        start = time.perf_counter()
        model.sample(point.samples, batch=point.batch, settings=SampleSettings(sampler="ancestral"))
        seconds = time.perf_counter() - start
    else:
        images = to_levels(torch.randn(256, *shape), 256)
        trainer = Trainer(model, images, TrainingOptions(batch_size=point.batch, steps=10**6), Path("unused"))
        trainer.advance()
        start = time.perf_counter()
        for _ in range(STEPS):
            loss, _ = trainer.advance()
        float(loss)
        seconds = (time.perf_counter() - start) / STEPS
    return {
        "seconds": seconds,
        "mebibytes": peak(device) - before,
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }


def peak(device: torch.device) -> float:
    """The peak memory so far, of the device or of the process, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(point: Point) -> dict[str, float]:
    """The measurement, in another process."""
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(point._asdict())], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def draw_plot(curves: dict[str, dict[float, dict[str, float]]]) -> None:
    """Seconds, with both axes logarithmic, and memory, over each variable."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(3 * len(curves), 3), layout="constrained")
    for name, each in zip(curves, axes, strict=True):
        points = curves[name]
        twin = each.twinx()
        each.loglog(list(points), [p["seconds"] for p in points.values()], "o-", color="C0")
        twin.plot(list(points), [p["mebibytes"] for p in points.values()], "s--", color="C1")
        each.set(xlabel=name, ylabel="seconds" if each is axes[0] else "")
        twin.set(ylabel="MiB (dashed)" if each is axes[-1] else "", ylim=(0, None))
        each.set_xticks(list(points), [f"{value:g}" for value in points])
        each.minorticks_off()
        each.yaxis.set_major_formatter("{x:g}")
        each.yaxis.label.set_color("C0")
        twin.yaxis.label.set_color("C1")
    figure.savefig(FIGURE, dpi=100)


def table() -> str:
    """The section of bench/RESULTS.md."""
    found: dict[str, dict[float, dict[str, float]]] = {}
    lines = [
        "## Scaling",
        "The default `ddpm` network. MiB: the peak memory of the process, minus that of imports and start.",
        "",
        "| over | of | value | seconds | MiB | parameters |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, (what, points) in CURVES.items():
        found[name] = {}
        for value, point in points.items():
            got = found[name][value] = in_a_process(point)
            lines.append(
                f"| {name} | {what} | {value:g} | {got['seconds']:.3f} | {got['mebibytes']:,.0f} "
                f"| {got['parameters'] / 1e6:.2f} M |"
            )
            print(lines[-1], flush=True)
    draw_plot(found)
    return "\n".join([*lines, "", "![Seconds and memory](../docs/images/scaling.png)"]) + "\n"


def main() -> None:
    """One point, for :func:`in_a_process`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("point", type=json.loads)
    values: dict[str, Any] = parser.parse_args().point
    print(json.dumps(measure(Point(**{**values, "widths": tuple(values["widths"])}))))


if __name__ == "__main__":
    main()
