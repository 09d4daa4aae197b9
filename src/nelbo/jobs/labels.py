"""Labels of a data set as the classes of a model count them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.models._labels import listed
from nelbo.streams import as_text


def require_labels(dataset: Dataset, field: str = "labels") -> None:
    """Check that the data have labels.

    Raises:
        InputError: they have none.
    """
    if dataset.labels is None:
        fix = "leave it out, or use a folder with a folder for each class, or an .npz with labels"
        raise InputError(field, f"needs the label of each image, but {dataset.name} has none; {fix}")


def labels_of(dataset: Dataset, split: str, classes: Sequence[str]) -> Tensor | None:
    """The label of each image of a split, by the names of the classes: 1 … K, int64, shape (n,).

    Args:
        dataset: the images.
        split: train, val, test or all.
        classes: the names of the model's K classes; without any, there are no labels.

    Raises:
        InputError: the data have no labels, or a class that the model does not have.
    """
    if not classes:
        return None
    require_labels(dataset)
    labels = dataset.split_labels(split)
    assert labels is not None
    names = list(map(as_text, dataset.classes))
    unknown = [name for name in names if name not in classes]
    if unknown:
        why = f"the class {unknown[0]!r} of {dataset.name} is not one of the model's ({listed(classes)})"
        raise InputError("labels", why)
    numbers = torch.tensor([classes.index(name) + 1 for name in names], dtype=torch.int64)
    return numbers[labels]


def known_labels(dataset: Dataset, split: str, classes: Sequence[str]) -> Tensor | None:
    """As :func:`labels_of`, but None for data without labels, or with classes that the model does not have."""
    if not classes or dataset.labels is None or not set(map(as_text, dataset.classes)) <= set(classes):
        return None
    return labels_of(dataset, split, classes)


def labels_sha256(labels: Tensor) -> str:
    """The SHA-256 of labels, which the hash of the data does not contain."""
    return hashlib.sha256(labels.numpy().tobytes()).hexdigest()
