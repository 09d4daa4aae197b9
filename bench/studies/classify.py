"""Labels by a generative and by a discriminative classifier, on changed images too. Writes docs/classify.md.

make classify           (trains the runs that are missing, of digits and of MNIST, and the other classifiers)
python bench/run.py classify digits     prints the rows of one of them, and writes nothing
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

import nelbo
from nelbo.metrics.calibration import calibration_error, reliability
from nelbo.nn import default_widths
from nelbo.nn.classifier import Classifier
from nelbo.options import DataOptions
from nelbo.rng import permutation
from nelbo.theory.likelihoods import to_unit

DOCS = Path(__file__).parents[2] / "docs"
BATCH = 64
Images = np.ndarray
"""Levels 0 … L − 1, shape (n, C, H, W)."""


class Case(NamedTuple):
    """What is compared on one set of images.

    Attributes:
        family: of the run.
        out: its directory.
        minutes: of its training.
        epochs: of the discriminative classifier.
        limit: the number of test images.
        evaluations: the most network evaluations of an image for one label; None for the default of ``classify``.
    """

    family: str
    out: Path
    minutes: float
    epochs: int
    limit: int
    evaluations: int | None


CASES = {
    "digits": Case("vdm", Path("runs/classify-digits"), 1, 8, 100, 8),
    "mnist": Case("ddpm", Path("runs/target-ddpm-labels"), 10, 3, 1000, None),
}
PAGE = """# A generative and a discriminative classifier

`nelbo classify RUN` gives an image the label with the largest P(y) e^(−bound(x|y)). A discriminative classifier learns
P(y|x) alone. This page compares them on test images and on changed ones, which neither saw in training. The other
classifier is the network of `nelbo features`, here trained without shifted images.

{parts}

*Undecided* is the share of images with another label within two standard errors of the leader; for *right*, the leader
is their label. The calibration error is the mean of |stated probability − share that is right| over ten bins; of 100
images it is a few hundredths also for right probabilities. No temperature is fitted. *Evaluations* are the mean number
for an image, over all labels.

This is one run of each, and the errors are over images with both fixed. `make classify` writes this page.
"""
PART = """## {name}

A `{family}` with labels after {steps:,} steps ({minutes:g} min), the other classifier after {epochs} epochs, and
{n:,} test images.

| images | right, bound | ± s.e. | undecided | calibration error | evaluations | right, other | calibration error |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}"""


class Row(NamedTuple):
    """The results of a set of images."""

    bound: nelbo.Classification
    right: float
    calibration_error: float


def noisy(x: Images, top: int) -> Images:
    """With normal noise whose standard deviation is a tenth of the range."""
    return x + np.random.default_rng(0).normal(0, 0.1 * top, x.shape)


def rotated(x: Images, top: int) -> Images:
    """Rotated by 15° about the centre, with black corners."""
    return np.asarray(ndimage.rotate(x.astype(float), 15, axes=(3, 2), reshape=False, order=1, cval=0.0))


def shifted(x: Images, top: int) -> Images:
    """Two pixels to the right, with black columns on the left."""
    return np.pad(x, ((0, 0), (0, 0), (0, 0), (2, 0)))[..., :-2]


CHANGES: dict[str, Callable[[Images, int], Images]] = {
    "clean": lambda x, top: x,
    "noise, σ = 10% of the range": noisy,
    "half the contrast": lambda x, top: 0.5 * x,
    "rotated by 15°": rotated,
    "shifted by 2 pixels": shifted,
}
"""Each change: (images, largest level) → values, which are rounded to levels."""


def changed(x: Images, change: Callable[[Images, int], Images], levels: int) -> Images:
    """The changed images as levels."""
    return change(x, levels - 1).round().clip(0, levels - 1).astype(np.uint8)


def trained_classifier(dataset: nelbo.Dataset, epochs: int) -> Classifier:
    """A classifier of the training images, by Adam with a learning rate that falls to 0."""
    x, y = dataset.split("train"), dataset.split_labels("train")
    assert y is not None
    torch.manual_seed(0)
    network = Classifier(x.shape[1], default_widths(*dataset.shape[1:]), len(dataset.classes))
    steps = epochs * (len(x) // BATCH)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for epoch in range(epochs):
        order = torch.from_numpy(permutation(0, epoch, len(x)))
        for rows in torch.split(order, BATCH)[: len(x) // BATCH]:
            optimiser.zero_grad()
            loss = F.cross_entropy(network(to_unit(x[rows], dataset.levels)), y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            falling.step()
    return network.eval()


@torch.no_grad()
def by_classifier(network: Classifier, x: Tensor, y: Tensor, levels: int) -> tuple[float, float]:
    """The share of right labels, and the calibration error."""
    stated, label = (
        torch.cat([network(to_unit(part, levels)) for part in torch.split(x, 256)]).double().softmax(1).max(1)
    )
    right = label == y
    return float(right.double().mean()), calibration_error(reliability(stated, right))


def measured(run: nelbo.Run, network: Classifier, limit: int, evaluations: int | None) -> dict[str, Row]:
    """The results of each change."""
    dataset = run.dataset
    found: dict[str, Row] = {}
    x, y = dataset.split("test")[:limit].numpy(), dataset.split_labels("test")
    assert y is not None
    y = y[:limit]
    names = np.array([dataset.classes[int(k)] for k in y])
    with tempfile.TemporaryDirectory() as folder:
        for name, change in CHANGES.items():
            images, path = changed(x, change, dataset.levels), Path(folder) / f"{len(found)}.npz"
            last = images.transpose(0, 2, 3, 1)
            np.savez(path, images=last, labels=names, levels=np.int64(dataset.levels))
            how = {} if evaluations is None else {"evaluations": evaluations}
            bound = run.classify(data=DataOptions(data=str(path)), split="all", **how)
            found[name] = Row(bound, *by_classifier(network, torch.from_numpy(images), y, dataset.levels))
            print(row_of(name, found[name]), flush=True)
    return found


def row_of(name: str, row: Row) -> str:
    """A row of the page's table."""
    bound = row.bound
    assert bound.right is not None
    numbers = [
        f"{bound.right.value:.3f}",
        f"{bound.right.stderr or 0.0:.3f}",
        f"{bound.undecided:.3f}",
        f"{bound.calibration_error:.3f}",
        f"{bound.evaluations_per_image:.0f}",
        f"{row.right:.3f}",
        f"{row.calibration_error:.3f}",
    ]
    return f"| {name} | {' | '.join(numbers)} |"


def part_of(name: str, case: Case) -> str:
    """The table of one set of images; the run is trained if it does not exist."""
    if not case.out.exists():
        nelbo.train(case.family, name, labels=True, minutes=case.minutes, out=case.out)
    run = nelbo.Run(case.out)
    found = measured(run, trained_classifier(run.dataset, case.epochs), case.limit, case.evaluations)
    rows = "\n".join(row_of(change, row) for change, row in found.items())
    n = next(iter(found.values())).bound.n
    return PART.format(name=name, steps=run.step, n=n, rows=rows, **case._asdict())


def main() -> None:
    """Train what is missing, classify, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=CASES)
    asked = parser.parse_args()
    if asked.case:
        print(part_of(asked.case, CASES[asked.case]))
        return
    parts = "\n\n".join(part_of(name, case) for name, case in CASES.items())
    (DOCS / "classify.md").write_text(PAGE.format(parts=parts), encoding="utf-8")


if __name__ == "__main__":
    main()
