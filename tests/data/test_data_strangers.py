"""Folders and arrays of other people: names, kinds, depths and ranges that nelbo did not choose."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from data_helpers import random_pixels, reading_notes, write_images
from PIL import Image

from nelbo.data import load
from nelbo.data.decode import AVIF, BadImageError, check_avif_depth
from nelbo.errors import InputError

IMAGES = random_pixels((30, 6, 5, 3))


def planes(images):
    return sorted(image.transpose(2, 0, 1).tobytes() for image in images)


def held(data, split):
    return sorted(image.numpy().tobytes() for image in data.split(split))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Train", "Dev", "Test"), ("Training", "valid", "Testing"), ("TRAIN", "eval", "TEST"), ("train", "dev", "test")],
)
def test_split_folders_by_any_usual_name(tmp_path, train, val, test):
    for name, some in ((train, IMAGES[:10]), (val, IMAGES[10:20]), (test, IMAGES[20:])):
        write_images(tmp_path / name / "a", some[:5])
        write_images(tmp_path / name / "b", some[5:])
    data = load(str(tmp_path))
    assert [held(data, split) for split in ("train", "val", "test")] == [
        planes(IMAGES[:10]),
        planes(IMAGES[10:20]),
        planes(IMAGES[20:]),
    ]
    assert data.classes == ("a", "b")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (
            ("train", "cats"),
            "has train beside cats, which can be splits or classes; to .* move cats away; to .* rename train",
        ),
        (("train", "Train"), "2 folders for the split train: Train, train; keep one"),
        (("train", "dev", "valid"), "2 folders for the split val: dev, valid; keep one, or rename"),
        (("test", "val"), "has test, val but no folder train, .*; to read them as splits, add a folder train"),
        (("set/train", "set/test"), "has test and train inside set, which would be mixed; use .*set"),
        (("cats/train", "cats/test", "dogs/train"), "inside cats"),
        (("train", "."), "has train beside 0.png"),
    ],
)
def test_folders_that_can_be_splits_or_classes_are_a_question(tmp_path, names, match):
    for row, name in enumerate(names):
        write_images(tmp_path / name, IMAGES[5 * row : 5 * row + 5])
    with pytest.raises(InputError, match=match) as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_images_are_known_by_content_and_the_rest_is_said(tmp_path):
    write_images(tmp_path / "a", IMAGES[:10])
    for row in range(4):
        (tmp_path / "a" / f"{row}.png").rename(tmp_path / "a" / f"{row}.oddity")
    for row in range(5):
        path = tmp_path / "jfif" / f"{row}.jfif"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(IMAGES[10 + row]).save(path, "JPEG")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "a" / "Python").write_text("P5 is how a PGM begins, and so may a text")
    data = load(str(tmp_path))
    assert (data.classes, len(data.images)) == (("a", "jfif"), 15)
    assert data.notes == ("no images in the folder b (1 .heic)", "ignored: 1 .heic, 1 without an extension")


def test_only_other_kinds_are_named_in_the_error(tmp_path):
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(InputError, match=r"has no images; .*ignored: 1 \.heic"):
        load(str(tmp_path))


@pytest.mark.skipif(not AVIF, reason="this Pillow does not read AVIF")
def test_avif_is_read_if_it_has_8_bits(tmp_path):
    for row in range(5):
        Image.fromarray(random_pixels((32, 32, 3), row)).save(tmp_path / f"{row}.bin", "AVIF")
    data = load(str(tmp_path))
    expected = [np.asarray(Image.open(path).convert("RGB")) for path in tmp_path.iterdir()]
    assert sorted(image.numpy().tobytes() for image in data.images) == planes(expected)
    deep = bytearray((tmp_path / "0.bin").read_bytes())
    deep[deep.index(b"av1C") + 6] |= 0x40
    with pytest.raises(BadImageError, match="more than 8 bits"):
        check_avif_depth(bytes(deep))


def test_what_systems_leave_behind_is_no_data(tmp_path):
    write_images(tmp_path / "a", IMAGES[:10])
    for name in ("@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", ".thumbnails", ".ipynb_checkpoints"):
        write_images(tmp_path / name, IMAGES[10:12])
    write_images(tmp_path / "a" / "@eaDir", IMAGES[12:14])
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / "a" / name).write_bytes(IMAGES.tobytes())
    data = load(str(tmp_path))
    assert (data.classes, len(data.images)) == (("a",), 10)
    (note,) = reading_notes(data)
    assert note.startswith("ignored: 2 @eaDir, 1 $RECYCLE.BIN, 1 .DS_Store")
    assert "1 Thumbs.db" in note
    assert "1 __MACOSX" in note


def grey_png(values, depth):
    """A PNG of grey samples of 1, 2 or 4 bits, written by hand."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bits = np.unpackbits(values[..., None], axis=-1)[..., -depth:].reshape(len(values), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_levels_come_from_the_bit_depth(tmp_path, depth):
    values = random_pixels((8, 5, 7), top=2**depth)
    for row, image in enumerate(values):
        (tmp_path / f"{row}.png").write_bytes(grey_png(image, depth))
    data = load(str(tmp_path))
    assert data.levels == 2**depth
    assert sorted(image.numpy().tobytes() for image in data.images) == sorted(image.tobytes() for image in values)


def test_a_pgm_states_its_levels(tmp_path):
    values = random_pixels((8, 5, 7), top=17)
    for row, image in enumerate(values):
        (tmp_path / f"{row}.pgm").write_bytes(b"P5 7 5 16\n" + image.tobytes())
    data = load(str(tmp_path))
    assert data.levels == 17
    assert sorted(image.numpy().tobytes() for image in data.images) == sorted(image.tobytes() for image in values)


def test_mixed_bit_depths_are_said(tmp_path):
    two, four = random_pixels((4, 5, 7), 1, top=4), random_pixels((4, 5, 7), 2, top=16)
    for row in range(4):
        (tmp_path / f"two{row}.png").write_bytes(grey_png(two[row], 2))
        (tmp_path / f"four{row}.png").write_bytes(grey_png(four[row], 4))
    data = load(str(tmp_path))
    assert data.levels == 16
    assert data.notes[0].startswith("images differ in bit depth (4 of 4 levels, 4 of 16 levels): all are read as 16")
    expected = sorted(image.tobytes() for image in [*(two * 5), *four])
    assert sorted(image.numpy().tobytes() for image in data.images) == expected


def test_samples_come_back_with_their_levels(tmp_path):
    samples = random_pixels((20, 8, 6, 1), top=17)
    np.savez_compressed(tmp_path / "a.npz", images=samples, levels=np.int64(17))
    data = load(str(tmp_path / "a.npz"))
    assert (data.levels, reading_notes(data)) == (17, ())
    np.savez_compressed(tmp_path / "a.npz", images=samples, levels=np.int64(300))
    with pytest.raises(InputError, match=r"\(levels\): is 300, not an integer from 2 to 256"):
        load(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("save", [lambda path, x: np.save(path, x), lambda path, x: np.savez(path, images=x)])
@pytest.mark.parametrize(
    ("shape", "match"),
    [
        (
            (48, 64, 3),
            r"48 grey images of 64x3 \(`layout` nhw\) or one image of 48x64 with 3 channels \(`layout` hwc\)",
        ),
        ((3, 48, 64), r"3 grey images of 48x64 \(`layout` nhw\) or one image of 48x64 with 3 .*\(`layout` chw\)"),
    ],
)
def test_three_axes_that_can_be_one_photo_are_a_question(tmp_path, shape, match, save):
    values = random_pixels(shape)
    with (tmp_path / "a").open("wb") as stream:
        save(stream, values)
    with pytest.raises(InputError, match=match):
        load(str(tmp_path / "a"))
    if shape[0] > 3:
        data = load(str(tmp_path / "a"), layout="nhw")
        assert sorted(image.numpy().tobytes() for image in data.images) == sorted(image.tobytes() for image in values)
    with pytest.raises(InputError, match="has 1 images"):
        load(str(tmp_path / "a"), layout="hwc" if shape[2] == 3 else "chw")


def test_layout_decides_four_axes_too(tmp_path):
    values = random_pixels((9, 3, 5, 4))
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match=r"add `layout` nchw\|nhwc"):
        load(str(tmp_path / "a.npy"))
    assert load(str(tmp_path / "a.npy"), layout="nchw").shape == (3, 5, 4)
    assert load(str(tmp_path / "a.npy"), layout="nhwc").shape == (4, 3, 5)
    with pytest.raises(InputError, match=r"^layout: nhw has 3 axes, but .*a.npy has 4"):
        load(str(tmp_path / "a.npy"), layout="nhw")
    with pytest.raises(InputError, match=r"^layout: input should be 'nhw', .* not 'nhcw'"):
        load(str(tmp_path / "a.npy"), layout="nhcw")


GREY = random_pixels((30, 6, 5))
LABELS = np.arange(30)[:, None] % 3


def test_medmnist(tmp_path):
    cuts = {"train": slice(0, 20), "val": slice(20, 25), "test": slice(25, 30)}
    arrays = {f"{split}_images": GREY[rows] for split, rows in cuts.items()}
    np.savez(tmp_path / "a.npz", **arrays, **{f"{split}_labels": LABELS[rows] for split, rows in cuts.items()})
    data = load(str(tmp_path / "a.npz"))
    for split, rows in cuts.items():
        assert np.array_equal(data.split(split)[:, 0].numpy(), GREY[rows])
        assert data.split_labels(split).tolist() == LABELS[rows, 0].tolist()
    assert data.notes == ()


@pytest.mark.parametrize(
    ("arrays", "classes", "notes"),
    [
        ({"faces": GREY, "mean": np.zeros(3)}, (), ("not used: mean",)),
        ({"arr_0": GREY, "arr_1": LABELS}, ("0", "1", "2"), ()),
        ({"arr_0": GREY, "arr_1": np.zeros(3)}, (), ("not used: arr_1",)),
        ({"X": GREY, "y": LABELS[:, 0]}, ("0", "1", "2"), ()),
        ({"faces": GREY, "targets": LABELS[:, 0]}, ("0", "1", "2"), ()),
    ],
)
def test_one_array_of_images_among_others(tmp_path, arrays, classes, notes):
    np.savez(tmp_path / "a.npz", **arrays)
    data = load(str(tmp_path / "a.npz"))
    assert sorted(image.numpy().tobytes() for image in data.images) == sorted(image.tobytes() for image in GREY)
    assert (data.classes, data.notes) == (classes, notes)
    if classes:
        owner = {image.tobytes(): str(label) for image, label in zip(GREY, LABELS[:, 0], strict=True)}
        assert [owner[image.numpy().tobytes()] for image in data.images] == [classes[k] for k in data.labels]


def test_two_keys_for_one_split_are_a_question(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=GREY, train_images=GREY, x_test=GREY)
    with pytest.raises(InputError, match="two arrays for the images of train: train_images, x_train; keep one"):
        load(str(tmp_path / "a.npz"))


RAMP = np.linspace(0, 1, 30 * 6 * 5).reshape(30, 6, 5)
RANGES = {
    "[0, 1]": RAMP.astype(np.float32),
    "[-1, 1]": (2 * RAMP - 1).astype(np.float32),
    "0 to 255 as float": (255 * RAMP).astype(np.float64),
    "uint16": (65535 * RAMP).astype(np.uint16),
    "12 bits": (4095 * RAMP).astype(np.uint16),
    "int8": (255 * RAMP - 128).round().astype(np.int8),
    "standardised": ((RAMP - 0.5) * 5.2).astype(np.float32),
    "int64": (255 * RAMP).round().astype(np.int64),
}


@pytest.mark.parametrize("name", RANGES)
def test_advice_is_right_when_followed(tmp_path, name):
    x = RANGES[name]
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(InputError) as caught:
        load(str(tmp_path / "a.npy"))
    call = str(caught.value).partition(" save ")[2].partition(", or undo")[0]
    np.save(tmp_path / "a.npy", eval(call, {"x": x, "float": float}))
    images = load(str(tmp_path / "a.npy")).images.numpy().astype(int)
    in_order = images[np.argsort(images.sum(axis=(1, 2, 3)))][:, 0]
    assert np.abs(in_order - 255 * RAMP).max() <= 1  # of 255: from rounding twice


def test_float_pixels_of_two_values_become_bool(tmp_path):
    x = random_pixels((30, 6, 5), top=2).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(InputError, match=r"save x.astype\(bool\)"):
        load(str(tmp_path / "a.npy"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_advice_for_what_is_no_number(tmp_path, bad):
    x = RANGES["[0, 1]"].copy()
    x[3, 2, 1] = bad
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(InputError, match="NaN or infinite") as caught:
        load(str(tmp_path / "a.npy"))
    call = str(caught.value).partition("(")[2].rpartition(")")[0]
    assert np.array_equal(eval(call, {"x": x, "numpy": np, "tuple": tuple, "range": range}), np.delete(x, 3, axis=0))


@pytest.mark.parametrize("top", [1, 15])
def test_few_levels_are_said_and_the_mend_works(tmp_path, top):
    np.save(tmp_path / "a.npy", random_pixels((30, 6, 5), top=top + 1))
    data = load(str(tmp_path / "a.npy"))
    assert data.levels == 256
    assert data.notes[0].startswith(f"no pixel is above {top}, but bits/dim count 256 levels")
    assert data.notes[0].endswith(f"add `levels` {top + 1}")
    assert load(str(tmp_path / "a.npy"), levels=top + 1).notes == ()


def test_two_values_far_apart_are_said_and_the_mend_works(tmp_path):
    bits = random_pixels((30, 6, 5), top=2)
    np.save(tmp_path / "a.npy", bits * 255)
    assert load(str(tmp_path / "a.npy")).notes[0].startswith("every pixel is 0 or 255, but bits/dim count 256 levels")
    data = load(str(tmp_path / "a.npy"), binarize=True)
    assert data.levels == 2
    assert sorted(image.numpy().tobytes() for image in data.images) == sorted(image.tobytes() for image in bits)


@pytest.mark.parametrize(
    ("train", "test"), [("train_set", "test_set"), ("Train Images", "Test Images"), ("train2017", "TEST-2017")]
)
def test_a_split_is_known_with_what_it_holds_in_its_name(tmp_path, train, test):
    write_images(tmp_path / train / "a", IMAGES[:12])
    write_images(tmp_path / test / "a", IMAGES[12:15])
    data = load(str(tmp_path))
    assert (data.classes, len(data.split("test"))) == (("a",), 3)


def test_a_class_of_test_tubes_is_no_split(tmp_path):
    write_images(tmp_path / "test tube", IMAGES[:12])
    write_images(tmp_path / "flask", IMAGES[12:])
    assert load(str(tmp_path)).classes == ("flask", "test tube")
