"""A model as an anomaly detector, with its successes and failures. Writes docs/anomalies.md.

make anomalies          (trains a vdm on digits for 600 steps, then scores eleven sets against its test images)
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

DOCS = Path(__file__).parents[2] / "docs"
Images = np.ndarray
"""Levels 0 … 16, shape (n, 8, 8)."""

PAGE = """# A model as an anomaly detector

`nelbo score RUN --data OTHER --split all --against test` measures how well the bits of an image distinguish other
images from the run's own test images. It prints the AUROC, the probability that a random one of the others has the
higher score (½ for random scores), with DeLong's standard error. There are two scores: the *total*, and the
*profile*, the Mahalanobis distance of the logarithm of an image's bits at {pieces} pieces of t from those of the
run's `val` split.

The run is a `vdm` on `digits` after {steps:,} steps; its test images cost {bits:.2f} bits/dim. Each set has {n}
images, one for each test image:

| others | bits/dim | AUROC by the total | by the profile |
| --- | --- | --- | --- |
{rows}

**The known failure.** Simple images can be cheap for any model. Nearly blank images, and digits shrunk to half their
size on black, cost fewer bits than digits, so the total rates them *more* normal than normal images: an AUROC far
below ½. A low number of bits does not prove that an image is normal. The profile is two-sided (too few bits at some t
are as suspicious as too many), and detects these two sets.

**Not every simple image is cheap.** Blurred digits, and digits shrunk and enlarged again, are often reported as
failures too. Here they cost far more than digits, perhaps because they are grey where digits are exactly black. Of
blank images of one grey level each, only the black ones are cheaper than digits.

**The profile has failures too.** On mirrored, upside-down and faint digits it is worse than the total. Use both.

This is one model with one seed. The errors are over images with this model fixed, and treat the two sets as
independent, although most sets are made from the test images.

`make anomalies` writes this page.
"""


def blurred(x: Images) -> Images:
    """The mean of each pixel and its eight neighbours."""
    padded = np.pad(x.astype(float), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows, columns = x.shape[1:]
    total = sum(padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    return np.asarray(total / 9).round()


def dotted(x: Images) -> Images:
    """Black, with one pixel of level 1 at a place that differs between images."""
    return np.asarray(np.arange(64) == (np.arange(len(x)) % 64)[:, None]).reshape(x.shape)


def halved(x: Images) -> Images:
    """Half the size, by the mean of 2×2 pixels."""
    return np.asarray(x.reshape(len(x), 4, 2, 4, 2).mean((2, 4)).round())


def shrunk(x: Images) -> Images:
    """Half the size, centred on black."""
    return np.pad(halved(x), ((0, 0), (2, 2), (2, 2)))


def resized(x: Images) -> Images:
    """Half the size, enlarged again by repetition."""
    return halved(x).repeat(2, 1).repeat(2, 2)


def shuffled(x: Images) -> Images:
    """The pixels of each image in their own random order."""
    return np.random.default_rng(0).permuted(x.reshape(len(x), -1), axis=1).reshape(x.shape)


SETS: dict[str, Callable[[Images], Images]] = {
    "blank but for a faint dot": dotted,
    "faint, a quarter of the contrast": lambda x: x // 4,
    "half size, on blank": shrunk,
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
    """Train, score, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
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
            found = score.as_dict()["against"]
            areas = [f"{found[f'auroc_{by}']:.3f} ± {found[f'auroc_{by}_stderr']:.3f}" for by in ("total", "profile")]
            rows.append(f"| {name} | {score.bits_per_dim:.2f} | {' | '.join(areas)} |")
            print(rows[-1], flush=True)
    page = PAGE.format(
        pieces=PIECES, steps=asked.steps, bits=found["bits_per_dim"], n=len(digits), rows="\n".join(rows)
    )
    (DOCS / "anomalies.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
