"""Named sets: published splits, digests, and the search for files."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from data_helpers import HELD, STEMS, TEST, TRAIN, cifar_files, idx_bytes, tiny_arrays

from nelbo.data import SPLITS, load
from nelbo.data.sources import SOURCES
from nelbo.errors import InputError


@pytest.fixture
def put(tmp_path, monkeypatch, tiny):
    """Register the tiny set and write its files; returns the folder of data sets."""

    def write(folder="tiny", md5_of="contents", names=STEMS, suffix=".gz", change=None):
        source, _ = tiny(md5_of=md5_of)
        monkeypatch.setitem(SOURCES, "tiny", source)
        (tmp_path / folder).mkdir(exist_ok=True, parents=True)
        for index, (name, values) in enumerate(zip(names, tiny_arrays(), strict=True)):
            data = (change or {}).get(index, idx_bytes(values))
            path = tmp_path / folder / f"{name}{suffix}"
            path.write_bytes(gzip.compress(data, 1, mtime=7) if suffix else data)
        return tmp_path

    return write


def test_digits_are_those_of_sklearn_in_frozen_splits():
    from sklearn.datasets import load_digits

    bunch, data = load_digits(), load("digits")
    assert (data.name, data.levels, data.shape, data.dims, data.notes) == ("digits", 17, (1, 8, 8), 64, ())
    assert data.sha256 == "0fce7bbff7b3fcd201e16349e4942dfe931351b02b9ccefdd1e2f9c32eb281e0"
    both = np.concatenate([data.images.numpy().reshape(-1, 64), data.labels.numpy()[:, None]], axis=1)
    want = np.concatenate([bunch.data.astype(np.int64), bunch.target[:, None]], axis=1)
    assert sorted(both.tolist()) == sorted(want.tolist())
    for label in range(10):
        total = (bunch.target == label).sum()
        counts = {name: int((data.split_labels(name) == label).sum()) for name in SPLITS}
        assert counts["test"] == round(0.2 * total)
        assert counts["val"] == round(0.1 * total)


def test_splits_are_views_and_unknown_ones_are_named():
    data = load("digits")
    assert data.split("val").data_ptr() == data.images[data.bounds["val"][0]].data_ptr()
    assert all(data.split(name).is_contiguous() for name in SPLITS)
    with pytest.raises(InputError, match=r"split.*did you mean 'train'"):
        data.split("trian")


def test_sha256_tells_data_levels_and_splits_apart():
    plain = load("digits")
    assert load("digits").sha256 == plain.sha256
    assert load("digits", levels=256).sha256 != plain.sha256
    assert load("digits", channels=3).sha256 != plain.sha256


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["tiny", "."])
@pytest.mark.parametrize("names", [STEMS, tuple(stem.replace("-idx", ".idx") for stem in STEMS)])
def test_idx_sets_are_found_under_any_usual_name(put, suffix, folder, names):
    data = load("tiny", root=put(folder, names=names, suffix=suffix))
    train, train_labels, test, test_labels = tiny_arrays()
    assert data.bounds == {"train": (0, TRAIN - HELD), "val": (TRAIN - HELD, TRAIN), "test": (TRAIN, TRAIN + TEST)}
    assert np.array_equal(data.images[:, 0].numpy(), np.concatenate([train, test]))
    assert np.array_equal(data.labels.numpy(), np.concatenate([train_labels, test_labels]))


def test_nelbo_data_comes_before_the_cache(put, monkeypatch):
    monkeypatch.setenv("NELBO_DATA", str(put()))
    assert load("tiny").shape == (1, 4, 5)


def test_a_wrong_nelbo_data_is_named(put, monkeypatch, tmp_path):
    put()
    monkeypatch.setenv("NELBO_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"^NELBO_DATA: the folder .* does not exist"):
        load("tiny")


def test_changed_contents_are_refused(put):
    values = tiny_arrays()[0]
    values[3, 2, 1] ^= 1
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz: is not the file of tiny: its MD5"):
        load("tiny", root=put(change={0: idx_bytes(values)}))


def test_without_a_sum_of_the_contents_what_can_be_checked_is(put):
    data = load("tiny", root=put(md5_of="archive", suffix=""))
    assert len(data.notes) == 4
    assert "sizes checked, contents not" in data.notes[0]


@pytest.mark.parametrize(
    ("folder", "suffix", "change", "match"),
    [
        ("tiny", ".gz", None, "is not the file of tiny"),  # another compression than the published one
        (".", "", None, "or of another set"),
        ("tiny", "", {0: idx_bytes(tiny_arrays()[0][:-1])}, "29 x 4 x 5 values, but tiny has 30 x 4 x 5"),
        ("tiny", "", {1: idx_bytes(np.full(TRAIN, 10, np.uint8))}, "label 10 beyond 10 classes"),
    ],
)
def test_what_can_be_checked_without_a_sum_of_the_contents(put, folder, suffix, change, match):
    with pytest.raises(InputError, match=match):
        load("tiny", root=put(folder, "archive", suffix=suffix, change=change))


@pytest.fixture
def cifar(tmp_path, monkeypatch, tiny_cifar):
    source, archive = tiny_cifar()
    monkeypatch.setitem(SOURCES, "tiny-cifar", source)
    (tmp_path / "tiny-cifar").mkdir()
    return tmp_path, archive


def check_cifar(data):
    rows = np.concatenate([np.frombuffer(each, np.uint8).reshape(-1, 61) for each in cifar_files().values()])
    assert np.array_equal(data.images.numpy().reshape(-1, 60), rows[:, 1:])
    assert np.array_equal(data.labels.numpy(), rows[:, 0])
    assert data.bounds == {"train": (0, 7), "val": (7, 10), "test": (10, 12)}
    assert data.shape == (3, 4, 5)


def test_cifar_is_read_from_the_archive_and_nothing_is_extracted(cifar):
    root, archive = cifar
    (root / "tiny-cifar" / "cifar-10-binary.tar.gz").write_bytes(archive)
    before = sorted(root.parent.rglob("*"))
    check_cifar(load("tiny-cifar", root=root))
    assert sorted(root.parent.rglob("*")) == before


def test_cifar_is_read_from_extracted_files(cifar):
    root, _ = cifar
    (root / "tiny-cifar" / "cifar-10-batches-bin").mkdir()
    for name, data in cifar_files().items():
        (root / "tiny-cifar" / "cifar-10-batches-bin" / name).write_bytes(data)
    data = load("tiny-cifar", root=root)
    check_cifar(data)
    assert "contents not" in data.notes[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [(lambda data: data[:-1], "121 bytes, not 122"), (lambda data: b"\x0a" + data[1:], "label 10 beyond 10")],
)
def test_damaged_cifar_files_are_refused(cifar, change, match):
    root, _ = cifar
    for name, data in cifar_files().items():
        (root / "tiny-cifar" / name).write_bytes(change(data) if name == "data_batch_2.bin" else data)
    with pytest.raises(InputError, match=f"data_batch_2.bin: .*{match}"):
        load("tiny-cifar", root=root)


def test_a_damaged_cifar_archive_is_refused(cifar):
    root, archive = cifar
    (root / "tiny-cifar" / "cifar-10-binary.tar.gz").write_bytes(archive[:-1])
    with pytest.raises(InputError, match="is not the archive of tiny-cifar"):
        load("tiny-cifar", root=root)


@pytest.mark.skipif("NELBO_DATA" not in os.environ, reason="needs MNIST in $NELBO_DATA")
def test_mnist():
    if not any((Path(os.environ["NELBO_DATA"]) / folder).is_dir() for folder in SOURCES["mnist"].folders):
        pytest.skip("$NELBO_DATA has no MNIST")
    data = load("mnist")
    assert {name: len(data.split(name)) for name in SPLITS} == {"train": 55_000, "val": 5_000, "test": 10_000}
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (10_000, 28, 28))
    contents = header + data.split("test").numpy().tobytes()
    assert hashlib.md5(contents, usedforsecurity=False).hexdigest() == "2646ac647ad5339dbf082846283269ea"
    assert data.split_labels("train")[:5].tolist() == [5, 0, 4, 1, 9]  # as printed in every tutorial
    assert (data.levels, data.shape, data.classes) == (256, (1, 28, 28), tuple("0123456789"))
