"""A score, or labels, as a table with one row per image."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from nelbo.data import Dataset
from nelbo.files import atomic_write
from nelbo.metrics import LikelihoodScore
from nelbo.metrics.classification import Classified
from nelbo.report.results import Threshold
from nelbo.units import bits_per_dim


def write_table(
    rows: Iterable[tuple[int, Sequence[str]]], names: Sequence[str], dataset: Dataset, split: str, out: Path
) -> None:
    """One row per image: its source, then its values.

    ``image`` is its index in the split, ``source`` its path in the folder or its row in the array; ``label`` is empty
    without labels. The file is UTF-8; other bytes of a path are kept (``surrogateescape``).

    Args:
        rows: the index of each image in the split, and its values as text.
        names: of the values.
        dataset: the images.
        split: train, val, test or all.
        out: the file, which must not exist.
    """
    with atomic_write(out) as aside, aside.open("x", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(["image", "source", "label", "split", *names])
        for i, values in rows:
            table.writerow([i, *dataset.origin(split, i), *values])


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
    order = range(result.n)
    if sort:
        order = sorted(order, key=lambda i: -columns["total"][i])  # type: ignore[assignment]

    def numbers(i: int) -> list[str]:
        pairs = ((columns[name][i], bits_per_dim(columns[name][i], result.dims)) for name in names)
        over = "" if threshold is None else str(int(columns["total"][i] > threshold.nats))
        return [*(f"{value:.6f}" for pair in pairs for value in pair), over]

    headings = [f"{name}_{unit}" for name in names for unit in ("nats", "bits_per_dim")]
    write_table(((i, numbers(i)) for i in order), [*headings, "over_threshold"], dataset, split, out)


def write_labels(result: Classified, classes: Sequence[str], dataset: Dataset, split: str, out: Path) -> None:
    """One row per image: its source, its label with the stated probability, and the runner-up, by :func:`write_table`.

    ``behind_nats`` is by how much the runner-up is worse than the label, with its standard error.

    Args:
        result: the labels of the first images of a split.
        classes: their names.
        dataset: the images.
        split: train, val, test or all.
        out: the file, which must not exist.
    """
    second = result.runner_up[:, None]
    label, other = result.label.tolist(), second[:, 0].tolist()
    stated = result.probabilities().gather(1, result.label[:, None])[:, 0].tolist()
    behind, stderr = (part.gather(1, second)[:, 0].tolist() for part in (result.behind, result.stderr))
    undecided, spent = result.undecided.tolist(), result.evaluations.tolist()

    def values(i: int) -> list[str]:
        numbers = [f"{behind[i]:.6f}", f"{stderr[i]:.6f}", str(int(undecided[i])), str(spent[i])]
        return [classes[label[i]], f"{stated[i]:.6f}", classes[other[i]], *numbers]

    names = ["predicted", "probability", "runner_up", "behind_nats", "stderr_nats", "undecided", "evaluations"]
    write_table(((i, values(i)) for i in range(len(label))), names, dataset, split, out)
