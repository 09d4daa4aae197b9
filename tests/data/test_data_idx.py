"""The IDX format, with files written by hand."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from data_helpers import idx_bytes, md5, random_pixels
from hypothesis import given
from hypothesis import strategies as st

from nelbo.data import load
from nelbo.data.idx import read_idx
from nelbo.errors import InputError


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), gz=st.booleans(), seed=st.integers(0, 99))
def test_round_trip(tmp_path_factory, shape, gz, seed):
    values = random_pixels(shape, seed)
    path: Path = tmp_path_factory.mktemp("idx") / "file"
    contents = idx_bytes(values)
    path.write_bytes(gzip.compress(contents) if gz else contents)
    idx = read_idx(path)
    assert np.array_equal(idx.values, values)
    assert idx.values.shape == shape
    assert (idx.md5, idx.gzipped) == (md5(contents), gz)


GOOD = idx_bytes(random_pixels((4, 3, 2)))


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    ("data", "match"),
    [
        (GOOD[:-1], "4 x 3 x 2 bytes, but it has only 23"),
        (GOOD + b"\0", "it has more"),
        (GOOD[:10], "truncated within its header"),
        (b"", "is not an IDX file"),
        (b"\x01" + GOOD[1:], "is not an IDX file"),
        (GOOD[:3] + b"\xff" + GOOD[4:], "is not an IDX file"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "type 0x0d"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "it has only 0"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 5, 0, 2), "an axis of length 0"),
    ],
)
def test_damaged_files_are_named(tmp_path, data, match, gz):
    path = tmp_path / "bad"
    path.write_bytes(gzip.compress(data) if gz else data)
    with pytest.raises(InputError, match=match) as caught:
        read_idx(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:12] + b"\xff\xff\xff" + data[15:]])
def test_damaged_gzip_is_named(tmp_path, damage):
    path = tmp_path / "bad.gz"
    path.write_bytes(damage(gzip.compress(GOOD, mtime=0)))
    with pytest.raises(InputError, match=r"bad\.gz: is (truncated|damaged)"):
        read_idx(path)


@pytest.mark.parametrize("shape", [(20, 3, 5), (20, 3, 6, 5), (20, 6, 5, 3)])
def test_a_single_file_is_a_spec(tmp_path, shape):
    values = random_pixels(shape)
    path = tmp_path / "some-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(values)))
    data = load(str(path))
    want = values[:, None] if values.ndim == 3 else values if shape[1] == 3 else values.transpose(0, 3, 1, 2)
    assert sorted(image.tobytes() for image in data.images.numpy()) == sorted(image.tobytes() for image in want)
    assert (data.labels, data.classes, data.name) == (None, (), "some-idx3-ubyte")


def test_labels_alone_are_not_images(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(random_pixels((9,))))
    with pytest.raises(InputError, match="it contains labels"):
        load(str(path))
