"""``hf:`` with a stand-in for the package, and with the package on local files, without downloads."""

from __future__ import annotations

import struct
import sys
import types
import zlib

import numpy as np
import pytest
from data_helpers import random_pixels, reading_notes
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
    assert reading_notes(data) == ("channels converted from 3 to 1",)


@pytest.mark.parametrize(
    ("tables", "match"),
    [
        ({"train": Table([*IMAGES, IMAGES[0][1:]])}, "row 0 is 4x5, row 20 is 3x5; add `size`"),
        ({"train": Table([*IMAGES, IMAGES[0, ..., 0]])}, r"row 0 has 3 and row 20 has 1; add `channels`"),
        ({"train": Table(IMAGES, key="photo")}, "has no column image or img; its columns are photo"),
        (ConnectionError("offline\nvery"), r"hf:who/what cannot be loaded \(offline\)"),
    ],
)
def test_what_cannot_be_used(hub, tables, match):
    hub(tables)
    with pytest.raises(InputError, match=match):
        load("hf:who/what")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"^data: hf: needs the extra: pip install 'nelbo\[hub\]'"):
        load("hf:who/what")


def test_files_through_the_package_itself(tmp_path, monkeypatch):
    """Parquet files of PNGs, as sets on the hub are kept."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    (tmp_path / "set").mkdir()
    for split, rows in (("train", range(15)), ("test", range(15, 20))):
        content = {"img": [Image.fromarray(IMAGES[i]) for i in rows], "label": [i % 2 for i in rows]}
        table = datasets.Dataset.from_dict(content, features=features)
        table.to_parquet(tmp_path / "set" / f"{split}.parquet")
    data = load(f"hf:{tmp_path / 'set'}")
    assert np.array_equal(data.split("test").numpy(), PLANES[15:])
    assert data.split_labels("test").tolist() == [1, 0, 1, 0, 1]
    assert data.classes == ("cat", "dog")
    kept = np.concatenate([data.split("train").numpy(), data.split("val").numpy()])
    assert sorted(map(bytes, kept)) == sorted(map(bytes, np.ascontiguousarray(PLANES[:15])))


def test_a_bomb_in_a_table_is_not_decoded(tmp_path, monkeypatch):
    """A PNG of a hundred bytes that claims 10¹⁰ pixels; and a cell with nothing in it."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, content in (("bomb", claims(100_000, 100_000)), ("nothing", None)):
        (tmp_path / name).mkdir()
        cells = {"image": [content]}
        table = datasets.Dataset.from_dict(cells, features=datasets.Features({"image": datasets.Image()}))
        table.to_parquet(tmp_path / name / "train.parquet")
        with pytest.raises(InputError, match=r"row 0: (has implausibly many pixels|has a side of|is empty)"):
            load(f"hf:{tmp_path / name}")


def test_only_the_column_of_images_is_read_and_in_its_mode(tmp_path, monkeypatch):
    """Beside it a column with a bomb in it; and a set that says that all images are RGB, of which some are grey."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    grey = random_pixels((6, 4, 5))
    images = [Image.fromarray(image if i % 2 else np.stack([image] * 3, -1)) for i, image in enumerate(grey)]
    kinds = datasets.Features({"mask": datasets.Image(), "image": datasets.Image(mode="RGB")})
    table = datasets.Dataset.from_dict({"mask": [claims(100_000, 100_000)] * 6, "image": images}, features=kinds)
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "train.parquet")
    data = load(f"hf:{tmp_path / 'set'}")
    assert data.shape == (3, 4, 5)
    assert sorted(map(bytes, data.images.numpy()[:, 2])) == sorted(map(bytes, grey))


def claims(width, height):
    """A PNG whose header says so, with no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pieces = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x)) for kind, x in pieces
    )
    return b"\x89PNG\r\n\x1a\n" + body
