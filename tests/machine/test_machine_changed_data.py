"""Data that have changed since the run started: reported, and refused by default."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine_helpers import call, call_well, listing, tiny, train_tiny, write_pictures
from PIL import Image

from nelbo.jobs.run import Run

AGAIN = ("--out", "run", "--resume", "--steps", "2")


@pytest.fixture
def changed(here: Path) -> Path:
    """A run of a folder to which an image has come since."""
    write_pictures(here / "pictures", 12, (4, 4))
    train_tiny(here / "run", "--data", "pictures", steps=1)
    Image.new("RGB", (4, 4), "red").save(here / "pictures" / "new.png")
    return here


def test_it_is_refused_and_nothing_is_touched(changed: Path) -> None:
    before = listing(changed / "run")
    answer = call("train", "ddpm", *AGAIN)
    assert answer.code == 2
    assert "--changed-data" in answer.err
    assert answer.err.count("\n") == 1
    assert listing(changed / "run") == before


def test_told_otherwise_it_says_what_has_changed_and_goes_on(changed: Path) -> None:
    old = Run(changed / "run").config.images
    answer = call_well("train", "ddpm", *AGAIN, "--changed-data")
    run = Run(changed / "run")
    assert run.step == 2
    assert run.config.images.sha256 == run.dataset.sha256 != old.sha256
    assert f"training images: {old.counts['train']} ({old.sha256[:12]})" in answer.err
    past = [(data.from_step, data.sha256, data.counts) for data in run.config.trained_on]
    assert past == [(0, old.sha256, old.counts), (1, run.config.images.sha256, run.config.images.counts)]
    warning = f"{old.sha256[:12]}) from step 0, {run.config.images.counts['train']} images"
    for words in (
        ("score", "run"),
        ("train", "ddpm", "--out", "run", "--resume", "--steps", "3"),
        ("info", "run"),
        ("train", "ddpm", *AGAIN[:-1], "4", "--changed-data"),  # nothing has changed since
    ):
        said = call_well(*words)
        assert warning in said.out + said.err, words
        assert "images of val and test may be former training images" in said.out + said.err
    assert Run(changed / "run").config.trained_on == run.config.trained_on


def test_images_of_another_size_need_a_new_run(changed: Path) -> None:
    for picture in (changed / "pictures").glob("*.png"):
        Image.open(picture).resize((6, 6)).save(picture)
    answer = call("train", "ddpm", *AGAIN, "--changed-data")
    assert answer.code == 2
    assert "start a new run" in answer.err


def test_it_is_for_a_run_that_is_resumed(here: Path) -> None:
    answer = call("train", "ddpm", *tiny(), "--steps", "1", "--out", "run", "--changed-data")
    assert answer.code == 2
    assert "--changed-data" in answer.err
    assert not (here / "run").exists()
