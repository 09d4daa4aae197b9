"""A score as a table with one row per image."""

from __future__ import annotations

import csv
from pathlib import Path

from nelbo.data import Dataset
from nelbo.files import atomic_write
from nelbo.metrics import LikelihoodScore
from nelbo.report.results import Threshold
from nelbo.units import bits_per_dim


def write_per_image(
    result: LikelihoodScore,
    dataset: Dataset,
    split: str,
    out: Path,
    *,
    sort: bool = False,
    threshold: Threshold | None = None,
) -> None:
    """One row per image: its source, each term and the total in nats and in bits/dim, and 1 if over the threshold.

    ``image`` is its index in the scored split, ``source`` its path in the folder or its row in the array; ``label`` is
    empty without labels. The file is UTF-8; other bytes of a path are kept (``surrogateescape``).

    Args:
        result: the score of the first images of a split.
        dataset: the images.
        split: train, val, test or all.
        out: the file, which must not exist.
        sort: whether to put the highest total first, instead of the split's order.
        threshold: the run's threshold; None for an empty last column.
    """
    names = [*result.terms, "total"]
    columns = {name: result.estimates(name).mean(1).tolist() for name in names}
    rows = range(result.n)
    if sort:
        rows = sorted(rows, key=lambda i: -columns["total"][i])  # type: ignore[assignment]
    numbers = [f"{name}_{unit}" for name in names for unit in ("nats", "bits_per_dim")]
    with atomic_write(out) as aside, aside.open("x", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(["image", "source", "label", "split", *numbers, "over_threshold"])
        for i in rows:
            values = ((columns[name][i], bits_per_dim(columns[name][i], result.dims)) for name in names)
            origin = dataset.origin(split, i)
            over = "" if threshold is None else int(columns["total"][i] > threshold.nats)
            table.writerow([i, *origin, *(f"{value:.6f}" for pair in values for value in pair), over])
