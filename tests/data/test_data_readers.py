"""Readers of other packages, found by the entry points of an installed package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from data_helpers import random_pixels, reading_notes

import nelbo
from nelbo.data import load
from nelbo.data.readers import readers
from nelbo.errors import InputError
from nelbo.jobs.run import read_data
from nelbo.jobs.settings import located
from nelbo.options import RunDataOptions

IMAGES = random_pixels((40, 3, 4, 5), top=9)
MODULE = """
import numpy as np
from nelbo.data import DataOptions, Part, Raw
from nelbo.errors import InputError

def read(rest: str, options: DataOptions) -> Raw:
    if not rest.endswith(".npy"):
        raise InputError("data", f"far:{rest} has no images")
    images = np.load(rest)
    parts = {"train": Part(images[:30], np.arange(30) % 2), "test": Part(images[30:], np.arange(10) % 2)}
    return Raw("far away", f"far:{rest}", parts, ("cat", "dog"), levels=9)

def nothing(rest: str, options: DataOptions) -> None:
    return None

def floats(rest: str, options: DataOptions) -> Raw:
    return Raw("floats", "floats", {"all": Part(np.zeros((40, 1, 2, 2)))})
"""
ENTRIES = """
[nelbo.readers]
far = far_package:read
hf = far_package:read
nothing = far_package:nothing
floats = far_package:floats
gone = package_that_is_gone:read
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A SPEC for the reader ``far`` of a package that is installed for this test, and whose images are ``IMAGES``."""
    info = tmp_path / "site" / "far_package-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far-package\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    (tmp_path / "site" / "far_package.py").write_text(MODULE)
    np.save(tmp_path / "images.npy", IMAGES)
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    readers.cache_clear()
    yield f"far:{tmp_path / 'images.npy'}"
    readers.cache_clear()
    sys.modules.pop("far_package", None)


def test_a_reader_of_another_package_is_asked(spec: str) -> None:
    assert "far_package" not in sys.modules
    data = load(spec)
    assert (data.name, data.levels, data.classes, data.spec) == ("far away", 9, ("cat", "dog"), spec)
    assert np.array_equal(data.split("test").numpy(), IMAGES[30:])
    labels = data.split_labels("test")
    assert labels is not None
    assert labels.tolist() == [0, 1] * 5
    assert len(data.split("train")) + len(data.split("val")) == 30


def test_its_images_get_the_channels_and_the_size_that_are_asked_for(spec: str) -> None:
    data = load(spec, size=(8, 8), fit="resize", channels=1)
    assert data.shape == (1, 8, 8)
    assert reading_notes(data)[:2] == ("sizes converted to 8x8 by `fit` resize", "channels converted from 3 to 1")


def test_a_run_keeps_the_spec_and_finds_the_same_images(spec: str) -> None:
    """It is no path, so it is neither made absolute nor missed."""
    options = located(RunDataOptions(data=spec))
    assert options.data == spec
    assert read_data(options).sha256 == load(spec).sha256
    assert nelbo.info(spec)["data"] == "far away"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("far:nothing", "data: far:nothing has no images"),
        ("gone:x", "data: the reader 'gone' of far-package 1.2 cannot be imported: No module named"),
        ("fra:x", "'fra:x' is neither a name nor a path .* or hf:NAME, far:NAME"),
    ],
)
def test_what_cannot_be_read_is_one_line(spec: str, wrong: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("nothing:x", "must return a nelbo.data.Raw"), ("floats:x", "must return images in uint8, .* its all is")],
)
def test_a_reader_that_is_none_is_named(spec: str, wrong: str, said: str) -> None:
    with pytest.raises(TypeError, match=f"far_package:{wrong[:-2]} {said}"):
        load(wrong)


def test_hf_stays_what_it_is(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"nelbo\[hub\]"):
        load("hf:x.npy")
