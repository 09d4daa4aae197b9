"""Valid SPECs, and the errors for invalid ones."""

from __future__ import annotations

import subprocess
import sys

import pytest
from data_helpers import random_pixels, write_images

from nelbo.data import NAMES, load
from nelbo.errors import InputError


def test_names():
    assert NAMES == ("digits", "mnist", "fashion-mnist", "cifar10")


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("mnits", "'mnits' is neither a name nor a path; did you mean 'mnist'"),
        ("/nowhere/at/all", ".*give an existing path"),
        ("", "'' is neither a name nor a path"),
    ],
)
def test_nothing_of_that_name(spec, match):
    with pytest.raises(InputError, match=f"^data: {match}"):
        load(spec)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.txt", b"hello", "is of an unknown kind"),
        ("a.npy", b"\x80\x04\x95 a pickle", "is of an unknown kind"),
        ("a", b"", "is of an unknown kind"),
    ],
)
def test_files_of_other_kinds(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=match):
        load(str(tmp_path / name))


def test_a_single_image_is_not_a_folder(tmp_path):
    (path,) = write_images(tmp_path, random_pixels((1, 3, 3)))
    with pytest.raises(InputError, match="is a single image; use the folder"):
        load(str(path))


def test_a_path_may_begin_at_home_and_a_name_wins(tmp_path, monkeypatch):
    write_images(tmp_path / "digits", random_pixels((9, 3, 3)))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load("~/digits").shape == load("./digits").shape == (1, 3, 3)
    assert load("digits").shape == (1, 8, 8)


def test_import_is_light():
    code = "import sys, nelbo.data; print({'sklearn', 'rich', 'datasets', 'platformdirs'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
