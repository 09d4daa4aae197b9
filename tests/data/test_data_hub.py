"""``hf:`` against a stand-in for the package; nothing is fetched."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from data_helpers import random_pixels
from PIL import Image

from nelbo.data import load
from nelbo.errors import InputError


class Table:
    """As much of a table of the package as is used."""

    def __init__(self, images, labels=None, key="image"):
        self.columns = {key: [Image.fromarray(image) for image in images]}
        self.features = {key: object()}
        if labels is not None:
            self.columns["label"] = list(labels)
            self.features["label"] = types.SimpleNamespace(names=["cat", "dog"])
        self.column_names = list(self.columns)

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        return self.columns[key] if isinstance(key, str) else {name: some[key] for name, some in self.columns.items()}


IMAGES = random_pixels((20, 4, 5, 3))
PLANES = IMAGES.transpose(0, 3, 1, 2)


@pytest.fixture
def hub(monkeypatch):
    def give(tables):
        def load_dataset(name):
            if isinstance(tables, Exception):
                raise tables
            assert name == "who/what"
            return tables

        monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))

    return give


def test_own_splits(hub):
    labels = np.arange(20) % 2
    hub(
        {
            "train": Table(IMAGES[:15], labels[:15], "img"),
            "test": Table(IMAGES[15:], labels[15:], "img"),
            "extra": Table([]),
        }
    )
    data = load("hf:who/what")
    assert np.array_equal(data.split("test").numpy(), PLANES[15:])
    assert data.split_labels("test").tolist() == labels[15:].tolist()
    assert data.classes == ("cat", "dog")
    assert len(data.split("train")) + len(data.split("val")) == 15
    assert data.notes[0] == "not used: extra"


def test_one_split_is_split_by_content(hub):
    hub({"train": Table(IMAGES)})
    data = load("hf:who/what", channels=1)
    assert (data.shape, data.labels, len(data.images)) == ((1, 4, 5), None, 20)
    assert data.notes == ("channels brought from 3 to 1",)


@pytest.mark.parametrize(
    ("tables", "match"),
    [
        ({"train": Table([*IMAGES, IMAGES[0][1:]])}, "row 0 is 4x5 and row 20 is 3x5; add --size"),
        ({"train": Table([*IMAGES, IMAGES[0, ..., 0]])}, r"row 0 has 3 and row 20 has 1; add --channels"),
        ({"train": Table(IMAGES, key="photo")}, "has no column image or img; it has photo"),
        (ConnectionError("offline\nvery"), r"hf:who/what cannot be loaded \(offline\)"),
    ],
)
def test_what_cannot_be_used(hub, tables, match):
    hub(tables)
    with pytest.raises(InputError, match=match):
        load("hf:who/what")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"^--data: hf: needs the extra: pip install 'nelbo\[hub\]'"):
        load("hf:who/what")
