"""Folders: layouts, labels, sizes, channels, and bad files among good ones."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from data_helpers import random_pixels, reading_notes, write_images
from PIL import Image

from nelbo.data import SPLITS, load
from nelbo.errors import InputError

IMAGES = random_pixels((12, 3, 4, 3))


def as_sets(data):
    return {name: sorted(image.numpy().tobytes() for image in data.split(name)) for name in SPLITS}


def bytes_of(images):
    return sorted(image.transpose(2, 0, 1).tobytes() for image in images)


def test_a_flat_folder(tmp_path):
    write_images(tmp_path, IMAGES)
    (tmp_path / ".hidden.png").write_bytes(b"not an image")
    (tmp_path / "notes.txt").write_text("nor this")
    data = load(str(tmp_path))
    assert sorted(image.numpy().tobytes() for image in data.images) == bytes_of(IMAGES)
    assert (data.labels, data.classes, data.levels, data.shape) == (None, (), 256, (3, 3, 4))
    assert data.notes == ("ignored: 1 .txt, 1 hidden",)
    assert (data.name, data.spec) == (tmp_path.name, str(tmp_path))


def test_class_folders(tmp_path):
    write_images(tmp_path / "b", IMAGES[:6])
    write_images(tmp_path / "a" / "deeper", IMAGES[6:])
    (tmp_path / "empty").mkdir()
    data = load(str(tmp_path))
    assert data.classes == ("a", "b")
    owner = {image.transpose(2, 0, 1).tobytes(): "ba"[row >= 6] for row, image in enumerate(IMAGES)}
    labels = [owner[image.numpy().tobytes()] for image in data.images]
    assert [data.classes[label] for label in data.labels] == labels


def test_images_beside_subfolders_are_no_classes_and_it_is_said(tmp_path):
    write_images(tmp_path, IMAGES[:6])
    write_images(tmp_path / "more", IMAGES[6:])
    data = load(str(tmp_path))
    assert len(data.images) == 12
    assert data.labels is None
    assert "no labels" in data.notes[0]


def test_split_folders_are_the_splits(tmp_path):
    rows = {"train": slice(0, 6), "validation": slice(6, 9), "test": slice(9, 12)}
    for name, some in rows.items():
        for row in range(some.start, some.stop):
            write_images(tmp_path / name / f"class{row % 2}", IMAGES[row : row + 1], f"{row}.png")
    data = load(str(tmp_path))
    assert as_sets(data) == {
        "train": bytes_of(IMAGES[:6]),
        "val": bytes_of(IMAGES[6:9]),
        "test": bytes_of(IMAGES[9:]),
    }
    assert data.classes == ("class0", "class1")
    assert data.split_labels("test").tolist() == [0, 1, 1]


def test_a_missing_val_is_held_out_of_train(tmp_path):
    write_images(tmp_path / "train", IMAGES[:10])
    write_images(tmp_path / "test", IMAGES[9:])
    data = load(str(tmp_path), holdout=0.2)
    sets = as_sets(data)
    assert sets["test"] == bytes_of(IMAGES[9:])
    assert sorted(sets["train"] + sets["val"]) == bytes_of(IMAGES[:10])
    assert len(sets["val"]) == 2
    assert data.notes[0] == "1 of the 3 images of test are also in train"
    assert data.notes[1].startswith("val held out of train")


def test_files_are_taken_in_natural_order(tmp_path):
    for name in SPLITS:
        write_images(tmp_path / name, IMAGES, "image{}.png")
    assert np.array_equal(load(str(tmp_path)).split("val").numpy(), IMAGES.transpose(0, 3, 1, 2))


def test_one_bit_images_have_two_levels_only_together(tmp_path):
    bits = random_pixels((6, 3, 5), top=2).astype(bool)
    write_images(tmp_path, bits)
    data = load(str(tmp_path))
    assert data.levels == 2
    assert sorted(i.tobytes() for i in data.images.numpy()) == sorted(i.astype(np.uint8).tobytes() for i in bits)
    assert load(str(tmp_path), size=(6, 9), fit="resize").images.unique().tolist() == [0, 1]
    Image.fromarray(random_pixels((3, 5))).save(tmp_path / "grey.png")
    data = load(str(tmp_path))
    assert data.levels == 256
    assert int((data.images == 255).sum()) >= bits.sum()


def test_different_sizes_name_two_files_and_the_mend(tmp_path):
    write_images(tmp_path, IMAGES)
    write_images(tmp_path, random_pixels((1, 7, 5, 3)), "zebra.png")
    with pytest.raises(InputError, match=r"0.png is 3x4 and zebra.png is 7x5; add `size` HxW `fit` crop\|pad\|resize"):
        load(str(tmp_path))
    with pytest.raises(InputError, match=r"^fit: images of 3x4 do not have the size 6x6; add `fit`"):
        load(str(tmp_path), size=(6, 6))
    data = load(str(tmp_path), size=(6, 6), fit="pad")
    assert data.shape == (3, 6, 6)
    assert data.notes == ("sizes converted to 6x6 by `fit` pad",)


def test_different_channels_name_files_and_the_mend(tmp_path):
    write_images(tmp_path, IMAGES)
    write_images(tmp_path, random_pixels((1, 3, 4)), "grey.png")
    with pytest.raises(InputError, match=r"0.png has 3 and grey.png has 1; add `channels` 1\|3"):
        load(str(tmp_path))
    assert reading_notes(load(str(tmp_path), channels=3)) == ("channels converted from 1 to 3",)
    write_images(tmp_path, random_pixels((1, 3, 4, 4)), "alpha.png")
    assert reading_notes(load(str(tmp_path), channels=1)) == ("channels converted from 3 and 4 to 1; alpha removed",)


def test_bad_images_stop_unless_they_may_be_skipped(tmp_path):
    paths = write_images(tmp_path, random_pixels((20, 30, 30)))
    paths[3].write_bytes(paths[3].read_bytes()[:-300])  # its header is good
    paths[7].write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"7.png: is not an image of a known format; or add `skip_bad`"):
        load(str(tmp_path))
    data = load(str(tmp_path), skip_bad=True)
    good = [np.asarray(Image.open(path)).tobytes() for row, path in enumerate(paths) if row not in (3, 7)]
    assert sorted(image.numpy().tobytes() for image in data.images) == sorted(good)
    (note,) = reading_notes(data)
    assert re.match("skipped 2 of 20 images: 7.png is not an image.*; 3.png is truncated", note)
    paths[7].unlink()
    with pytest.raises(InputError, match=r"3.png: is truncated or corrupt .*; or add `skip_bad`"):
        load(str(tmp_path))


def test_skipping_keeps_labels_in_step(tmp_path):
    write_images(tmp_path / "a", IMAGES[:6])
    bad, *_ = write_images(tmp_path / "a", IMAGES[:1], "bad.png")
    bad.write_bytes(bad.read_bytes()[:-30])
    write_images(tmp_path / "b", IMAGES[6:])
    data = load(str(tmp_path), skip_bad=True)
    first = set(bytes_of(IMAGES[:6]))
    assert [image.numpy().tobytes() in first for image in data.images] == (data.labels == 0).tolist()


def test_nothing_but_bad_images(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"^skip_bad: no image .* can be read"):
        load(str(tmp_path), skip_bad=True)


def test_too_few_or_no_images(tmp_path):
    with pytest.raises(InputError, match=r"has no images; files ending in .*bmp, .*gif, .*png"):
        load(str(tmp_path))
    write_images(tmp_path, IMAGES[:2])
    with pytest.raises(InputError, match="has 2 images"):
        load(str(tmp_path))


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        load(str(tmp_path))


def test_links_in_a_circle_end(tmp_path):
    write_images(tmp_path / "a", IMAGES)
    os.symlink(tmp_path, tmp_path / "a" / "up", target_is_directory=True)
    assert len(load(str(tmp_path)).images) == 12


def test_a_bar_is_drawn_on_stderr_only(tmp_path, capfd, monkeypatch):
    write_images(tmp_path, IMAGES)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    load(str(tmp_path))
    assert capfd.readouterr().out == ""
