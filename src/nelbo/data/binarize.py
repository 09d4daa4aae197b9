"""Binarisation: a pixel at level k of 0 … L−1 becomes 1 with probability k/(L − 1), else 0.

*Dynamic* binarisation (Salakhutdinov & Murray 2008; Burda et al. 2016) draws every training image anew at each step.
Images to score are drawn once, from a fixed seed, so that every run is scored on the same images. Results on the
statically binarised MNIST (Larochelle & Murray 2011) are for other data and not comparable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from nelbo.data.dataset import Dataset, fingerprint
from nelbo.data.storage import allocate
from nelbo.errors import InputError
from nelbo.rng import Stream, uniform

FIXED_SEED = 0
"""The seed of the images to score, the same for every run."""
CHUNK = 2**22
"""Pixels drawn at a time."""


def drawn(images: Tensor, L: int, seed: int, stream: Stream, step: int, indices: Iterable[int]) -> Tensor:
    """Each pixel 1 with probability level/(L − 1), uint8, of the images' shape; row k depends only on ``indices[k]``.

    Args:
        images: levels 0 … L−1, shape (B, C, H, W).
        L: the number of levels.
        seed, stream, step, indices: the coordinates of the random numbers.
    """
    u = uniform(seed, stream, step, indices, tuple(images.shape[1:]))
    return (u * (L - 1) < images).to(torch.uint8)


def binarised(dataset: Dataset) -> Dataset:
    """The data set with every split drawn once; it keeps the grey images, from which training batches are drawn.

    Raises:
        InputError: the data set already has two levels.
    """
    if dataset.levels == 2:
        raise InputError("binarize", f"{dataset.spec} already has two levels; leave it out")
    images = torch.from_numpy(allocate(tuple(dataset.images.shape), dataset.spec))
    few = max(1, CHUNK // dataset.dims)
    for first in range(0, len(images), few):
        some = dataset.images[first : first + few]
        indices = range(first, first + len(some))
        images[first : first + len(some)] = drawn(some, dataset.levels, FIXED_SEED, Stream.BINARIZE_FIXED, 0, indices)
    note = "binarised: training images at every step, val and test once with a fixed seed"
    return replace(
        dataset,
        images=images,
        grey=(dataset.images, dataset.levels),
        levels=2,
        sha256=fingerprint(images, dataset.bounds, 2),
        notes=(*dataset.notes, note),
    )
