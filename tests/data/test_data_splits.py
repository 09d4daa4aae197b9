"""Splits by content: disjoint, complete, stable, and kind to duplicates."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from data_helpers import random_pixels, write_images
from hypothesis import given
from hypothesis import strategies as st

from nelbo.data import SPLITS, load
from nelbo.data.splits import by_content, marks
from nelbo.errors import InputError


@given(
    kinds=st.lists(st.integers(0, 30), min_size=3, max_size=80).filter(lambda some: len(set(some)) >= 3),
    holdout=st.floats(0.001, 0.499),
)
def test_every_image_is_in_one_split_and_duplicates_stay_together(kinds, holdout):
    found = [hashlib.sha256(bytes([kind])).digest() for kind in kinds]
    rows = by_content(found, ("test", "val"), holdout, "here")
    assert sorted(row for some in rows.values() for row in some) == list(range(len(kinds)))
    owned = {name: {found[row] for row in some} for name, some in rows.items()}
    assert all(owned.values())
    assert sum(len(some) for some in owned.values()) == len(set(found))
    distinct = len(set(found))
    assert abs(len(owned["test"]) - holdout * distinct) <= 1
    assert len(owned["test"]) == len(owned["val"])
    assert max(owned["test"]) < min(owned["val"])
    assert max(owned["val"]) < min(owned["train"])


def test_too_few_distinct_images():
    with pytest.raises(InputError, match=r"^here: has only 2 distinct images; test, val, train need at least 3"):
        by_content([b"a", b"a", b"b"], ("test", "val"), 0.1, "here")
    with pytest.raises(InputError, match="has 2 images"):
        by_content([b"a", b"b"], ("test", "val"), 0.1, "here")


def test_marks_see_pixels_not_layout():
    images = random_pixels((4, 3, 5, 2))
    turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert marks(images) == marks(turned) == [hashlib.sha256(image.tobytes()).digest() for image in images]


def test_renaming_files_moves_nothing(tmp_path):
    images = random_pixels((40, 3, 4))
    write_images(tmp_path / "a", images, "{}.png")
    names = [f"z{number}.png" for number in range(40)]
    random.Random(0).shuffle(names)
    for path, name in zip(write_images(tmp_path / "b", images, "t{}.png"), names, strict=True):
        path.rename(path.with_name(name))
    one, two = load(str(tmp_path / "a")), load(str(tmp_path / "b"))
    assert one.sha256 == two.sha256
    assert all(one.split(name).equal(two.split(name)) for name in SPLITS)
    assert [len(one.split(name)) for name in SPLITS] == [32, 4, 4]


def test_duplicates_among_files_stay_together(tmp_path):
    images = random_pixels((10, 3, 4))
    write_images(tmp_path, np.concatenate([images, images, images]), "{}.png")
    data = load(str(tmp_path), holdout=0.3)
    owned = [{image.numpy().tobytes() for image in data.split(name)} for name in SPLITS]
    assert [len(some) for some in owned] == [4, 3, 3]
    assert len(set.union(*owned)) == 10


def test_holdout_is_checked():
    for holdout in (0.0, 0.5, -1.0, float("nan")):
        with pytest.raises(InputError, match=r"^--holdout"):
            load("digits", holdout=holdout)
