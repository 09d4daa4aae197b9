"""Images larger than memory: the same data set in a memory-mapped file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo.data import load, storage
from nelbo.errors import InputError


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shapes that went to the disk, which is in a folder of the test's own."""
    seen: list[tuple[int, ...]] = []
    mapped = storage.mapped

    def noted(shape: tuple[int, ...]) -> storage.Pixels:
        seen.append(shape)
        return mapped(shape)

    monkeypatch.setattr(storage, "mapped", noted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield seen
    assert [path for path in (tmp_path / "cache").rglob("*") if not path.is_dir()] == [], "a mapped file has no name"


def sources(folder: Path) -> list[str]:
    """The same 40 images as a folder of files, one of which is broken, and as an array."""
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    (folder / "files").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "files" / f"{i:02d}.png")
    whole = (folder / "files" / "07.png").read_bytes()
    (folder / "files" / "07.png").write_bytes(whole[: len(whole) // 2])
    return [str(folder / "images.npy"), str(folder / "files")]


@pytest.mark.parametrize("binarize", [False, True])
def test_mapped_images_are_the_same(
    tmp_path: Path, places: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, binarize: bool
) -> None:
    for spec in sources(tmp_path):
        before = load(spec, binarize=binarize, skip_bad=True)
        assert places == []
        with monkeypatch.context() as small:
            small.setattr(storage, "memory", lambda: 4 * 1000)
            after = load(spec, binarize=binarize, skip_bad=True)
        assert places
        places.clear()
        assert (after.sha256, after.bounds) == (before.sha256, before.bounds)
        assert torch.equal(after.images, before.images)
        assert torch.equal(after.images[torch.tensor([3, 1])], before.images[torch.tensor([3, 1])])


def test_images_of_one_bit_are_mapped_too(
    tmp_path: Path, places: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(30):
        Image.fromarray(np.random.default_rng(i).integers(0, 2, (9, 8)).astype(bool)).save(tmp_path / f"{i}.png")
    before = load(str(tmp_path))
    monkeypatch.setattr(storage, "memory", lambda: 4 * 100)
    after = load(str(tmp_path))
    assert places
    assert (after.levels, after.sha256) == (2, before.sha256)


def test_processes_of_one_machine_share_its_memory(
    places: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "memory", lambda: 8000)
    storage.allocate((2000,), "here")
    assert places == []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    storage.allocate((2000,), "here")
    assert places == [(2000,)]


def test_a_disk_without_room_is_said_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "memory", lambda: 1000)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"photos: 5x1000 bytes fit neither .* disk \(No space left .*cache"):
        storage.allocate((5, 1000), "photos")


def test_an_archive_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "big.npz", images=np.zeros((50, 8, 8), dtype=np.uint8))
    monkeypatch.setattr("nelbo.data.arrays.memory", lambda: 1000)
    with pytest.raises(InputError, match=r"does not fit into memory; save it as \.npy"):
        load(str(tmp_path / "big.npz"))
