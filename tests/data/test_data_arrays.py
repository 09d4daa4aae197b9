"""NumPy's files: shapes, types, keys, and wrong headers."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
from data_helpers import random_pixels

from nelbo.data import load
from nelbo.errors import InputError


def pixels_of(data):
    return sorted(image.numpy().tobytes() for image in data.images)


def as_bytes(images):
    return sorted(image.astype(np.uint8).tobytes() for image in images)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("shape", "axes"), [((20, 5, 6), None), ((20, 5, 6, 3), (0, 3, 1, 2)), ((20, 2, 5, 6), (0, 1, 2, 3))]
)
def test_layouts(tmp_path, shape, axes, order):
    values = random_pixels(shape)
    np.save(tmp_path / "a.npy", np.asarray(values, order=order))
    data = load(str(tmp_path / "a.npy"))
    assert pixels_of(data) == as_bytes(values if axes is None else values.transpose(axes))
    assert (data.levels, data.labels, data.name, len(data.images.shape)) == (256, None, "a", 4)


def test_bool_has_two_levels(tmp_path):
    values = random_pixels((20, 5, 6), top=2).astype(bool)
    np.save(tmp_path / "a.npy", values)
    data = load(str(tmp_path / "a.npy"))
    assert data.levels == 2
    assert pixels_of(data) == as_bytes(values)
    assert load(str(tmp_path / "a.npy"), levels=256).levels == 256


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.zeros((9, 3, 5, 4), np.uint8), "channels first or last"),
        (np.zeros((9, 5, 6, 7), np.uint8), "without an axis of 1 to 4"),
        (np.zeros((9, 5), np.uint8), "images are .N, H, W."),
        (np.zeros((9, 5, 5), np.float32), r"is float32; .*save \(x\*255\).round\(\).astype\('uint8'\)"),
        (np.zeros((9, 5, 5), np.int64), r"is int64; .*x.astype\('uint8'\)"),
        (np.zeros((9, 5, 5), np.uint16), "is uint16"),
        (np.zeros((0, 5, 5), np.uint8), "has no pixels"),
        (np.zeros((9, 5, 0), np.uint8), "has no pixels"),
        (np.zeros((9, 5, 5), np.uint8), "only 1 distinct images"),
        (np.array([[{}]], dtype=object), "pickled Python objects, which are never read"),
        (np.zeros(3, dtype=[("x", "u1")]), "is "),
    ],
)
def test_other_arrays_are_refused_with_the_mend(tmp_path, values, match):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match=match) as caught:
        load(str(tmp_path / "a.npy"))
    assert str(caught.value).startswith(str(tmp_path / "a.npy"))
    assert "\n" not in str(caught.value)


def npy(header: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body


HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 4000, 4000), }\n"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (npy(HUGE, b"abc"), "claims 16000000000000 bytes of uint8, but there are 3"),
        (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -3, 1), }\n", b"abc"), "corrupt"),
        (npy("__import__('os').getcwd()\n"), "is not an array of numbers"),
        (npy("{"), "is not an array of numbers"),
        (b"\x93NUMPY\x09\x00", "is not an array of numbers"),
        (b"\x93NUMPY", "is not an array of numbers"),
    ],
)
def test_headers_that_lie(tmp_path, data, match):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(InputError, match=match) as caught:
        load(str(tmp_path / "a.npy"))
    assert "\n" not in str(caught.value)


def test_pixels_beyond_the_levels_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", random_pixels((9, 5, 5), top=2).astype(bool))
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[-1] = 7  # no bool
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(InputError, match="has a pixel of 7, but 2 levels"):
        load(str(tmp_path / "a.npy"))


IMAGES = random_pixels((20, 5, 6))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_and_labels(tmp_path, save):
    labels = np.array(["cat", "dog"])[np.arange(20) % 2]
    save(tmp_path / "a.npz", images=IMAGES, labels=labels, other=np.zeros(3))
    data = load(str(tmp_path / "a.npz"))
    owner = {image.tobytes(): label for image, label in zip(IMAGES, labels, strict=True)}
    assert [owner[image.numpy().tobytes()] for image in data.images] == [data.classes[label] for label in data.labels]
    assert (data.classes, data.notes) == (("cat", "dog"), ("not used: other",))


def test_train_and_test(tmp_path):
    labels = np.arange(20) % 3 + 4
    parts = {"x_train": IMAGES[:15], "y_train": labels[:15], "x_test": IMAGES[15:], "y_test": labels[15:]}
    np.savez(tmp_path / "a.npz", **parts)
    data = load(str(tmp_path / "a.npz"), holdout=0.2)
    assert np.array_equal(data.split("test")[:, 0].numpy(), IMAGES[15:])
    assert data.split_labels("test").tolist() == (labels[15:] - 4).tolist()
    assert data.classes == ("4", "5", "6")
    assert [len(data.split(name)) for name in ("train", "val")] == [9, 6]


def test_one_array(tmp_path):
    np.savez(tmp_path / "a.npz", IMAGES)
    assert pixels_of(load(str(tmp_path / "a.npz"))) == as_bytes(IMAGES)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"a": IMAGES, "b": IMAGES}, "has a, b; rename them to images"),
        ({}, "has no arrays"),
        ({"images": IMAGES, "labels": np.arange(19)}, "labels.*19 of type int64 for 20 images"),
        ({"images": IMAGES, "labels": np.zeros(20)}, "of type float64"),
        ({"images": IMAGES, "labels": np.array([{}] * 20)}, "pickled"),
        ({"x_train": IMAGES, "y_train": np.arange(20), "x_test": IMAGES}, "labels for some splits only"),
        ({"x_train": IMAGES, "x_test": IMAGES[:, 1:]}, r"differ in shape \(train 1x5x6, test 1x4x6\)"),
        ({"x_train": IMAGES, "x_test": IMAGES[:0]}, r"no pixels in test"),
    ],
)
def test_other_archives_are_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=match) as caught:
        load(str(tmp_path / "a.npz"))
    assert "\n" not in str(caught.value)


def test_damaged_archives(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES)
    whole = path.read_bytes()
    middle = whole.index(IMAGES[10].tobytes())
    for data in (whole[:-20], whole[:100], whole[:middle] + b"\0\1\2\3" + whole[middle + 4 :]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="truncated or corrupt"):
            load(str(path))


def test_a_member_that_claims_the_impossible(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", npy(HUGE, b"abc"))
    with pytest.raises(InputError, match="claims 16000000000000 bytes"):
        load(str(tmp_path / "a.npz"))
    buffer = io.BytesIO()
    np.savez(buffer, images=IMAGES)
    data = bytearray(buffer.getvalue())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 2**31)  # the directory's uncompressed size
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(InputError, match="claims 2147483648 bytes, which cannot be in"):
        load(str(tmp_path / "a.npz"))
