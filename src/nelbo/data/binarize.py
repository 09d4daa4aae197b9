"""Binarisation: a pixel at level k of 0 … L−1 becomes 1 with probability k/(L − 1), else 0.

*Dynamic* binarisation (Salakhutdinov & Murray 2008; Burda et al. 2016) draws every training image anew at each step.
Images to score are drawn once, from a fixed seed, so that every run is scored on the same images. Results on the
statically binarised MNIST (Larochelle & Murray 2011) are for other data and not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nelbo.data.dataset import Dataset, fingerprint
from nelbo.data.storage import allocate
from nelbo.errors import InputError
from nelbo.rng import Stream, words

FIXED = [0, 0, 0, 9]
"""The first counter of the draw of ``val`` and ``test``."""
CHUNK = 2**22
"""Pixels drawn at a time."""


def drawn(images: Tensor, L: int, seed: int, stream: Stream, step: int, indices: Sequence[int]) -> Tensor:
    """Each pixel 1 with probability level/(L − 1), uint8, of the images' shape; row k depends only on ``indices[k]``.

    Args:
        images: levels 0 … L−1, shape (B, C, H, W).
        L: the number of levels.
        seed, stream, step, indices: the coordinates of the random numbers.
    """
    word = words(seed, stream, step, indices, tuple(images.shape[1:]), images.device)
    return (word * (L - 1) < images.long() << 32).to(torch.uint8)


def drawn_once(images: Tensor, L: int, indices: range) -> Tensor:
    """The one draw of ``val`` and ``test``, the same for every run; arguments as in :func:`drawn`.

    Runs identify these images by their hash. So they are drawn by numpy's Philox 4x64, with one generator per image, as
    in earlier versions.
    """
    rows = [np.random.Generator(np.random.Philox(key=[0, i], counter=FIXED)).random(images.shape[1:]) for i in indices]
    return (torch.from_numpy(np.stack(rows)) * (L - 1) < images).to(torch.uint8)


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
        images[first : first + len(some)] = drawn_once(some, dataset.levels, indices)
    note = "binarised: training images at every step, val and test once with a fixed seed"
    return replace(
        dataset,
        images=images,
        grey=(dataset.images, dataset.levels),
        levels=2,
        sha256=fingerprint(images, dataset.bounds, 2),
        notes=(*dataset.notes, note),
    )
