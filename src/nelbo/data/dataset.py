"""What every data set is once it is loaded: uint8 images in one array, cut into train, val and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.data.splits import copies, marks
from nelbo.errors import InputError, nearest

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their splits.

    Args:
        name: a short name: ``digits``, a folder's or a file's name.
        spec: what the user wrote.
        images: uint8, ``(N, C, H, W)``, all splits in one array, each contiguous.
        labels: int64, ``(N,)``, an index into ``classes``; None when the images have no labels.
        classes: the names of the classes; ``()`` without labels.
        bounds: split → ``(start, stop)``, its rows in ``images``.
        levels: the number of values a pixel can take.
        sha256: identifies the data and its splits (:func:`fingerprint`).
        notes: one line for each thing that was done to the data and that a user should know.
        grey: where ``images`` are binarised, what they were drawn from, and its levels: training draws anew.
        sources: of each image, its path in the folder or its row in the array; ``()`` if unknown.
    """

    name: str
    spec: str
    images: Tensor = field(repr=False)
    labels: Tensor | None = field(repr=False)
    classes: tuple[str, ...]
    bounds: Mapping[str, tuple[int, int]]
    levels: int
    sha256: str
    notes: tuple[str, ...] = ()
    grey: tuple[Tensor, int] | None = field(default=None, repr=False)
    sources: Sequence[str | int] = field(default=(), repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image, in pixels."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def dims(self) -> int:
        """The number of data dimensions, C·H·W."""
        channels, height, width = self.shape
        return channels * height * width

    def split(self, name: str) -> Tensor:
        """The images of a split, a view.

        Args:
            name: ``train``, ``val``, ``test`` or ``all``.

        Returns:
            uint8, ``(n, C, H, W)``.

        Raises:
            InputError: there is no split of that name.
        """
        start, stop = self._rows(name)
        return self.images[start:stop]

    @property
    def for_training(self) -> tuple[Tensor, int | None]:
        """The images of ``train``, and, where training is to binarise them itself, how many levels they have."""
        start, stop = self._rows("train")
        return (self.images[start:stop], None) if self.grey is None else (self.grey[0][start:stop], self.grey[1])

    def split_labels(self, name: str) -> Tensor | None:
        """The labels of a split, a view.

        Args:
            name: ``train``, ``val``, ``test`` or ``all``.

        Returns:
            int64, ``(n,)``, or None when there are no labels.

        Raises:
            InputError: there is no split of that name.
        """
        start, stop = self._rows(name)
        return None if self.labels is None else self.labels[start:stop]

    def origin(self, name: str, index: int) -> tuple[str | int, str, str]:
        """Where an image comes from.

        Args:
            name: ``train``, ``val``, ``test`` or ``all``.
            index: of the image in that split.

        Returns:
            Its path or row in the source, the name of its class (empty without labels), and its split.
        """
        row = self._rows(name)[0] + index
        label = "" if self.labels is None else self.classes[int(self.labels[row])]
        split = next(split for split, (start, stop) in self.bounds.items() if start <= row < stop)
        return self.sources[row] if self.sources else "", label, split

    def copies(self, name: str) -> Tensor:
        """For each image of a split the number of its distinct image: copies of one image have the same number.

        Args:
            name: ``train``, ``val``, ``test`` or ``all``.

        Returns:
            int64, ``(n,)``, numbered from 0. Of binarised images the grey ones decide.

        Raises:
            InputError: there is no split of that name.
        """
        start, stop = self._rows(name)
        source = self.images if self.grey is None else self.grey[0]
        return torch.from_numpy(copies(marks(source[start:stop].numpy())))

    def _rows(self, name: str) -> tuple[int, int]:
        if name == "all":
            return 0, len(self.images)
        if name not in self.bounds:
            known = ", ".join([*self.bounds, "all"])
            raise InputError("split", f"no split is called {name!r}; there are {known}{nearest(name, self.bounds)}")
        return self.bounds[name]


def fingerprint(images: Tensor, bounds: Mapping[str, tuple[int, int]], levels: int) -> str:
    """The SHA-256 of the shape, the levels, and each split's name, size and bytes.

    Args:
        images: uint8, ``(N, C, H, W)``.
        bounds: split → ``(start, stop)``.
        levels: the number of values a pixel can take.

    Returns:
        64 hexadecimal digits. Labels do not enter it.
    """
    _, channels, height, width = images.shape
    digest = hashlib.sha256(f"nelbo data 1: {channels}x{height}x{width}, {levels} levels\n".encode())
    for name, (start, stop) in bounds.items():
        digest.update(f"{name}: {stop - start}\n".encode())
        digest.update(images[start:stop].contiguous().numpy().data)
    return digest.hexdigest()
