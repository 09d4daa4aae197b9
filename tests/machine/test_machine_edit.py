"""``nelbo edit``: every verb, every form of output, what is refused, and that a drawing's noise is its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from machine_helpers import call, call_well, listing, train_tiny
from PIL import Image
from torch import Tensor

import nelbo
from nelbo.jobs.edit import METHODS, Edited, edit
from nelbo.report.pictures import grid, picture

STEPS = ("--steps", "5")


@pytest.fixture
def files(digits_run: Path, here: Path) -> Tensor:
    """Two digits as a.png and b.png, a mask of the right half as mask.png, and a.png at half its size as small.png."""
    digits = nelbo.Run(digits_run).dataset.split("test")[:2]
    for image, name in zip(digits, "ab", strict=True):
        picture(image, 17).save(f"{name}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save("mask.png")
    small = np.asarray(Image.open("a.png")).reshape(4, 2, 4, 2).mean((1, 3)).round().astype(np.uint8)
    Image.fromarray(small).save("small.png")
    return digits


def edited(run: Path, *words: str) -> dict[str, np.ndarray]:
    """The arrays that the command writes."""
    out = Path("out.npz")
    out.unlink(missing_ok=True)
    call_well("edit", run, *words, *STEPS, "--out", out)
    with np.load(out) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("method", list(METHODS))
def test_seen_pixels_stay_and_hidden_ones_are_drawn(digits_run: Path, files: Tensor, method: str) -> None:
    found = edited(digits_run, "inpaint", "a.png", "b.png", "--mask", "mask.png", "-n", "3", "--method", method)
    images, expected = found["images"][..., 0], files[:, 0].numpy()
    assert images.shape == (6, 8, 8)
    assert np.array_equal(images[:, :, :4], expected.repeat(3, 0)[:, :, :4])
    assert len({image.tobytes() for image in images}) == 6
    assert np.array_equal(found["given"][:, :, :4, 0], expected[:, :, :4])
    assert (found["given"][:, :, 4:] == 8).all()


def test_an_upscaled_image_has_the_given_reduction(digits_run: Path, files: Tensor) -> None:
    """Up to the rounding of each pixel to a level, half of 1/16, and to clipping at the ends of the range."""
    found = edited(digits_run, "upscale", "small.png", "-n", "2", "--factor", "2")
    means = found["images"][..., 0].reshape(2, 4, 2, 4, 2).mean((2, 4)) / 16
    small = np.asarray(Image.open("small.png")) / 255
    assert np.abs(means - small).max() <= 0.5
    inside = (found["images"][..., 0].reshape(2, 4, 2, 4, 2) % 16 > 0).all((2, 4))
    assert np.abs(means - small)[inside].max(initial=0) <= 0.5 / 16


def test_a_drawing_does_not_depend_on_the_others(digits_run: Path, files: Tensor) -> None:
    for words in (("inpaint", "--mask", "mask.png"), ("vary", "--strength", "0.6")):
        verb, *more = words
        many = edited(digits_run, verb, "a.png", "b.png", *more, "-n", "3", "--seed", "4")["images"]
        for batch in ("1", "4"):
            again = edited(digits_run, verb, "a.png", "b.png", *more, "-n", "3", "--seed", "4", "--batch-size", batch)
            assert np.array_equal(again["images"], many)
        few = edited(digits_run, verb, "a.png", "b.png", *more, "-n", "2", "--seed", "4")["images"]
        assert np.array_equal(few, many[[0, 1, 3, 4]])
        assert not np.array_equal(edited(digits_run, verb, "a.png", "b.png", *more, "-n", "3")["images"], many)


def test_a_weaker_variation_is_closer(digits_run: Path, files: Tensor) -> None:
    """Of an almost untrained model; so it is the noise that is seen: at S = 0.2 the image is still there."""
    away = []
    for strength in ("0.2", "1"):
        images = edited(digits_run, "vary", "a.png", "-n", "8", "--strength", strength)["images"][..., 0]
        away.append(float(np.square(images / 16 - files[0, 0].numpy() / 16).mean()))
    assert away[0] < 0.5 * away[1]


def test_python_and_the_command_give_the_same(digits_run: Path, files: Tensor) -> None:
    expected = edited(digits_run, "inpaint", "a.png", "--mask", "mask.png", "-n", "2")["images"]
    mask = np.asarray(Image.open("mask.png"))
    for image in ("a.png", files[0], files[0, 0].numpy()):
        found = nelbo.Run(digits_run).edit("inpaint", image, mask=mask, n=2, steps=5)
        assert isinstance(found, nelbo.Edited)
        assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), expected)
    assert found.evaluations == 4 * 5
    told = "each draw of a cluster that is estimated from what is seen"
    assert found.how == f"moments, 5 steps, 20 evaluations, {told}, {METHODS['moments'].caveat}"


def test_latents_come_back_and_are_said_to(digits_run: Path, files: Tensor) -> None:
    found = nelbo.edit(digits_run, "invert", "a.png", "b.png", steps=30)
    assert found.latents is not None
    assert found.error is not None
    assert found.latents.shape == (2, 1, 8, 8)
    back = found.images.float() / 8 - 1
    x = files.float() / 8 - 1
    rms = (back - x).square().flatten(1).mean(1).sqrt()
    assert bool(((rms - found.error).abs() < 0.06).all())  # rounding to 17 levels is at most 1/16 of the error
    assert f"{float(found.error.max()):.2g}" in found.how
    kept = edited(digits_run, "invert", "a.png", "b.png")
    assert kept["latents"].shape == (2, 1, 8, 8)


def test_the_way_from_a_to_b_ends_where_their_latents_lead(digits_run: Path, files: Tensor) -> None:
    way = nelbo.edit(digits_run, "interpolate", "a.png", "b.png", frames=5, steps=10)
    ends = nelbo.edit(digits_run, "invert", "a.png", "b.png", steps=10)
    assert way.images.shape == (5, 1, 8, 8)
    assert torch.equal(way.images[[0, -1]], ends.images)


@pytest.mark.parametrize("verb", ["inpaint", "vary", "interpolate"])
@pytest.mark.parametrize("out", ["a.gif", "sheet.png", "folder", "x.npz"])
def test_every_form_of_output(digits_run: Path, files: Tensor, here: Path, verb: str, out: str) -> None:
    names = ["a.png", "b.png"][: 2 if verb == "interpolate" else 1]
    how = {"inpaint": ("--mask", "mask.png", "-n", "2"), "vary": ("-n", "2"), "interpolate": ("--frames", "4")}[verb]
    answer = call_well("edit", digits_run, verb, *names, *how, *STEPS, "--out", out)
    assert answer.out == f"{out}\n"
    done = edited(digits_run, verb, *names, *how)
    images, given = (torch.from_numpy(done[name]).permute(0, 3, 1, 2) for name in ("images", "given"))
    if out == "folder":
        assert len(list((here / out).glob("0*.png"))) == len(images)
        assert np.array_equal(
            np.asarray(Image.open(here / out / "given-000000.png")), np.asarray(picture(given[0], 17))
        )
    elif out == "sheet.png":
        row = torch.cat([given[:1], images, given[1:]])
        assert np.array_equal(np.asarray(Image.open(out)), np.asarray(grid(row, 17, columns=len(row))))
    elif out == "a.gif":
        with Image.open(out) as film:
            assert film.n_frames >= 2  # type: ignore[attr-defined]
            film.seek(film.n_frames - 1)  # type: ignore[attr-defined]
            last = images[-1:] if verb == "interpolate" else torch.cat([given, images])
            columns = None if verb == "interpolate" else len(last)
            still = np.asarray(grid(last, 17, columns)).astype(int)
            assert np.abs(np.asarray(film.convert("L")).astype(int) - still).max() <= 2


def test_without_out_a_new_grid_in_the_run(own_run: Path, files: Tensor) -> None:
    first, second = (call_well("edit", own_run, "vary", "a.png", *STEPS).out.strip() for _ in range(2))
    assert first != second
    assert Path(first).parent == own_run / "samples"


REFUSED = [
    ("inpaint a.png", "--mask: is missing"),
    ("inpaint a.png --mask none.png", "none.png: there is no such image file"),
    ("inpaint wide.png --mask mask.png", "wide.png: is 8x9, but the run's images are 8x8; scale it, or add --fit"),
    ("inpaint a.png --mask wide.png", "wide.png: is a mask of 8x9, but the images are 8x8"),
    ("inpaint a.png --mask white.png", "--mask: hides every pixel"),
    ("inpaint a.png --mask black.png", "--mask: hides no pixel"),
    ("inpaint colour.png --mask mask.png", "colour.png: is colour, but the run's images are grey"),
    ("inpaint a.png --mask mask.png --method magic", "--method: 'magic' is not a known method"),
    ("inpaint a.png --mask mask.png --method particles(particles=0)", "--method: "),
    ("inpaint a.png --mask mask.png --strength 0.3", "--strength: applies to vary, not to inpaint; leave it out"),
    ("vary a.png --mask mask.png", "--mask: applies to inpaint, not to vary"),
    ("vary a.png --strength 0", "--strength: "),
    ("invert a.png -n 3", "-n: applies to inpaint, upscale, vary, not to invert"),
    ("interpolate a.png", "images: 'interpolate' takes two images"),
    ("vary", "images: are missing"),
    ("upscale small.png --fit crop", "--fit: applies to inpaint, vary, invert, interpolate, not to upscale"),
    ("upscale a.png", "a.png: is 8x8, which times a whole number of at least 2 is not 8x8"),
    ("upscale small.png --factor 3", "small.png: is 4x4, which times 3 is not 8x8"),
    ("vary a.png --out a.jpg", "--out: .jpg is not supported"),
    ("vary a.png --out a.png", "--out: a.png already exists"),
    ("invert a.png --out b.gif", "--out: invert has no steps to show"),
    ("vary broken.png", "broken.png: "),
]


@pytest.mark.parametrize(("line", "said"), REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(
    digits_run: Path, files: Tensor, here: Path, line: str, said: str
) -> None:
    for name, value in (("white", 255), ("black", 0)):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(f"{name}.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save("wide.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save("colour.png")
    Path("broken.png").write_bytes(Path("a.png").read_bytes()[:40])
    before = listing(here)
    answer = call("edit", digits_run, *line.split())
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"nelbo: {said}"), answer.err
    assert answer.err.count("\n") == 1
    assert listing(here) == before


def test_another_size_and_harmless_channels_are_read(digits_run: Path, files: Tensor) -> None:
    """Grey in three channels and opaque alpha lose nothing; --fit converts sizes."""
    plain = edited(digits_run, "vary", "a.png", "-n", "1")["given"]
    grey = Image.open("a.png")
    grey.convert("RGB").save("rgb.png")
    grey.convert("RGBA").save("rgba.png")
    for name in ("rgb.png", "rgba.png"):
        assert np.array_equal(edited(digits_run, "vary", name, "-n", "1")["given"], plain)
    grey.resize((16, 16), Image.Resampling.NEAREST).save("large.png")
    fitted = edited(digits_run, "vary", "large.png", "-n", "1", "--fit", "resize")["given"]
    assert np.abs(fitted.astype(int) - plain.astype(int)).max() <= 4


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 8, 8), torch.full((8, 8), 17), torch.zeros(3, 8, 8, dtype=torch.uint8)]
)
def test_arrays_are_levels_of_the_run(digits_run: Path, wrong: Tensor) -> None:
    with pytest.raises(nelbo.InputError, match="image 1"):
        edit(digits_run, "vary", wrong, steps=2)


def test_colour_images(colour_run: Path, colour_folder: Path, here: Path) -> None:
    mask = np.zeros((10, 14), np.uint8)
    mask[2:6, 3:9] = 1
    image = colour_folder / "03.png"
    found: Edited = nelbo.edit(colour_run, "inpaint", image, mask=mask, n=2, steps=4)
    expected = torch.from_numpy(np.asarray(Image.open(image)).transpose(2, 0, 1).copy())
    keep = torch.from_numpy(mask == 0)
    assert torch.equal(found.images[:, :, keep], expected[:, keep].expand(2, -1, -1))


LATENT = {
    "vae": ("--latent", "4", "--widths", "8", "8"),
    "hvae": ("--latent", "2", "--depth", "3", "--widths", "8", "8"),
}


def train(family: str, out: Path, *more: str) -> Path:
    common = ("--batch-size", "8", "--device", "cpu", "--precision", "fp32", "--steps", "6")
    call_well("train", family, *more, *common, "--out", out)
    return out


@pytest.mark.parametrize("family", list(LATENT))
def test_models_with_latents(family: str, digits_run: Path, files: Tensor, here: Path) -> None:
    run = train(family, here / "run", *LATENT[family])
    found = edited(run, "inpaint", "a.png", "b.png", "--mask", "mask.png", "-n", "3")
    assert np.array_equal(found["images"][:, :, :4, 0], files[:, 0].numpy().repeat(3, 0)[:, :, :4])
    again = edited(run, "inpaint", "a.png", "b.png", "--mask", "mask.png", "-n", "3", "--batch-size", "1")
    assert np.array_equal(found["images"], again["images"])
    assert nelbo.edit(run, "interpolate", "a.png", "b.png", frames=3).images.shape == (3, 1, 8, 8)
    for verb in ("vary", "invert", "upscale"):
        answer = call("edit", run, verb, "small.png" if verb == "upscale" else "a.png")
        assert answer.code == 2
        assert f"{verb}: is not possible with {family}: " in answer.err
    answer = call("edit", run, "inpaint", "a.png", "--mask", "mask.png", "--method", "guidance")
    assert answer.code == 2
    assert f"--method: is not used by inpaint with {family}" in answer.err


@pytest.mark.parametrize("family", ["ae", "gan"])
def test_families_without_an_answer_say_why(family: str, digits_run: Path, files: Tensor, here: Path) -> None:
    run = train(family, here / "run", "--latent", "4", "--widths", "8", "8")
    for verb in ("vary", "interpolate"):
        answer = call("edit", run, verb, "a.png", *["b.png"] * (verb == "interpolate"))
        assert answer.code == 2
        assert f"{verb}: is not possible with {family}: it " in answer.err
        assert answer.err.count("\n") == 1


def test_continuous_time(digits_run: Path, files: Tensor, here: Path) -> None:
    run = train("vdm", here / "run", "--widths", "8", "8")
    found = edited(run, "inpaint", "a.png", "--mask", "mask.png", "-n", "2", "--method", "particles(particles=3)")
    assert np.array_equal(found["images"][:, :, :4, 0], files[:1, 0].numpy().repeat(2, 0)[:, :, :4])
    assert edited(run, "invert", "a.png")["latents"].shape == (1, 1, 8, 8)


def test_a_short_chain_takes_its_own_steps(here: Path, digits_run: Path, files: Tensor) -> None:
    run = train_tiny(here / "run")
    assert "30 steps" in nelbo.edit(run, "inpaint", "a.png", mask="mask.png", n=1).how
