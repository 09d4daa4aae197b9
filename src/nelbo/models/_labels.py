"""Labels of a model, whatever its family: the names of its classes, labels to draw, and labels hidden in training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from nelbo.diffusion.known import NOTHING, Known
from nelbo.errors import InputError, nearest
from nelbo.models._checks import Labelled
from nelbo.models.sampling import SampleSettings
from nelbo.rng import Draws, Stream
from nelbo.theory.bound import Bound

ALL = "all"
"""The label that stands for every class."""
MOST_LISTED = 20
"""The largest number of classes in a message."""


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes.

    Raises:
        InputError: they are not different names.
    """
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise InputError("classes", f"{classes!r} is not a sequence of names, such as ('cat', 'dog')")
    if len(set(classes)) < len(classes):
        raise InputError("classes", f"has a name twice: {', '.join(classes)}")
    return tuple(classes)


def label_settings(classes: Sequence[str], label_dropout: float) -> dict[str, object]:
    """The settings of a model with these classes, fields of :class:`~nelbo.options.LabelOptions`; none without any."""
    return {"labels": True, "classes": classes, "label_dropout": label_dropout} if classes else {}


def listed(classes: Sequence[str]) -> str:
    """The names of the classes for a message."""
    return ", ".join(classes[:MOST_LISTED]) + ", …" * (len(classes) > MOST_LISTED)


def require_class(classes: Sequence[str], name: str, field: str = "label") -> None:
    """Check that a name is one of the classes.

    Raises:
        InputError: it is not; the message names the setting ``field``.
    """
    if name not in classes:
        fix = f"{nearest(str(name), classes)} ({listed(classes)})"
        raise InputError(field, f"{name!r} is not one of the classes{fix}")


def named_classes(classes: Sequence[str], label: str | Sequence[str]) -> list[str]:
    """The classes that a setting names, in its order.

    Args:
        classes: the model's classes.
        label: a name, names separated by commas, ``all``, or a sequence of names.

    Raises:
        InputError: a name is not one of the classes.
    """
    if isinstance(label, str):
        if label == ALL and ALL not in classes:
            return list(classes)
        label = [label] if label in classes else [name.strip() for name in label.split(",")]
    for name in label:
        require_class(classes, name)
    if not label:
        raise InputError("label", f"names no class; give one of {listed(classes)}")
    return list(label)


def require_classes(model: Labelled, field: str) -> None:
    """Check that a model has classes.

    Args:
        model: the model.
        field: the setting that names one of them, for the message.

    Raises:
        InputError: it has none.
    """
    if not model.classes:
        raise InputError(field, f"this {model.family} was trained without labels; leave it out")


def known_class(model: Labelled, name: str | None, field: str = "label") -> Known:
    """What is known of a batch of any size whose images are all of one class; nothing if the name is None.

    Args:
        model: the model.
        name: the name of the class.
        field: the setting, for messages.

    Raises:
        InputError: the model has no such class.
    """
    if name is None:
        return NOTHING
    require_classes(model, field)
    require_class(model.classes, name, field)
    return Known(label=torch.tensor([model.classes.index(name) + 1], device=model.device))


def drawn_classes(model: Labelled, settings: SampleSettings) -> list[str]:
    """The classes to draw, one image of each in turn; none without a label.

    Raises:
        InputError: the model has no such class.
    """
    if settings.label is None:
        return []
    require_classes(model, "label")
    return named_classes(model.classes, settings.label)


def drawn_labels(model: Labelled, indices: Sequence[int], settings: SampleSettings) -> Tensor | None:
    """The label of each sample, 1 … K, shape (B,): image i is of class i mod the number of classes to draw."""
    names = drawn_classes(model, settings)
    if not names:
        return None
    rows = [model.classes.index(name) + 1 for name in names]
    return torch.tensor([rows[i % len(rows)] for i in indices], dtype=torch.int64, device=model.device)


def class_words(model: Labelled, settings: SampleSettings) -> str:
    """The labels of samples, as the end of a sentence, or ""."""
    names = drawn_classes(model, settings)
    if not names:
        return ""
    words = ", ".join(names) if len(names) <= MOST_LISTED else f"of {len(names):,} classes"
    return f", given label{'s' * (len(names) > 1)} {words}"


def class_count(model: Labelled) -> dict[str, int]:
    """The number of classes as a fact for ``info``; nothing without labels."""
    return {"labels": len(model.classes)} if model.classes else {}


class Conditional(Protocol):
    """A model with what is known of the images of its batch."""

    known: Known


Model = TypeVar("Model", bound=Conditional)


def given(model: Model, known: Known) -> Model:
    """The same model of a batch of which this is known."""
    if not known:
        return model
    other = copy.copy(model)
    other.known = known
    return other


def given_labels(
    model: Model, estimate: Callable[[Model, Tensor, Draws, int], Bound]
) -> Callable[[Tensor, Draws, int], Bound]:
    """An estimate of the bound of −ln p(x|y), with y the labels of the draws, or of −ln p(x) without.

    Args:
        model: the model.
        estimate: (the model of the labels, x, draws, count) → the bound.
    """
    return lambda x, draws, count: estimate(given(model, Known(label=draws.labels)), x, draws, count)


def hidden_labels(draws: Draws, fraction: float) -> Tensor:
    """Which images of a batch hide their labels in training: each with this probability, bool, shape (B,)."""
    return draws.uniform(Stream.LABEL_DROPOUT) < fraction


def shown_labels(draws: Draws, fraction: float) -> Known:
    """The labels of a batch in training, with a random part of them hidden; nothing if none is known.

    Args:
        draws: the random numbers and the labels of the batch.
        fraction: the probability that an image hides its label.
    """
    if draws.labels is None:
        return NOTHING
    return Known(label=draws.labels).without_labels(hidden_labels(draws, fraction))
