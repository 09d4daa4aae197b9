"""A model as an anomaly detector, where it works and where it fails: writes docs/anomalies.md.

make anomalies          (trains a vdm on digits for 2,000 steps, then scores eight sets against its test images)
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import nelbo
from nelbo.jobs.against import PIECES
from nelbo.options import DataOptions

DOCS = Path(__file__).parents[1] / "docs"
Images = np.ndarray
"""Levels 0 … 16, shape (n, 8, 8)."""

PAGE = """# A model as an anomaly detector

`nelbo score RUN --data OTHER --split all --against test` says how well the bits of an image tell other images from the
run's own test images: AUROC, the probability that a random one of the others scores higher, ½ being a coin's; with
DeLong's standard error. Two scores: the *total*, and the *profile*, the Mahalanobis distance of the logarithm of an
image's bits at {pieces} pieces of t from those of the run's `val` split.

A `vdm` on `digits`, {steps:,} steps; its test images cost {bits:.2f} bits/dim. Each set is made of the {n} test images:

| others | bits/dim | AUROC by the total | by the profile |
| --- | --- | --- | --- |
{rows}

**The known failure.** Simple images are cheap, whatever a model was trained on: blank, blurred and resized digits cost
fewer bits than digits do, so the total calls them *more* normal than the normal ones, with an area far below ½. A low
number of bits is no proof that an image belongs. The profile is two-sided, too few bits at some t are as suspicious as
too many, and it finds these too. Use it, and look at both.

`make anomalies` writes this page.
"""


def blurred(x: Images) -> Images:
    """The mean of each pixel and its eight neighbours."""
    padded = np.pad(x.astype(float), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows, columns = x.shape[1:]
    total = sum(padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    return np.asarray(total / 9).round()


def resized(x: Images) -> Images:
    """Half the size by means of 2×2, and back by repetition."""
    half = x.reshape(len(x), 4, 2, 4, 2).mean((2, 4)).round()
    return half.repeat(2, 1).repeat(2, 2)


def shuffled(x: Images) -> Images:
    """The pixels of each image in an order of their own."""
    return np.random.default_rng(0).permuted(x.reshape(len(x), -1), axis=1).reshape(x.shape)


SETS: dict[str, Callable[[Images], Images]] = {
    "blank, one grey each": lambda x: np.zeros_like(x) + (np.arange(len(x)) % 17)[:, None, None],
    "blurred": blurred,
    "half size, enlarged": resized,
    "mirrored": lambda x: x[:, :, ::-1],
    "upside down": lambda x: x[:, ::-1],
    "inverted": lambda x: 16 - x,
    "pixels shuffled": shuffled,
    "noise": lambda x: np.random.default_rng(0).integers(0, 17, x.shape),
}


def main() -> None:
    """Train, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--run", type=Path, default=Path("runs/anomalies"))
    asked = parser.parse_args()
    run = nelbo.train("vdm", "digits", out=asked.run, steps=asked.steps, resume=True)
    digits = run.dataset.split("test").numpy()[:, 0]
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, change in SETS.items():
            path = Path(folder) / f"{name}.npy"
            np.save(path, change(digits).astype(np.uint8))
            score = nelbo.score(run.path, data=DataOptions(data=str(path), levels=17), split="all", against="test")
            found = score["against"]
            areas = [f"{found[f'auroc_{by}']:.3f} ± {found[f'auroc_{by}_stderr']:.3f}" for by in ("total", "profile")]
            rows.append(f"| {name} | {score['bits_per_dim']:.2f} | {' | '.join(areas)} |")
            print(rows[-1], flush=True)
    page = PAGE.format(
        pieces=PIECES, steps=asked.steps, bits=found["bits_per_dim"], n=len(digits), rows="\n".join(rows)
    )
    (DOCS / "anomalies.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
