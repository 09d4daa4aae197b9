"""The study of classifiers (``make classify``) at small size: its changes are what they say, and its table is whole."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from machine_helpers import train_tiny

import classify
from nelbo.jobs.run import Run
from nelbo.nn.classifier import Classifier


def centre(image: np.ndarray) -> np.ndarray:
    """The centre of mass about the middle of the image: (row, column)."""
    weights, places = image / image.sum(), np.indices(image.shape) - (np.array(image.shape) - 1)[:, None, None] / 2
    return np.array((places * weights).sum((1, 2)))


def test_changes_are_what_they_say() -> None:
    blob = np.zeros((1, 1, 28, 28), dtype=np.uint8)
    blob[..., 12:16, 19:23] = 200
    found = {name: classify.changed(blob, change, 256)[0, 0] for name, change in classify.CHANGES.items()}
    clean, noise, contrast, rotated, shifted = found.values()
    assert np.array_equal(clean, blob[0, 0])
    assert np.array_equal(contrast, blob[0, 0] // 2)
    assert (noise == 0).mean() == pytest.approx(0.5, abs=0.06)  # half the noise on black is below it
    assert centre(shifted) - centre(clean) == pytest.approx([0, 2])
    (y, x), (v, u) = centre(clean), centre(rotated)
    assert math.hypot(u, v) == pytest.approx(math.hypot(x, y), rel=0.02)
    assert abs(math.degrees(math.atan2(v, u) - math.atan2(y, x))) == pytest.approx(15, abs=1)


def test_every_change_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "CHANGES", dict(list(classify.CHANGES.items())[:2]))
    run = Run(train_tiny(tmp_path / "run", "--labels", steps=1))
    network = Classifier(1, (8,), 10).eval()
    found = classify.measured(run, network, 5, 2)
    assert list(found) == list(classify.CHANGES)
    for name, row in found.items():
        assert row.bound.n == 5
        assert 0 <= row.bound.evaluations_per_image <= 20
        assert 0 <= row.right <= 1
        assert classify.row_of(name, row).count("|") == classify.PART.split("\n| --- ")[0].splitlines()[-1].count("|")
    images = run.dataset.split("test")[:40]
    labels = run.dataset.split_labels("test")
    assert labels is not None
    with torch.no_grad():
        right = float((network(images.float() / 8 - 1).argmax(1) == labels[:40]).double().mean())
    assert classify.by_classifier(network, images, labels[:40], 17)[0] == pytest.approx(right)
