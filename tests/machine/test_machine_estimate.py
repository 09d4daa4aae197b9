"""An estimate of a training is what the training then has."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from machine_helpers import listing

import nelbo
from nelbo.errors import InputError
from nelbo.jobs import estimate as module
from nelbo.jobs.estimate import estimate
from nelbo.options import DataOptions


def test_it_is_of_the_model_and_images_of_the_training(here: Path) -> None:
    before = listing(here)
    found = estimate("ddpm", DataOptions(data="digits"), 2.0, labels=True)
    assert listing(here) == before
    run = nelbo.train("ddpm", "digits", steps=2, labels=True, device="cpu")
    model = run.model()
    assert found.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.images == len(run.dataset.split("train"))
    assert found.batch_size == run.config.training.batch_size


def test_the_fastest_step_counts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 3, 1, 2 and 2 seconds: 120 of them in two minutes."""
    seconds = iter([0.0, 3.0, 3.0, 4.0, 4.0, 6.0, 6.0, 8.0])
    clock = type("Clock", (), {"perf_counter": staticmethod(lambda: next(seconds)), "monotonic": time.monotonic})
    monkeypatch.setattr(module, "time", clock)
    found = estimate("vae", DataOptions(data="digits"), 2.0)
    assert found.steps == 120
    assert found.images_per_second == found.batch_size


def test_what_cannot_be_trained_is_refused(here: Path) -> None:
    with pytest.raises(InputError, match="does not learn"):
        estimate("ae", DataOptions(data="digits"), 2.0, labels=True)
