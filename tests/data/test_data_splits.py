"""Splits by content: disjoint, complete, stable, and with copies in the same split."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

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
    rows, _ = by_content(found, ("test", "val"), holdout, "here")
    assert sorted(row for some in rows.values() for row in some) == list(range(len(kinds)))
    owned = {name: {found[row] for row in some} for name, some in rows.items()}
    assert all(owned.values())
    assert sum(len(some) for some in owned.values()) == len(set(found))


@given(kinds=st.sets(st.integers(0, 1000), min_size=3, max_size=80), holdout=st.floats(0.001, 0.499))
def test_the_rule_of_format_1_goes_by_rank(kinds, holdout):
    found = [hashlib.sha256(bytes(f"{kind}", "ascii")).digest() for kind in sorted(kinds)]
    rows, _ = by_content(found, ("test", "val"), holdout, "here", "rank")
    owned = {name: {found[row] for row in some} for name, some in rows.items()}
    assert all(owned.values())
    assert abs(len(owned["test"]) - holdout * len(found)) <= 1
    assert len(owned["test"]) == len(owned["val"])
    assert max(owned["test"]) < min(owned["val"])
    assert max(owned["val"]) < min(owned["train"])


def sides(found, holdout=0.1, held=("test", "val")):
    """Mark → split."""
    rows, _ = by_content(found, held, holdout, "here")
    return {found[row]: name for name, some in rows.items() for row in some}


def test_an_image_stays_where_it_is_whatever_comes_or_goes():
    found = [hashlib.sha256(bytes(f"{kind}", "ascii")).digest() for kind in range(2000)]
    few, many = sides(found[:1000]), sides(found)
    assert few == {mark: many[mark] for mark in few}
    fewer = [mark for mark in found[:1000] if few[mark] != "test" or mark[-1] % 2]
    assert sides(fewer) == {mark: few[mark] for mark in fewer}
    # 2,000 images with probability 1/10 each: 200, with a standard deviation of 13.4
    counts = Counter(many.values())
    assert abs(counts["test"] - 200) < 54
    assert abs(counts["val"] - 200) < 54


@pytest.mark.parametrize("held", [("test", "val"), ("val",), ("test",)])
def test_the_side_is_the_hash_as_a_number_against_thresholds(held):
    found = [bytes([first]) + bytes(31) for first in range(256)]
    for mark, name in sides(found, 0.25, held).items():
        number = mark[0] / 256
        assert name == (*held, *["train"] * 4)[int(number / 0.25)]


def test_a_split_that_would_be_empty_gets_the_nearest_image():
    found = [bytes([first]) for first in (100, 140, 200, 250)]  # 0.39, 0.55, 0.78, 0.98: all train
    rows, notes = by_content(found, ("test", "val"), 0.1, "here")
    assert {name: list(some) for name, some in rows.items()} == {"test": [0], "val": [1], "train": [2, 3]}
    assert len(notes) == 2
    assert notes[0].startswith("test would be empty")
    found = [bytes([first]) for first in (1, 2, 40, 45)]  # two below 0.1, two below 0.2: none for train
    rows, notes = by_content(found, ("test", "val"), 0.1, "here")
    assert {name: list(some) for name, some in rows.items()} == {"test": [0, 1], "val": [2], "train": [3]}
    assert notes[0].startswith("train would be empty")


def test_copies_are_counted_and_said(tmp_path):
    write_images(tmp_path, np.repeat(random_pixels((3, 3, 4)), 20, 0), "{}.png")
    data = load(str(tmp_path))
    assert [line for line in data.notes if "distinct" in line] == [f"{name}: 20 images, 1 distinct" for name in SPLITS]
    assert data.copies("test").tolist() == [0] * 20
    assert data.copies("all").tolist() == [0] * 20 + [1] * 20 + [2] * 20


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
    assert [len(one.split(name)) for name in SPLITS] == [29, 7, 4]


def test_duplicates_among_files_stay_together(tmp_path):
    images = random_pixels((10, 3, 4))
    write_images(tmp_path, np.concatenate([images, images, images]), "{}.png")
    data = load(str(tmp_path), holdout=0.3)
    owned = [{image.numpy().tobytes() for image in data.split(name)} for name in SPLITS]
    assert [len(some) for some in owned] == [3, 4, 3]
    assert len(set.union(*owned)) == 10


def test_holdout_is_checked():
    for holdout in (0.0, 0.5, -1.0, float("nan")):
        with pytest.raises(InputError, match=r"^holdout"):
            load("digits", holdout=holdout)
