"""``nelbo compress`` and ``decompress``: what was given comes back, and nothing is lost by any failure."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from machine_helpers import call, call_well, environment, listing, require_refusal
from PIL import Image
from torch import nn

import nelbo
from nelbo.codec import chunks
from nelbo.codec.archive import Archive, ArchiveWriter, Table
from nelbo.codec.container import APART, CHUNK, HEAD, TABLE
from nelbo.errors import InputError
from nelbo.jobs import codec_crew, codec_model, codec_plan, codec_worker, compress, compress_job, decompress_chunks
from nelbo.report.compressed import Compression
from nelbo.studio.held import HeldRun
from nelbo.studio.safety import Folders
from nelbo.training.folders import all_checkpoints, folder_of, thin


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vae on digits. Only to be read."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    call_well("train", "vae", "--steps", "60", "--latent", "4", "--batch-size", "16", "--out", out, "--device", "cpu")
    return out


@pytest.fixture(scope="module")
def digits(vae_run: Path) -> np.ndarray:
    """The test images, shape (n, 8, 8)."""
    return nelbo.Run(vae_run).dataset.split("test").numpy()[:, 0]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers in this process, which start at once."""

    def make(opening: dict[str, Any], threads: int, core: int | None, shape: tuple[int, ...]) -> codec_crew.Here:
        return codec_crew.Here(codec_worker.opened(opening), 1)

    monkeypatch.setattr(compress_job, "Worker", make)
    monkeypatch.setattr(decompress_chunks, "Worker", make)
    monkeypatch.setattr(compress_job, "usable_lanes", lambda: 1)
    monkeypatch.setattr(decompress_chunks, "usable_lanes", lambda: 1)


def answer_of(found: Compression) -> str:
    """What the terminal has of these facts."""
    return "".join(f"{value}\n" for value in found.lines().values())


def grey(levels: np.ndarray) -> np.ndarray:
    """17 levels as 0 … 255."""
    return (levels.astype(np.uint16) * 255 // 16).astype(np.uint8)


def write_folder(folder: Path, digits: np.ndarray, count: int = 150) -> Path:
    """A folder of images of several kinds and with odd names."""
    (folder / "sub dir" / "é").mkdir(parents=True)
    for k in range(count):
        Image.fromarray(grey(digits[k])).save(folder / f"{k}.png")
    Image.fromarray(grey(digits[0])).convert("RGB").save(folder / "sub dir" / "rgb.png")
    palette = Image.fromarray(digits[1]).convert("P")
    palette.putpalette(np.repeat(np.arange(17) * 255 // 16, 3).astype(np.uint8).tobytes())
    palette.save(folder / "sub dir" / "é" / "palette.png")
    Image.fromarray(grey(digits[2])).save(folder / "2.bmp")
    Image.fromarray(grey(digits[3])).save(folder / "2.bmp.png")
    Image.fromarray(digits[4].astype(np.uint16) * 4000).save(folder / "deep.png")
    Image.fromarray(np.full((9, 30, 3), 7, np.uint8)).save(folder / "wide.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "new\nline.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "notes.txt").write_text("not an image")
    if sys.platform == "linux":
        (folder / os.fsdecode(b"\xff.png")).write_bytes((folder / "1.png").read_bytes())
    return folder


def pictures(folder: Path) -> dict[str, tuple[Any, ...]]:
    """The name of each file of a folder → its mode, size, pixels and palette, or its bytes if it cannot be decoded."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".txt":
            try:
                with Image.open(path) as image:
                    own = (image.mode, image.size, image.tobytes(), image.getpalette())
            except OSError:
                own = (path.read_bytes(),)
            found[path.relative_to(folder).as_posix()] = own
    return found


def test_a_folder_comes_back(vae_run: Path, digits: np.ndarray, here: Path) -> None:
    """By other processes: names, pixels, modes, palettes; a .bmp as .png, beside one that has this name already."""
    folder = write_folder(here / "given", digits)
    before = listing(folder)
    answer = call_well("compress", vae_run, folder, "--out", "x.nelbo")
    assert answer.out.strip() == "x.nelbo"
    assert listing(folder) == before
    for words in ("deep.png", "more than 8 bits", "not 8×8", "truncated", "1 .txt", "whole file", "with initial bits"):
        assert words in answer.err
    call_well("decompress", vae_run, "x.nelbo", "--out", "back")
    given, back = pictures(folder), pictures(here / "back")
    assert back.pop("2.bmp-2.png") == given.pop("2.bmp")
    assert back == given
    assert not list(here.glob(".writing*"))


@pytest.mark.usefixtures("alone")
def test_the_file_weighs_what_is_said(vae_run: Path, here: Path) -> None:
    """Every byte is in a part, and the fields are those of the schema."""
    answer = call_well("compress", vae_run, "digits", "--split", "test", "--bounds", "--json", "--out", "x.nelbo")
    found = Compression.model_validate_json(answer.out)
    assert found.bytes == Path("x.nelbo").stat().st_size == sum(found.parts.values())
    assert (found.images, found.by_model + found.plain, found.data, found.split) == (359, 359, "digits", "test")
    assert found.bits_per_dim == pytest.approx(8 * found.bytes / (359 * 64))
    assert found.bounds is not None
    assert found.model_bits_per_dim == pytest.approx(found.bounds.own, rel=0.03)
    info = json.loads(call_well("info", "x.nelbo", "--json").out)
    assert {**json.loads(answer.out), "seconds": None} == {**info, "seconds": None}
    assert f"{359 / found.encode_seconds:.1f} images in each processor second of encoding" in answer_of(found)
    assert f", {found.chunks} chunk{'' if found.chunks == 1 else 's'}\n" in answer_of(found)
    text = call_well("info", "x.nelbo").out
    for words in ("own bound", "by the model", "whole file", "they pay", "xz of all pixels"):
        assert words in text
    assert nelbo.info("x.nelbo")["bytes"] == found.bytes


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("split", ["test", "all"])
def test_a_data_set_comes_back_with_its_labels(split: str, vae_run: Path, here: Path) -> None:
    call_well("compress", vae_run, "digits", "--split", split, "--limit", "200", "--out", "x.nelbo")
    call_well("decompress", vae_run, "x.nelbo", "--out", "x.npz")
    data = nelbo.Run(vae_run).dataset
    images, labels = data.split(split)[:, 0].numpy(), data.split_labels(split)
    assert labels is not None
    rows = (np.arange(len(images)) if split == "test" else np.argsort(data.sources))[:200]
    with np.load("x.npz") as found:
        assert np.array_equal(found["images"], images[rows])
        assert found["levels"] == 17
        assert found["labels"].tolist() == [data.classes[k] for k in labels.numpy()[rows]]
    if split == "test":
        call_well("decompress", vae_run, "x.nelbo", "--out", "folder")
        assert len(list(Path("folder", "3").iterdir())) == int((labels[:200] == 3).sum())


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("options", "word"), [(["--binarize"], "binarised"), (["--size", "4x4"], "converted")])
def test_data_that_the_run_changes_are_said(options: list[str], word: str, here: Path) -> None:
    """The file has what the run was trained on, which is not what the source has."""
    more = ["--fit", "resize"] if "--size" in options else []
    run = train_tiny_of("vae", here / "run", "--latent", "4", *options, *more)
    answer = call_well("compress", run, "digits", "--split", "test", "--limit", "40", "--out", "x.nelbo")
    assert f"the file has the {word} images, not the originals" in answer.err
    assert f"the file has the {word} images, not the originals" in call_well("info", "x.nelbo").out
    back = nelbo.decompress(run, "x.nelbo")
    assert np.array_equal(back.images, nelbo.Run(run).dataset.split("test")[:40])


@pytest.mark.usefixtures("alone")
def test_all_notes_of_the_data_are_said(vae_run: Path, digits: np.ndarray, here: Path) -> None:
    np.savez("given.npz", images=digits[:40], levels=np.int64(17), angles=np.zeros(40))
    assert any("not used: angles" in note for note in nelbo.compress(vae_run, "given.npz", "x.nelbo").notes)


@pytest.mark.usefixtures("alone")
def test_an_array_comes_back_in_its_order(vae_run: Path, digits: np.ndarray, here: Path) -> None:
    """Not in that of the splits, which a hash makes."""
    np.save("given.npy", digits[:120])
    call_well("compress", vae_run, "given.npy", "--out", "x.nelbo")
    call_well("decompress", vae_run, "x.nelbo", "--out", "back.npy")
    assert np.array_equal(np.load("back.npy"), digits[:120])


@pytest.mark.usefixtures("alone")
def test_of_single_images_only_their_chunks_are_decoded(
    vae_run: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_plan, "MOST_IMAGES", 50)
    found = nelbo.compress(vae_run, digits[:120], "x.nelbo", each=True, labels=["a", "b"] * 60)
    assert found.each
    assert found.chunks == 3
    right, decoded = chunks.decode_chunk, list[int]()

    def counted(payload: bytes, shape: Any, coder: Any, step: Any = id) -> np.ndarray:
        decoded.append(chunks.head_of(payload).first)
        return right(payload, shape, coder, step)

    monkeypatch.setattr(codec_worker, "decode_chunk", counted)
    back = nelbo.decompress(vae_run, "x.nelbo", indices=[3, 77])
    assert decoded == [0, 40]
    assert back.rows == [3, 77]
    assert np.array_equal(back.images[:, 0], digits[[3, 77]])
    assert back.labels is not None
    assert back.labels[3] == "b"
    with pytest.raises(InputError, match="120 is not the number of an image"):
        nelbo.decompress(vae_run, "x.nelbo", indices=[120])


@pytest.mark.usefixtures("alone")
def test_a_chunk_that_does_not_come_back_is_stored_without_the_model(
    vae_run: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the coder decodes other images, or fails."""
    right = chunks.decode_chunk

    def wrong(payload: bytes, shape: Any, coder: Any, step: Any = id) -> np.ndarray:
        found = right(payload, shape, coder, step)
        if chunks.head_of(payload).first:
            raise chunks.DamagedChunkError("planted")
        return found ^ 1

    monkeypatch.setattr(codec_plan, "MOST_IMAGES", 60)
    monkeypatch.setattr(codec_plan, "WASTE", 1.0)
    with monkeypatch.context() as planted:
        planted.setattr(codec_worker, "decode_chunk", wrong)
        found = nelbo.compress(vae_run, digits[:120], "x.nelbo")
    assert (found.by_model, found.plain, found.chunks) == (0, 120, 2)
    assert sum("did not come back" in note for note in found.notes) == 2
    assert np.array_equal(nelbo.decompress(vae_run, "x.nelbo").images[:, 0], digits[:120])


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("count", [5, 50, 120])
def test_no_chunk_has_more_images_than_a_file_may_have(
    count: int, lanes: int, vae_run: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether images are all plain, or chunks are as many as lanes."""
    monkeypatch.setattr(chunks, "MOST_IMAGES", 30)
    monkeypatch.setattr(compress_job, "usable_lanes", lambda: lanes)
    for images in (digits[:count], np.zeros((count, 8, 8), np.uint8)):
        Path("x.nelbo").unlink(missing_ok=True)
        found = nelbo.compress(vae_run, images, "x.nelbo")
        assert (found.images, found.problems) == (count, [])
        assert np.array_equal(nelbo.decompress(vae_run, "x.nelbo").images[:, 0], images)


@pytest.mark.usefixtures("alone")
def test_a_file_that_cannot_be_read_back_is_not_kept(
    vae_run: Path, digits: np.ndarray, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress_job, "planned", lambda images, *_: ([0, 30, len(images)], 1))
    monkeypatch.setattr(chunks, "MOST_IMAGES", 40)
    with pytest.raises(OSError, match="90 of 120 images cannot be decoded"):
        nelbo.compress(vae_run, digits[:120], "x.nelbo")
    assert list(here.iterdir()) == []


@pytest.mark.usefixtures("alone")
def test_chunks_without_the_model_are_no_initial_bits(
    vae_run: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of zeros, which takes a few bytes without the model, after one of digits."""
    monkeypatch.setattr(codec_plan, "MOST_IMAGES", 300)
    monkeypatch.setattr(codec_plan, "WASTE", 1.0)
    images = np.concatenate([digits[:300], np.zeros((300, 8, 8), np.uint8)])
    found = nelbo.compress(vae_run, images, "x.nelbo")
    assert found.chunks == 2
    assert 0 < found.parts["plain"] < 200
    assert found.plain > 300
    rates = (found.model_bits_per_dim, found.initial_bits_per_dim, found.plain_bits_per_dim)
    assert sum(rates) + found.container_bits_per_dim == pytest.approx(found.bits_per_dim)  # type: ignore[arg-type, operator]
    assert found.plain_bits_per_dim == pytest.approx(-found.model_bits_per_dim / 2, rel=0.05)  # type: ignore[operator]
    assert "with plain chunks" in found.lines()


@pytest.mark.usefixtures("alone")
def test_a_poor_model_is_not_used(digits: np.ndarray, here: Path) -> None:
    """Its chunk is less than half of the levels' bytes, but more than xz or WebP."""
    run = train_tiny_of("vae", here / "run", "--latent", "4")
    found = nelbo.compress(run, digits, "x.nelbo")
    assert found.by_model == 0
    assert "shorter without the model" in found.notes[0]


@pytest.mark.usefixtures("alone")
def test_a_chain_of_few_steps_has_fewer_by_default(
    digits: np.ndarray, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress_job, "may_be_shorter", lambda *_: False)
    run = train_tiny_of("ddpm", here / "run", "--timesteps", "5", "--widths", "8", "8")
    found = nelbo.compress(run, digits[:150], "x.nelbo")
    assert found.steps == 5
    assert found.by_model > 0
    assert np.array_equal(nelbo.decompress(run, "x.nelbo").images[:, 0], digits[:150])
    require_refusal("compress RUN digits --steps 6 --out y", {"RUN": run}, ["--steps", "6 are more than 5"], here)


@pytest.mark.usefixtures("alone")
def test_noise_is_not_made_larger(vae_run: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 17, (300, 1, 8, 8), dtype=np.uint8)
    found = nelbo.compress(vae_run, noise, "x.nelbo")
    assert found.by_model == 0
    assert set(found.parts) & {"initial", "model"} == set()
    assert found.parts["plain"] > found.bytes / 2
    assert "shorter without the model" in found.notes[0]
    assert torch.equal(nelbo.decompress(vae_run, "x.nelbo").images, torch.from_numpy(noise))


@pytest.fixture
def damaged(vae_run: Path, digits: np.ndarray, alone: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose second chunk, of images 60 to 119, has a flipped bit."""
    monkeypatch.setattr(codec_plan, "MOST_IMAGES", 60)
    monkeypatch.setattr(codec_plan, "WASTE", 1.0)
    nelbo.compress(vae_run, digits[:180], "x.nelbo")
    path = Path("x.nelbo")
    with Archive(path) as archive:
        at = archive.container.of(CHUNK)[1].place + HEAD.size + 200
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    return path


def test_of_a_damaged_file_the_other_images_come_back(damaged: Path, vae_run: Path, digits: np.ndarray) -> None:
    answer = call("decompress", vae_run, damaged, "--out", "back")
    assert answer.code == 1
    assert answer.err.strip().splitlines()[-1].endswith("images 60 to 119 of 180 are lost")
    assert len(list(Path("back").iterdir())) == 120
    for k in (0, 59, 120, 179):
        assert np.array_equal(np.asarray(Image.open(f"back/{k:06d}.png")), grey(digits[k]))
    with pytest.raises(InputError, match="60 to 119 of 180 are lost"):
        nelbo.decompress(vae_run, damaged)
    found = nelbo.decompress(vae_run, damaged, partial=True)
    assert found.lost == list(range(60, 120))
    text = call_well("info", damaged).out
    assert "60 of 180 images cannot be decoded" in text
    assert "bits/dim" not in text


def spoil(path: Path, tag: bytes) -> None:
    """Flip a bit of the first block with this tag."""
    with Archive(path) as archive:
        at = archive.container.of(tag)[0].place + HEAD.size + 9
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.mark.usefixtures("alone")
def test_lost_names_and_labels_are_said(vae_run: Path, digits: np.ndarray, here: Path) -> None:
    """The images come back, by their numbers, and the exit code is that of damage."""
    nelbo.compress(vae_run, digits[:40], "x.nelbo", labels=["a", "b"] * 20)
    spoil(Path("x.nelbo"), TABLE)
    code, out, error = call("decompress", vae_run, "x.nelbo", "--out", "back.npz")
    assert (code, out.strip()) == (1, "back.npz")
    assert error.strip().splitlines()[-1].endswith("names, labels and kinds of images are lost")
    with np.load("back.npz") as found:
        assert np.array_equal(found["images"], digits[:40])
    with pytest.raises(InputError, match="names, labels and kinds of images are lost"):
        nelbo.decompress(vae_run, "x.nelbo")
    assert nelbo.decompress(vae_run, "x.nelbo", partial=True, indices=[3]).unnamed


@pytest.mark.usefixtures("alone")
def test_numbers_that_nobody_knows_are_refused(vae_run: Path, digits: np.ndarray, here: Path) -> None:
    """Where images apart and the table are lost, the images after them have other numbers."""
    (here / "in").mkdir()
    for k in range(3):
        Image.fromarray(grey(digits[k])).save(here / "in" / f"{k}.png")
    Image.fromarray(np.full((9, 30), 7, np.uint8)).save(here / "in" / "00.png")
    nelbo.compress(vae_run, "in", "x.nelbo")
    assert list(nelbo.decompress(vae_run, "x.nelbo").apart) == [1]
    spoil(Path("x.nelbo"), APART)
    assert np.array_equal(nelbo.decompress(vae_run, "x.nelbo", indices=[2]).images[0, 0], digits[1])
    spoil(Path("x.nelbo"), TABLE)
    require_refusal("decompress RUN x.nelbo --indices 2 --out y", {"RUN": vae_run}, ["--indices", "damaged"], here)
    code, _, error = call("decompress", vae_run, "x.nelbo", "--out", "back")
    assert code == 1
    assert "which number an image has is lost" in error
    assert len(list((here / "back").iterdir())) == 3


@pytest.mark.usefixtures("alone")
def test_images_apart_stay_packed(vae_run: Path, digits: np.ndarray, here: Path) -> None:
    """A few bytes of xz can be a large file, and there can be many."""
    (here / "in").mkdir()
    Image.fromarray(grey(digits[0])).save(here / "in" / "0.png")
    for k in range(3):
        large = here / "in" / f"wide-{k}.png"
        Image.fromarray(np.full((9, 30), 7, np.uint8)).save(large)
        large.write_bytes(large.read_bytes()[:-20] + bytes(10**6))
    nelbo.compress(vae_run, "in", "x.nelbo")
    found = nelbo.decompress(vae_run, "x.nelbo")
    assert [len(file.payload) < 10**4 for file in found.apart.values()] == [True] * 3
    assert [len(file.data) > 10**6 for file in found.apart.values()] == [True] * 3


@pytest.mark.usefixtures("alone")
def test_a_chunk_without_memory_for_it_is_damaged(
    vae_run: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> np.ndarray:
        raise MemoryError

    nelbo.compress(vae_run, digits[:3], "x.nelbo")
    monkeypatch.setattr(decompress_chunks, "decode_chunk", full)
    with pytest.raises(InputError, match="images 0 to 2 of 3 are lost"):
        nelbo.decompress(vae_run, "x.nelbo")


@pytest.mark.usefixtures("alone")
def test_a_machine_that_computes_other_images_is_not_damage(
    vae_run: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are whole, so the line is about this machine."""
    nelbo.compress(vae_run, digits[:100], "x.nelbo")

    def wrong(payload: bytes, shape: Any, coder: Any, step: Any = id) -> np.ndarray:
        raise chunks.DamagedChunkError("planted")

    monkeypatch.setattr(codec_worker, "decode_chunk", wrong)
    with pytest.raises(InputError, match="1 chunk is whole, but does not decode to the same images here"):
        nelbo.decompress(vae_run, "x.nelbo")


def test_few_images_need_no_model(vae_run: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its initial bits would be more than they take; no process is started."""
    monkeypatch.setattr(codec_crew, "subprocess", None)
    found = nelbo.compress(vae_run, digits[:3], "x.nelbo")
    assert (found.by_model, found.plain) == (0, 3)
    assert np.array_equal(nelbo.decompress(vae_run, "x.nelbo").images[:, 0], digits[:3])


def test_damage_that_loses_nothing_is_said(damaged: Path, vae_run: Path, digits: np.ndarray) -> None:
    nelbo.compress(vae_run, digits[:60], "y.nelbo")
    data = Path("y.nelbo").read_bytes()
    Path("y.nelbo").write_bytes(b"?" + data[1:])
    answer = call_well("decompress", vae_run, "y.nelbo", "--out", "back.npy")
    assert "its first bytes are damaged; all images are whole" in answer.err
    assert np.array_equal(np.load("back.npy"), digits[:60])


def forged(names: list[str], path: Path, like: Path) -> None:
    """A file like another one, with these names."""
    with Archive(like) as archive, path.open("wb") as file:
        assert archive.golden is not None
        writer = ArchiveWriter(file, archive.header, archive.golden)
        for _, block in archive.chunks():
            writer.chunk(archive.container.read(block))
        writer.finish(archive.table.model_copy(update={"names": names}))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", ["../x.png", "/tmp/x.png", "a/../../x.png", ".."])
def test_a_name_that_leads_out_is_refused(name: str, vae_run: Path, digits: np.ndarray, here: Path) -> None:
    (here / "in").mkdir()
    for k in range(2):
        Image.fromarray(grey(digits[k])).save(here / "in" / f"{k}.png")
    nelbo.compress(vae_run, "in", "x.nelbo")
    forged(["a.png", name], Path("y.nelbo"), Path("x.nelbo"))
    require_refusal("decompress RUN y.nelbo --out back", {"RUN": vae_run}, ["y.nelbo", "leads out"], here)


@pytest.mark.usefixtures("alone")
def test_the_same_name_twice_is_refused(vae_run: Path, digits: np.ndarray, here: Path) -> None:
    """As on a file system that takes a.png and A.png for one; and other names that no file can have."""
    nelbo.compress(vae_run, digits[:2, None], "x.nelbo")
    for names, words in (
        (["a.png", "a.png"], ["image 1, 'a.png'", "twice"]),
        (["a.png", "a.png/b.png"], ["image 1, 'a.png/b.png'", "twice, or also that of a folder"]),
        (["a.png", "a.png/b/c.png"], ["image 1, 'a.png/b/c.png'", "also a file"]),
        (["a.png/b.png", "a.png"], ["image 1, 'a.png'", "also that of a folder"]),
        (["a.png", "x" * 300 + ".png"], ["image 1, 'xxx", "too long"]),
    ):
        forged(names, Path("y.nelbo"), Path("x.nelbo"))
        require_refusal("decompress RUN y.nelbo --out back", {"RUN": vae_run}, ["y.nelbo", *words], here)


@pytest.mark.usefixtures("alone")
def test_with_all_images_lost_nothing_is_written(vae_run: Path, digits: np.ndarray, here: Path) -> None:
    nelbo.compress(vae_run, digits[:40], "x.nelbo")
    spoil(Path("x.nelbo"), CHUNK)
    code, out, error = call("decompress", vae_run, "x.nelbo", "--out", "back")
    assert (code, out) == (1, "")
    assert error.strip().splitlines()[-1].endswith("images 0 to 39 of 40 are lost")
    assert [path.name for path in here.iterdir()] == ["x.nelbo"]


def test_a_chunk_that_ends_its_process_is_lost_alone(
    vae_run: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one for which there is too little memory; another process decodes what is left."""
    monkeypatch.setattr(codec_plan, "MOST_IMAGES", 60)
    monkeypatch.setattr(codec_plan, "WASTE", 1.0)
    monkeypatch.setattr(compress_job, "usable_lanes", lambda: 1)
    monkeypatch.setattr(decompress_chunks, "usable_lanes", lambda: 1)
    nelbo.compress(vae_run, digits[:120], "x.nelbo", check=False)
    right = codec_crew.Worker.decode

    def killed(self: codec_crew.Worker, payload: bytes, step: Any) -> np.ndarray:
        if chunks.head_of(payload).first == 0:
            self.process.kill()
            self.process.wait()
        return right(self, payload, step)

    monkeypatch.setattr(codec_crew.Worker, "decode", killed)
    found = nelbo.decompress(vae_run, "x.nelbo", partial=True)
    assert found.lost == list(range(60))
    assert np.array_equal(found.images[:, 0], digits[60:120])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("compress RUN digits --out x.nelbo", ["--out", "already exists"]),
        ("compress RUN --out y", ["images", "missing"]),
        ("compress RUN nothere --out y", ["nothere"]),
        ("compress RUN nothere.png digits --out y", ["nothere.png"]),
        ("compress RUN empty --out y", ["empty", "no images"]),
        ("compress RUN colour --out y", ["none fits the run", "1×8×8", "00.png"]),
        ("compress RUN x.nelbo --out y", ["x.nelbo"]),
        ("compress RUN colour --split test --out y", ["--split", "leave it out"]),
        ("compress RUN digits --split tset --out y", ["tset", "did you mean"]),
        ("compress RUN digits --steps 8 --out y", ["--steps", "has no steps"]),
        ("compress OTHER digits --each --out y", ["ddpm"]),
        ("compress nothere digits --out y", ["no such run"]),
        ("compress RUN digits --weights best --out y", ["--weights"]),
        ("compress RUN digits --limit 0 --out y", ["--limit"]),
        ("decompress RUN x.nelbo --out empty", ["--out", "already exists"]),
        ("decompress RUN x.nelbo --out y.png", ["--out", "folder"]),
        ("decompress RUN nothere --out y", ["nothere"]),
        ("decompress RUN RUN/config.toml --out y", ["not a file of 'nelbo compress'"]),
        ("decompress OTHER x.nelbo --out y", ["is not the run that made the file", "a vae"]),
        ("decompress TWIN x.nelbo --out y", ["does not have the weights"]),
        ("decompress RUN x.nelbo --indices 1000 --out y", ["--indices", "0 to"]),
        ("decompress RUN x.nelbo --indices -1 --out y", ["-1"]),
    ],
)
def test_what_cannot_be_done_is_one_line(
    line: str, words: list[str], vae_run: Path, own_run: Path, colour_folder: Path, here: Path, alone: None
) -> None:
    (here / "empty").mkdir()
    nelbo.compress(vae_run, "digits", "x.nelbo", split="test", limit=100)
    names = {"RUN": vae_run, "OTHER": own_run, "colour": colour_folder, "RUN/config.toml": vae_run / "config.toml"}
    if "TWIN" in line:
        call_well(
            *("train", "vae", "--steps", "3", "--latent", "4", "--batch-size", "16", "--out", "twin", "--device", "cpu")
        )
        names["TWIN"] = here / "twin"
    require_refusal(line, names, words, here)


@pytest.mark.usefixtures("alone")
def test_a_run_that_was_trained_further_has_its_older_weights(vae_run: Path, digits: np.ndarray, here: Path) -> None:
    run = Path(shutil.copytree(vae_run, here / "run"))
    nelbo.compress(run, digits[:60], "x.nelbo")
    call_well("train", "vae", "--resume", "--out", run, "--steps", "61", "--device", "cpu")
    assert np.array_equal(nelbo.decompress(run, "x.nelbo").images[:, 0], digits[:60])


@pytest.mark.usefixtures("alone")
def test_another_machine_is_refused_and_not_guessed_at(
    vae_run: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that differ by 1e-12 decode; by 1e-6 they are refused, with the version that made the file."""
    nelbo.compress(vae_run, digits[:60], "x.nelbo")
    right = decompress_chunks.coder_for

    def elsewhere(difference: float) -> Callable[..., Any]:
        def make(*given: Any, **named: Any) -> Any:
            coder = right(*given, **named)
            golden = coder.golden()
            coder.golden = lambda: golden + difference * np.maximum(1.0, np.abs(golden))
            return coder

        return make

    monkeypatch.setattr(decompress_chunks, "coder_for", elsewhere(1e-12))
    assert np.array_equal(nelbo.decompress(vae_run, "x.nelbo").images[:, 0], digits[:60])
    monkeypatch.setattr(decompress_chunks, "coder_for", elsewhere(1e-6))
    monkeypatch.setattr(codec_model, "__version__", "99")
    with pytest.raises(InputError, match=r"differ by 1\.0e-06 from those.*nelbo 0.* made the file"):
        nelbo.decompress(vae_run, "x.nelbo")


@pytest.mark.usefixtures("alone")
def test_a_full_disk_leaves_nothing(
    vae_run: Path, digits: np.ndarray, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: ArchiveWriter, table: Table) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    np.save("given.npy", digits[:60])
    monkeypatch.setattr(ArchiveWriter, "finish", full)
    code, _, error = call("compress", vae_run, "given.npy", "--out", "x.nelbo")
    assert code == 1
    assert error.strip().splitlines()[-1] == "nelbo: x.nelbo: No space left on device"
    assert sorted(path.name for path in here.iterdir()) == ["given.npy"]


def test_another_instruction_set_decodes(vae_run: Path, digits: np.ndarray, here: Path) -> None:
    """Other kernels of oneDNN and MKL, and another number of threads, give other last digits of float64."""
    nelbo.compress(vae_run, digits[:200], "x.nelbo")
    other = {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "nelbo", "decompress", str(vae_run), "x.nelbo", "--out", "back.npy"]
    subprocess.run(command, env={**environment(), **other}, check=True, capture_output=True)
    assert np.array_equal(np.load("back.npy"), digits[:200])


def started(*words: str | Path) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a shell starts it; without a signal that a shell in front ignores."""
    command, pipe = [sys.executable, "-m", "nelbo", *map(str, words)], subprocess.PIPE
    usual = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, env=environment(), stderr=pipe, stdout=pipe, text=True, start_new_session=True, preexec_fn=usual
    )


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the processes are found in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.usefixtures("alone")
def test_a_signal_leaves_no_half_file_and_no_process(number: signal.Signals, vae_run: Path, here: Path) -> None:
    """Ctrl-C reaches all processes of the group; kill −9 only the first one, whose workers end by themselves."""
    process = started("compress", vae_run, "digits", "--out", "x.nelbo")
    wait_for(lambda: list(here.glob(".writing-*-x.nelbo")) and children(process.pid))
    workers = children(process.pid)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (128 + number, -number)
    assert "Traceback" not in error
    assert not (here / "x.nelbo").exists()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() and running(pid) for pid in workers))
    if number == signal.SIGKILL:
        call_well("compress", vae_run, "digits", "--limit", "30", "--out", "x.nelbo")
    assert not list(here.glob(".writing-*"))


def running(pid: int) -> bool:
    """Whether a process runs, and is no zombie that only waits to be noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the processes are found in /proc")
def test_a_worker_that_is_killed_is_named(vae_run: Path, here: Path) -> None:
    process = started("compress", vae_run, "digits", "--out", "x.nelbo")
    wait_for(lambda: children(process.pid))
    for pid in children(process.pid):
        os.kill(pid, signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was killed; is there enough memory?" in error.strip().splitlines()[-1]
    assert list(here.iterdir()) == []


def test_a_model_with_parts_from_python_is_coded_here(digits: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no other process that has the parts."""
    monkeypatch.setattr(compress_job, "may_be_shorter", lambda *_: False)  # with a model of so few steps it is

    def parts() -> dict[str, nn.Module]:
        return {
            "encoder": nn.Sequential(nn.Flatten(), nn.Linear(64, 8)),
            "decoder": nn.Sequential(nn.Linear(4, 960), nn.Unflatten(1, (15, 8, 8))),
        }

    model = nelbo.VAE(**parts(), shape=(1, 8, 8), levels=17, latent=4, likelihood="logistic")
    nelbo.fit(model, digits[:, None], steps=60, lr=0.02, out="own", device="cpu")
    run = nelbo.Run("own", **parts())
    found = nelbo.compress(run, digits[:, None], "x.nelbo")
    assert found.by_model > 0
    assert np.array_equal(nelbo.decompress(run, "x.nelbo").images[:, 0], digits)


@pytest.mark.usefixtures("alone")
def test_without_constriction_the_extra_is_named(
    vae_run: Path, digits: np.ndarray, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save("given.npy", digits[:60])
    monkeypatch.setitem(sys.modules, "constriction", None)
    code, _, error = call("compress", vae_run, "given.npy", "--out", "x.nelbo")
    assert code == 2
    assert "nelbo[codec]" in error
    assert sorted(path.name for path in here.iterdir()) == ["given.npy"]


def test_images_of_wrong_arrays_are_refused(vae_run: Path, digits: np.ndarray) -> None:
    for images, words in (
        (digits.astype(float), "float64"),
        (digits[:, :7], "1×8×8"),
        (digits + 1, "levels 1 to"),
        (digits[:0], "shape"),
    ):
        with pytest.raises(InputError, match=words):
            nelbo.compress(vae_run, images, "x.nelbo")
    with pytest.raises(InputError, match="give one for each"):
        nelbo.compress(vae_run, digits, "x.nelbo", labels=["a"])


def test_other_families_say_why_they_have_no_codec(tmp_path: Path) -> None:
    for family, options in (("ae", []), ("gan", ["--widths", "8", "8"])):
        run = train_tiny_of(family, tmp_path / family, *options)
        code, _, error = call("compress", run, "digits", "--out", "x.nelbo")
        assert code == 2
        assert family in error


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.usefixtures("alone")
def test_weights_of_a_file_are_not_thinned(compressed: bool, vae_run: Path, digits: np.ndarray, here: Path) -> None:
    """Without a file they go, because the run has five later checkpoints."""
    run = Path(shutil.copytree(vae_run, here / "run", ignore=shutil.ignore_patterns("keep")))
    (old,) = all_checkpoints(run)
    if compressed:
        nelbo.compress(run, digits[:40], "x.nelbo")
    for step in (59, 61, 62, 63, 64):
        folder = shutil.copytree(old, folder_of(run, step), ignore=shutil.ignore_patterns("keep"))
        state = json.loads((folder / "state.json").read_text())
        state["step"] = step
        state["files"]["ema"]["sha256"] = state["files"]["model"]["sha256"] = "0" * 64  # others
        (folder / "state.json").write_text(json.dumps(state))
    thin(run)
    assert old.exists() is compressed
    if compressed:
        assert (old / "keep").read_text() == f"{here / 'x.nelbo'}\n"
        assert np.array_equal(nelbo.decompress(run, "x.nelbo").images[:, 0], digits[:40])


@pytest.mark.usefixtures("alone")
def test_a_checkpoint_without_its_file_is_not_kept(
    vae_run: Path, digits: np.ndarray, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(vae_run, here / "run", ignore=shutil.ignore_patterns("keep")))
    (folder,) = all_checkpoints(run)
    nelbo.compress(run, digits[:40], "x.nelbo")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as planted:
        planted.setattr(compress, "facts_of", full)
        with pytest.raises(OSError, match="No space"):
            nelbo.compress(run, digits[:40], "y.nelbo")
    assert (folder / "keep").read_text() == f"{here / 'x.nelbo'}\n"
    plan = compress_job.Job.of
    monkeypatch.setattr(compress_job.Job, "of", lambda *given: (plan(*given), shutil.rmtree(folder))[0])
    with pytest.raises(InputError, match="thinned out; do it again"):
        nelbo.compress(run, digits[:40], "y.nelbo")


def test_a_score_has_the_files_of_its_images_beside_it(vae_run: Path, here: Path) -> None:
    """Those of the same weights and split that are still there; in the studio, of its folders alone."""
    run = Path(shutil.copytree(vae_run, here / "run", ignore=shutil.ignore_patterns("keep")))
    made = nelbo.compress(run, "digits", "some.nelbo", split="test", limit=50)
    nelbo.compress(run, "digits", "others.nelbo", split="val")
    (coded,) = nelbo.score(run, limit=60).files
    assert (coded.file, coded.images, coded.steps) == (str(here / "some.nelbo"), 50, None)
    assert coded.bits_per_dim == made.bits_per_dim
    shown = call_well("score", run, "--limit", "60")
    assert re.search(rf"some\.nelbo, 50 images │ +{made.bits_per_dim:.4f}", shown.out + shown.err)
    os.mkfifo(here / "pipe")  # opening it would wait for ever
    with (nelbo.Run(run).checkpoint / "keep").open("a") as keep:
        keep.write(f"{here / 'pipe'}\n/dev/zero\n{here}\na\0b\n")
    assert nelbo.score(run, limit=60).files == [coded]
    outside, inside = (HeldRun(run, Folders([folder])) for folder in (run, here))
    assert (nelbo.score(outside, limit=60).files, nelbo.score(inside, limit=60).files) == ([], [coded])
    (here / "some.nelbo").unlink()
    assert nelbo.score(run, limit=60).files == []


def train_tiny_of(family: str, out: Path, *more: str) -> Path:
    """A run of a family, of one step."""
    call_well("train", family, "--steps", "1", "--batch-size", "8", "--out", out, "--device", "cpu", *more)
    return out
