"""``nelbo sample``: every form of output, and that image i of a seed is always the same image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from machine_helpers import call, call_well, listing, train_tiny
from PIL import Image

import nelbo
from nelbo.models.base import SampleSettings
from nelbo.report.pictures import grid, picture


def drawn(run: Path, out: str, *more: str) -> np.ndarray:
    """The levels that 'sample' writes, (n, H, W, C)."""
    call_well("sample", run, "--out", out, *more)
    with np.load(out) as file:
        assert set(file.files) == {"images", "levels"}
        assert int(file["levels"]) in (17, 256)
        return np.asarray(file["images"])


def test_npz_is_the_models_own_images(digits_run: Path) -> None:
    images = drawn(digits_run, "a.npz", "-n", "5", "--seed", "3")
    assert images.shape == (5, 8, 8, 1)
    assert images.dtype == np.uint8
    assert images.max() <= 16
    assert len({image.tobytes() for image in images}) == 5
    expected = nelbo.load(digits_run).sample(5, seed=3)
    assert np.array_equal(images, expected.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_image_i_of_a_seed_is_always_the_same(digits_run: Path, sampler: str) -> None:
    how = ("--sampler", sampler, "--steps", "10")
    many = drawn(digits_run, "a.npz", "-n", "7", *how)
    for k, batch in enumerate(("1", "3", "64")):
        assert np.array_equal(drawn(digits_run, f"b{k}.npz", "-n", "7", "--batch-size", batch, *how), many)
    assert np.array_equal(drawn(digits_run, "c.npz", "-n", "3", *how), many[:3])
    model, settings = nelbo.load(digits_run), SampleSettings(sampler, 10)
    assert np.array_equal(model.sample(2, start=4, settings=settings)[:, 0].numpy(), many[4:6, :, :, 0])
    assert not np.array_equal(drawn(digits_run, "d.npz", "-n", "7", "--seed", "1", *how), many)


def test_options_change_the_images(digits_run: Path) -> None:
    plain = drawn(digits_run, "a.npz", "-n", "4")
    for k, more in enumerate((["--eta", "0"], ["--steps", "3"], ["--weights", "raw"])):
        assert not np.array_equal(drawn(digits_run, f"b{k}.npz", "-n", "4", *more), plain), more
    assert np.array_equal(drawn(digits_run, "c.npz", "-n", "4", "--sampler", "ddim", "--eta", "1"), plain)


def test_ddim_with_eta_1_is_ancestral(digits_run: Path) -> None:
    """With σ² = β̃, the run's reverse variance, they are one law, and see the same noise."""
    for steps in ("30", "7"):
        one = drawn(digits_run, f"a{steps}.npz", "-n", "4", "--eta", "1", "--steps", steps)
        two = drawn(digits_run, f"b{steps}.npz", "-n", "4", "--sampler", "ancestral", "--steps", steps)
        assert (np.abs(one.astype(int) - two.astype(int)) <= 1).all()


def test_png_is_a_grid_of_them(digits_run: Path) -> None:
    answer = call_well("sample", digits_run, "-n", "5", "--out", "a.png")
    assert answer.out == "a.png\n"
    assert "5 images" in answer.err
    assert "seed 0" in answer.err
    expected = grid(nelbo.load(digits_run).sample(5), 17)
    with Image.open("a.png") as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(expected))


def test_a_folder_holds_single_images(digits_run: Path, here: Path) -> None:
    call_well("sample", digits_run, "-n", "5", "--out", "deep/down/folder")
    images = nelbo.load(digits_run).sample(5)
    folder = here / "deep" / "down" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == [f"{k:06d}.png" for k in range(5)]
    for k, image in enumerate(images):
        with Image.open(folder / f"{k:06d}.png") as shown:
            assert shown.size == (8, 8)
            assert np.array_equal(np.asarray(shown), image[0].numpy().astype(int) * 255 // 16)


def test_levels_span_black_to_white() -> None:
    for levels in (2, 17, 256):
        ramp = torch.arange(levels, dtype=torch.uint8).reshape(1, 1, levels)
        shown = np.asarray(picture(ramp, levels))[0]
        assert (shown[0], shown[-1]) == (0, 255)
        assert (np.diff(shown.astype(int)) > 0).all()


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_gif_ends_with_the_images(digits_run: Path, sampler: str) -> None:
    call_well("sample", digits_run, "-n", "5", "--batch-size", "2", "--sampler", sampler, "--out", "a.gif")
    call_well("sample", digits_run, "-n", "5", "--sampler", sampler, "--out", "a.png")
    with Image.open("a.gif") as film, Image.open("a.png") as still:
        assert film.n_frames > 5  # type: ignore[attr-defined]
        film.seek(film.n_frames - 1)  # type: ignore[attr-defined]
        assert film.size == still.size
        off = np.abs(np.asarray(film.convert("L")).astype(int) - np.asarray(still.convert("L")).astype(int))
    assert off.max() <= 2


def test_gif_of_one_step(digits_run: Path, here: Path) -> None:
    call_well("sample", digits_run, "-n", "2", "--steps", "1", "--out", "a.gif")
    assert (here / "a.gif").is_file()


def test_real_images_stand_beside(digits_run: Path) -> None:
    call_well("sample", digits_run, "-n", "4", "--out", "a.png")
    call_well("sample", digits_run, "-n", "4", "--out", "b.png", "--real")
    with Image.open("a.png") as alone, Image.open("b.png") as both:
        assert both.width > 2 * alone.width
        right = both.crop((both.width - alone.width, both.height - alone.height, both.width, both.height))
        assert np.array_equal(np.asarray(right.convert("L")), np.asarray(alone.convert("L")))


def test_without_out_a_new_grid_in_the_run(own_run: Path) -> None:
    first, second = (call_well("sample", own_run, "-n", "2").out.strip() for _ in range(2))
    assert first != second
    assert Path(first).parent == Path(second).parent == own_run / "samples"


@pytest.mark.parametrize("out", ["a.png", "a.gif", "a.npz", "folder"])
def test_what_is_there_is_never_overwritten(digits_run: Path, here: Path, out: str) -> None:
    if out == "folder":
        (here / out).mkdir()
        (here / out / "mine.txt").write_text("mine")
    else:
        (here / out).write_text("mine")
    before = listing(here)
    answer = call("sample", digits_run, "-n", "1", "--out", out)
    assert answer.code == 2
    assert out in answer.err
    assert listing(here) == before


def test_a_link_to_nowhere_is_not_overwritten(digits_run: Path, here: Path) -> None:
    (here / "a.png").symlink_to(here / "nowhere.png")
    answer = call("sample", digits_run, "-n", "1", "--out", "a.png")
    assert answer.code == 2
    assert (here / "a.png").is_symlink()


def test_nothing_is_left_beside_the_result(digits_run: Path, here: Path) -> None:
    for out in ("a.png", "a.gif", "a.npz", "folder"):
        call_well("sample", digits_run, "-n", "1", "--steps", "2", "--out", out)
    assert {p.name for p in here.iterdir()} == {"a.png", "a.gif", "a.npz", "folder"}


# Colour, and not square


def test_colour_and_not_square_from_end_to_end(colour_run: Path, here: Path) -> None:
    images = drawn(colour_run, "a.npz", "-n", "3")
    assert images.shape == (3, 10, 14, 3)
    for out in ("a.png", "a.gif"):
        call_well("sample", colour_run, "-n", "3", "--out", out)
    call_well("sample", colour_run, "-n", "3", "--out", "b.png", "--real")
    call_well("sample", colour_run, "-n", "3", "--out", "folder")
    with Image.open("folder/000002.png") as one, Image.open("a.png") as sheet, Image.open("b.png") as both:
        assert (one.mode, one.size) == ("RGB", (14, 10))
        assert np.array_equal(np.asarray(one), images[2])
        assert sheet.mode == both.mode == "RGB"
    run = Path(shutil.copytree(colour_run, here / "run"))
    assert "420 dimensions" in call_well("score", run).out
    assert "3 10 14" in call_well("info", run).out


def test_alpha_is_kept_from_end_to_end(here: Path) -> None:
    random = np.random.default_rng(0)
    (here / "in").mkdir()
    for k in range(6):
        Image.fromarray(random.integers(0, 256, (4, 5, 4), dtype=np.uint8), "RGBA").save(here / "in" / f"{k}.png")
    train_tiny(here / "r", "--data", "in", steps=1)
    assert drawn(here / "r", "a.npz", "-n", "2").shape == (2, 4, 5, 4)
    call_well("sample", "r", "-n", "2", "--out", "a.png", "--real")
    call_well("sample", "r", "-n", "2", "--out", "a.gif")
    call_well("score", "r")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "ddim, η = 1, 30 steps"),
        (("--steps", "20"), "ddim, η = 1, 20 steps"),
        (("--steps", "5"), "unipc, 5 steps"),
        (("--steps", "5", "--eta", "0"), "ddim, η = 0, 5 steps"),
        (("--steps", "5", "--sampler", "dpm++"), "dpm++, 5 steps"),
    ],
)
def test_the_sampler_is_the_best_with_so_many_steps_unless_one_is_asked_for(
    words: tuple[str, ...], said: str, own_run: Path
) -> None:
    assert said in call_well("sample", own_run, "-n", "1", *words).err
