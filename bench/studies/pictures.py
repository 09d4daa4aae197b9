"""What makes samples of a DDPM look like images, and what it costs in bits: one factor varied at a time.

make pictures          (500 steps for each run; writes docs/pictures.md and its picture)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import nelbo

DOCS = Path(__file__).parents[2] / "docs"
SHOWN, SCALE = 24, 2
"""Samples of a row of the picture, and the size of their pixels."""


class Row(NamedTuple):
    """A run and its samples, which differ from the default in one factor."""

    name: str
    options: dict[str, Any]
    guidance: float | None = None


ROWS = (
    Row("the default: 1,000 clusters, guidance 2, w of the bound + 5 L_simple", {}),
    Row("guidance 1 (none)", {}, 1.0),
    Row("guidance 1.5", {}, 1.5),
    Row("guidance 3", {}, 3.0),
    Row("100 clusters", {"clusters": 100}),
    Row("no clusters, so no guidance", {"clusters": 0}),
    Row("w = sigmoid(γ + 2)", {"objective": "sigmoid"}),
    Row("no clusters, w = sigmoid(γ + 2)", {"clusters": 0, "objective": "sigmoid"}),
)

PAGE = """# What makes pictures: one factor at a time

A `ddpm` on {data}, {train_steps:,} steps of 32 images for each run, seed 0. {samples:,} samples of each run, in {steps}
steps of {sampler}, are compared with the `val` split in the features of `nelbo features --data {data}`: the share that
its classifier reads with a probability of at least 0.9, relative to the share of real images; p of equal class counts
(χ²); recall; the Fréchet distance. bits/dim is the bound on the first {limit:,} images of `val`.

| run | as readable | p | recall | FD | bits/dim | of which −ln P(c) |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

![{shown} samples of each row]({picture})

The rows of the picture are those of the table, from top to bottom; nothing was selected. A cluster is drawn first, and
the network sees the mean of its training images (`nelbo.models._diffusion_clusters`). The mean fixes what is global,
which a network of this size does not learn to make step by step in so little time. The bound pays −ln P(c) for it, and
the image is then less uncertain: the sum is not larger than without clusters. Guidance away from p(x) strengthens the
choice (`nelbo.diffusion.guidance`); it costs no bits, because the bound is that of the law without it, but it takes
twice the evaluations. The weight w spends the training on what a person sees, and its bound is worse: the bits are
at low noise.
"""


def strip(run: nelbo.Run, how: dict[str, Any]) -> np.ndarray:
    """One line of samples, uint8, shape (H, W, 3)."""
    model = nelbo.load(run.path)
    drawn = model.sample(SHOWN, seed=0, **how).numpy() * (255 // (model.levels - 1))
    line = np.concatenate([image.transpose(1, 2, 0) for image in drawn], axis=1)
    return np.asarray(Image.fromarray(line.repeat(3, 2) if line.shape[2] == 1 else line[..., :3]))


def main() -> None:
    """Train, draw, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--runs", type=Path, default=Path("runs/pictures"))
    asked = parser.parse_args()
    usual: dict[str, Any] = {"sampler": "unipc", "steps": 20}
    lines, strips = [], []
    nelbo.features(asked.data)
    for row in ROWS:
        name = "-".join(["ddpm", *(str(value) for value in row.options.values())])
        run = nelbo.train("ddpm", asked.data, out=asked.runs / name, steps=asked.steps, resume=True, **row.options)
        how = usual if row.guidance is None else usual | {"guidance": row.guidance}
        score = run.score(split="val", limit=asked.limit)
        found = run.evaluate(split="val", samples=asked.samples, **how)
        modes, quality = found.modes, found.quality
        assert modes is not None
        assert score.bits_per_dim is not None
        cluster = score.terms.get("cluster")
        cells = [
            row.name,
            f"{modes.readable / modes.readable_images:.3f}",
            f"{modes.p_value:.2g}",
            f"{quality['recall'].value:.3f}",
            f"{quality[f'FD-{found.features}'].value:.2f}",
            f"{score.bits_per_dim:.4f} ± {score.stderr:.4f}",
            f"{cluster.bits_per_dim:.4f}" if cluster else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        strips.append(strip(run, how))
    sheet = Image.fromarray(np.concatenate(strips, axis=0))
    sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.NEAREST).save(
        DOCS / "images" / "pictures.png", optimize=True
    )
    page = PAGE.format(
        data=asked.data,
        train_steps=asked.steps,
        samples=asked.samples,
        limit=asked.limit,
        rows="\n".join(lines),
        shown=SHOWN,
        picture="images/pictures.png",
        **usual,
    )
    (DOCS / "pictures.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
