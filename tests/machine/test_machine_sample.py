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
from nelbo.data import Dataset
from nelbo.jobs.progress import progress_of
from nelbo.jobs.sample import real_images
from nelbo.models.sampling import SampleSettings
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


def test_what_is_known_of_the_samples_is_said(digits_run: Path, here: Path) -> None:
    """Before a measurement the last preview and the commands that measure, then the bound of the present weights."""
    own = shutil.copytree(digits_run, here / "own")
    said = " ".join(call_well("sample", own, "-n", "1").err.split())
    *_, (_, bits, stderr) = progress_of(own).val
    known = f"about {bits:.2f} ± {stderr:.2f} bits/dim on val in training"
    assert f"{known} ('nelbo score {own}'); quality of samples unknown ('nelbo evaluate {own}')" in said
    bound = nelbo.Run(own).score(limit=5, timesteps=1).bits_per_dim
    said = " ".join(call_well("sample", own, "-n", "1").err.split())
    assert f"bound {bound:.4f} bits/dim on 5 test images; quality" in said
    call_well("train", "ddpm", "--resume", "--steps", "14", "--out", own)
    assert "bits/dim on val in training" in call_well("sample", own, "-n", "1").err
    (own / "metrics.jsonl").unlink()
    assert "bits/dim unknown" in call_well("sample", own, "-n", "1").err


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
    assert np.array_equal(drawn(digits_run, "c.npz", "-n", "4", "--sampler", "unipc", "--steps", "20"), plain)


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
    call_well("sample", "r", "-n", "2", "--out", "folder")
    with Image.open("folder/000001.png") as one, Image.open("a.gif") as film, Image.open("a.png") as both:
        assert np.array_equal(np.asarray(one), drawn(here / "r", "b.npz", "-n", "2")[1]), "files keep their alpha"
        assert both.mode == "RGB"
        assert film.convert("RGBA").getextrema()[3] == (255, 255), "no hole in the animation"
    call_well("score", "r")


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_images_are_shown_before_a_board(channels: int) -> None:
    """α c + (1 − α) board, by hand, at the middle of squares: c where α = 1, the board's greys where α = 0."""
    image = torch.full((1, channels, 6, 6), 100, dtype=torch.uint8)
    image[:, -1, :, :3], image[:, -1, :, 3:5], image[:, -1, :, 5:] = 0, 255, 51
    shown = grid(image, 256, 1)
    assert shown.mode == ("L" if channels == 2 else "RGB")
    cells = np.asarray(shown).reshape(*np.asarray(shown).shape[:2], -1)[..., 0]
    tile = (shown.width - 2 * 6) // 6  # a pixel of the image, and a square of the board
    cells = cells[6 + tile // 2 :: tile, 6 + tile // 2 :: tile][:6, :6].astype(int)
    board = np.where(np.indices((6, 6)).sum(0) % 2, 153, 204)
    assert np.array_equal(cells[:, :3], board[:, :3])
    assert (cells[:, 3:5] == 100).all()
    assert (np.abs(cells[:, 5] - (0.2 * 100 + 0.8 * board[:, 5])) <= 1).all()


def labelled(counts: dict[str, int], labels: bool = True) -> Dataset:
    """Images whose one pixel is their row, sorted by class, all of them in ``test``."""
    n = sum(counts.values())
    classes = torch.arange(len(counts)).repeat_interleave(torch.tensor(list(counts.values())))
    return Dataset(
        "toy",
        "toy",
        torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1),
        classes if labels else None,
        tuple(counts) if labels else (),
        {"train": (0, 0), "val": (0, 0), "test": (0, n)},
        256,
        "",
    )


def test_real_images_are_of_all_classes_as_evenly_as_can_be() -> None:
    data = labelled({"a": 100, "b": 50, "c": 2, "d": 30})
    for n, expected in ((8, [2, 2, 2, 2]), (20, [6, 6, 2, 6]), (2, None), (182, [100, 50, 2, 30]), (500, None)):
        rows = real_images(data, "test", n, seed=3).flatten()
        assert len(rows.unique()) == len(rows) == min(n, 182)
        assert data.labels is not None
        counts = torch.bincount(data.labels[rows.long()], minlength=4)
        assert expected is None or counts.tolist() == expected
        assert n > 2 or int(counts.max()) == 1
    draws = [real_images(data, "test", 20, seed).flatten().tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0] != sorted(draws[0])


def test_real_images_without_labels_are_drawn_by_the_seed() -> None:
    """Means of 50 of the rows 0 … 199: of mean 99.5 and standard error 7.07, the finite set taken into account."""
    data = labelled({"": 200}, labels=False)
    draws = [real_images(data, "test", 50, seed).flatten().double() for seed in range(20)]
    assert all(len(rows.unique()) == 50 for rows in draws)
    assert abs(float(torch.stack(draws).mean()) - 99.5) < 4 * 7.07 / 20**0.5


def test_the_real_images_of_a_grid_are_those(digits_run: Path) -> None:
    call_well("sample", digits_run, "-n", "9", "--seed", "5", "--out", "a.png", "--real")
    expected = grid(real_images(nelbo.Run(digits_run).dataset, "test", 9, seed=5), 17)
    with Image.open("a.png") as both:
        left = both.crop((0, both.height - expected.height, expected.width, both.height))
        assert np.array_equal(np.asarray(left), np.asarray(expected))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "unipc, 20 steps"),
        (("--steps", "21"), "ddim, η = 1, 21 steps"),
        (("--steps", "5"), "unipc, 5 steps"),
        (("--steps", "20"), "unipc, 20 steps"),
        (("--steps", "5", "--eta", "0"), "ddim, η = 0, 5 steps"),
        (("--steps", "5", "--sampler", "dpm++"), "dpm++, 5 steps"),
    ],
)
def test_the_sampler_is_the_best_with_so_many_steps_unless_one_is_asked_for(
    words: tuple[str, ...], said: str, own_run: Path
) -> None:
    assert said in call_well("sample", own_run, "-n", "1", *words).err
