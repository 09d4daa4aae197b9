"""Samplers by network evaluations: KD to samples of 250 ancestral steps. Writes docs/samplers.md.

    python bench/run.py samplers RUN [--samples 1000] [--steps 5 10 20 50] [--students RUN …]

RUN is a ddpm or vdm, and ``nelbo distill`` made the students from it. The reference is sampled once, with another seed,
and stored in RUN/samples/reference.npz.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from torch import Tensor

from nelbo.files import atomic_write
from nelbo.jobs.features import open_features
from nelbo.jobs.run import Run
from nelbo.jobs.sample import collect, settings_of
from nelbo.jobs.steps import best_variance, sampled_steps
from nelbo.metrics.distances import kernel_distance
from nelbo.metrics.quality import READABLE, in_batches
from nelbo.models._diffusion_labels import guidance_of
from nelbo.models.base import GenerativeModel
from nelbo.models.diffusion import Diffusion
from nelbo.models.sampling import SampleSettings
from nelbo.options import SamplingOptions
from nelbo.training.machine import usual_batch

DOCS = Path(__file__).parents[2] / "docs"
WAYS: dict[str, dict[str, Any]] = {
    "ancestral": {"sampler": "ancestral"},
    "ancestral, best steps": {"spacing": "best"},
    "ddim, η = 0": {"sampler": "ddim", "eta": 0.0},
    "ddim, η = 1": {"sampler": "ddim", "eta": 1.0},
    "dpm++": {"sampler": "dpm++"},
    "unipc": {"sampler": "unipc"},
    "heun": {"sampler": "heun"},
}
STUDENTS = "distilled"
GUIDED = "All samples have the default guidance, with which a step takes two evaluations, and one of a student."
REFERENCE_SEED, REFERENCE_STEPS, FEW = 1, 250, 64

PAGE = """# Samplers: quality by network evaluations

`{command}`: {n:,} samples for each row, {threads} CPU threads. KD-{space} (times {scale:,}) is the kernel distance
between them and as many samples of {reference:,} ancestral steps with another seed, ± its standard error. Its
expectation is 0 for equal distributions. Readable: the fraction with a class probability of {readable} or more; it is
{share:.3f} for the reference.

`nelbo sample RUN --steps K` uses `unipc` up to 20 steps, and `ddim` beyond. *Best steps* are `--spacing best`: those
with the lowest bound on `val`, with the noise of that bound (its reverse variance is `{variance}`). `distilled` are
students of `nelbo distill RUN`. {calls}

| sampler | evaluations | KD | readable | seconds for {few} images |
| --- | --- | --- | --- | --- |
{rows}

{best}

![KD against evaluations](images/samplers.png)
"""


class Row(NamedTuple):
    """The result of one way of sampling."""

    name: str
    evaluations: int
    kd: float
    error: float
    readable: float
    seconds: float


def drawn(model: GenerativeModel, n: int, settings: SampleSettings, seed: int = 0) -> Tensor:
    """n images as levels."""
    return collect(model, n, seed, settings, usual_batch(model.device), keep_frames=False)[0]


def reference(run: Run, model: GenerativeModel, n: int) -> Tensor:
    """Ancestral samples with many steps, from the file if it has enough."""
    place = run.path / "samples" / "reference.npz"
    if place.exists():
        images = torch.from_numpy(np.load(place)["images"])
        if len(images) >= n:
            return images[:n]
    images = drawn(model, n, SampleSettings(sampler="ancestral", steps=REFERENCE_STEPS), REFERENCE_SEED)
    with atomic_write(place) as aside:
        np.savez_compressed(aside, images=images.numpy())
    return images


def timed(model: GenerativeModel, settings: SampleSettings) -> float:
    """Seconds for a few images, without loading; the smaller of two measurements."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        model.sample(FEW, settings=settings)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def draw_plot(rows: list[Row], path: Path) -> None:
    """KD against evaluations, with a line for each sampler."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name in dict.fromkeys(row.name for row in rows):
        own = [row for row in rows if row.name == name]
        axes.errorbar([r.evaluations for r in own], [r.kd for r in own], [r.error for r in own], marker="o", label=name)
    axes.axhline(0.0, color="grey", linewidth=0.8)
    axes.set(xlabel="network evaluations per image", ylabel=f"KD to {REFERENCE_STEPS}-step samples", xscale="log")
    axes.set_yscale("symlog", linthresh=0.05, linscale=1.5)
    axes.set_ylim(bottom=-0.05)
    counts = sorted({row.evaluations for row in rows if row.name != "heun"})  # heun's are odd, and beside these
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_yticks([0, 0.02, 0.05, 0.1, 0.2, 0.5, 1], ["0", "0.02", "0.05", "0.1", "0.2", "0.5", "1"])
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, and write the page and its figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--students", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    run = Run(given.run)
    model, space = run.model(), open_features(None, run.dataset, "auto")
    assert isinstance(model, Diffusion)

    def readable(images: Tensor) -> float:
        return float((in_batches(space.classify, images).max(1).values >= READABLE).double().mean())

    theirs = reference(run, model, given.samples)
    of_reference = in_batches(space.embed, theirs)

    def row(name: str, model: GenerativeModel, settings: SampleSettings, evaluations: int) -> Row:
        images = drawn(model, given.samples, settings)
        found = kernel_distance(in_batches(space.embed, images), of_reference)
        made = Row(name, evaluations, found.value, found.stderr or 0.0, readable(images), timed(model, settings))
        print(made, flush=True)
        return made

    rows = []
    for path in given.students:
        student = Run(path).model()
        rows.append(row(STUDENTS, student, SampleSettings(), student.inspector.sample_evaluations))
    guided = guidance_of(model, SampleSettings()) != 1
    for count in given.steps:
        for name, words in WAYS.items():
            options = SamplingOptions(steps=count, **words)
            evaluations = (1 + guided) * (count - (name == "heun" and count % 2 == 0))
            rows.append(row(name, sampled_steps(run, model, options, "ema"), settings_of(options), evaluations))
    words = {"share": readable(theirs), "calls": GUIDED if guided else "", "variance": best_variance(model)}
    write(rows, run, given.samples, space.name, words)


def write(rows: list[Row], run: Run, n: int, space: str, words: dict[str, Any]) -> None:
    """Write docs/samplers.md and its figure.

    Args:
        rows: the results.
        run: the run.
        n: the number of samples of each row.
        space: the name of the feature space.
        words: further fields of the page.
    """
    draw_plot(rows, DOCS / "images" / "samplers.png")
    scale = 1000
    within = sorted((row for row in rows if row.kd <= row.error), key=lambda row: (row.evaluations, row.kd))
    best = "No sampler is within the error of the reference."
    if within:
        first = within[0]
        best = f"The fewest evaluations within the error: **{first.name}**, {first.evaluations}, {first.seconds:.2f} s."
    lines = [
        f"| {r.name} | {r.evaluations} | {scale * r.kd:.2f} ± {scale * r.error:.2f} "
        f"| {r.readable:.3f} | {r.seconds:.2f} |"
        for r in sorted(rows, key=lambda row: (row.evaluations, row.name))
    ]
    page = PAGE.format(
        command=f"python bench/run.py samplers {run.path.name}",
        n=n,
        threads=torch.get_num_threads(),
        space=space,
        scale=scale,
        reference=REFERENCE_STEPS,
        readable=READABLE,
        few=FEW,
        rows="\n".join(lines),
        best=best,
        **words,
    )
    (DOCS / "samplers.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
