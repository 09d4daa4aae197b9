"""Binarised data: the distribution of the pixels, and which images are drawn again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from nelbo.data import load
from nelbo.data.binarize import drawn
from nelbo.errors import InputError
from nelbo.rng import Stream


def test_pixels_are_one_as_often_as_they_are_bright() -> None:
    """Counts over 4,000 draws of each of 17 levels against Binomial(4000, k/16): every p-value above 1e-4."""
    images = torch.arange(17, dtype=torch.uint8).reshape(1, 1, 1, 17).expand(4000, -1, -1, -1)
    found = drawn(images, 17, 0, Stream.BINARIZE, 3, range(4000))
    assert found.dtype == torch.uint8
    counts = found.long().sum((0, 1, 2)).tolist()
    assert (counts[0], counts[16]) == (0, 4000)
    for k in range(1, 16):
        assert stats.binomtest(counts[k], 4000, k / 16).pvalue > 1e-4


def test_a_draw_belongs_to_its_image_and_step() -> None:
    images = torch.full((6, 1, 8, 8), 8, dtype=torch.uint8)
    whole = drawn(images, 17, 0, Stream.BINARIZE, 3, range(6))
    torch.testing.assert_close(drawn(images[4:], 17, 0, Stream.BINARIZE, 3, range(4, 6)), whole[4:])
    for other in (
        drawn(images, 17, 1, Stream.BINARIZE, 3, range(6)),
        drawn(images, 17, 0, Stream.BINARIZE, 4, range(6)),
        drawn(images, 17, 0, Stream.SAMPLE, 3, range(6)),
    ):
        agree = float((whole == other).double().mean())
        assert abs(agree - 0.5) < 4 * 0.5 / (6 * 64) ** 0.5


def test_what_is_scored_is_drawn_once_and_training_keeps_its_greys() -> None:
    grey, first, second = load("digits"), load("digits", binarize=True), load("digits", binarize=True)
    assert (first.levels, first.shape) == (2, (1, 8, 8))
    assert torch.equal(first.images, second.images)
    assert first.sha256 == second.sha256 != grey.sha256
    assert set(np.unique(first.images)) == {0, 1}
    images, levels = first.for_training
    assert levels == 17
    assert torch.equal(images, grey.split("train"))
    assert grey.for_training[1] is None
    assert any("binarised" in note for note in first.notes)
    # Bright where the grey images are: the mean of what was drawn is the mean grey, within 4 standard errors.
    p = grey.images.double() / 16
    spread = float((p * (1 - p)).sum().sqrt())
    assert abs(float(first.images.double().sum() - p.sum())) < 4 * spread


def test_two_levels_are_not_binarised_again(tmp_path: object) -> None:
    path = f"{tmp_path}/two.npy"
    np.save(path, np.random.default_rng(0).integers(0, 2, (40, 8, 8)).astype(np.uint8))
    with pytest.raises(InputError, match="binarize"):
        load(path, levels=2, binarize=True)
