"""``nelbo score``: its output, its stored results, and the consistency of its numbers."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machine_helpers import call, call_well, listing, train_tiny, write_pictures
from PIL import Image

import nelbo
from nelbo.data import load
from nelbo.errors import InputError
from nelbo.jobs import sharded

FIELDS = {
    *("family", "data", "split", "n", "levels", "dims", "kind", "form", "weights", "terms", "bits_per_dim"),
    *("stderr_mc", "stderr_data", "stderr", "evaluations", "seconds"),
}


def scored(run: Path, *more: str) -> dict[str, Any]:
    """One JSON object, and nothing beside it."""
    answer = call_well("score", run, "--json", *more)
    assert answer.out.count("\n") == 1
    found = json.loads(answer.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert isinstance(found, dict)
    return found


@pytest.fixture
def no_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("scored again")

    monkeypatch.setattr(sharded, "score_likelihood", refuse)


def test_json_has_the_documented_fields(own_run: Path) -> None:
    found = scored(own_run, "--limit", "20")
    assert found.keys() >= FIELDS
    expected = {"family": "ddpm", "data": "digits", "split": "test", "n": 20, "levels": 17, "dims": 64}
    expected |= {"kind": "bound", "form": "denoising", "weights": "ema"}
    assert {name: found[name] for name in expected} == expected
    assert list(found["terms"]) == ["reconstruction", "diffusion", "prior", "cluster"]
    assert all({"nats", "bits_per_dim"} <= term.keys() for term in found["terms"].values())
    assert found["evaluations"] == found["replicates"] * (1 + found["timesteps"])
    assert found["seconds"] > 0


@pytest.mark.parametrize("more", [(), ("--timesteps", "0"), ("--replicates", "5", "--split", "val")])
def test_terms_add_up(own_run: Path, more: tuple[str, ...]) -> None:
    found = scored(own_run, "--limit", "13", *more)
    terms = found["terms"].values()
    assert math.fsum(term["nats"] for term in terms) == pytest.approx(found["nats"], rel=1e-9)
    assert math.fsum(term["bits_per_dim"] for term in terms) == pytest.approx(found["bits_per_dim"], rel=1e-9)
    for part in (*terms, found):
        assert part["bits_per_dim"] == pytest.approx(part["nats"] / (math.log(2) * found["dims"]), rel=1e-9)


@pytest.mark.parametrize("limit", ["2", "13", "60"])
def test_errors_add_up(own_run: Path, limit: str) -> None:
    found = scored(own_run, "--limit", limit, "--timesteps", "16", "--replicates", "4")
    both = found["stderr_mc"] ** 2 + found["stderr_data"] ** 2
    if found["stderr_data"] > 0:
        assert both == pytest.approx(found["stderr"] ** 2, rel=1e-9)
    assert found["stderr"] > 0
    assert found["stderr_mc"] > 0


def test_more_evaluations_lower_the_monte_carlo_error(own_run: Path) -> None:
    few, many = (scored(own_run, "--limit", "60", "--replicates", r)["stderr_mc"] for r in ("2", "32"))
    assert 2.0 < few / many < 8.0  # √16 = 4, known from few replicates to a fifth or so


def test_a_single_image_has_no_error_over_images(own_run: Path) -> None:
    found = scored(own_run, "--limit", "1")
    assert found["stderr"] is None
    assert found["stderr_data"] is None
    assert found["stderr_mc"] > 0
    call_well("score", own_run, "--limit", "1")


def test_a_score_is_kept(own_run: Path, request: pytest.FixtureRequest) -> None:
    first = scored(own_run, "--limit", "6")
    assert len(list((own_run / "scores").glob("*.json"))) == 1
    request.getfixturevalue("no_computing")
    assert scored(own_run, "--limit", "6") == first
    assert scored(own_run, "--limit", "6", "--batch-size", "2") == first


@pytest.mark.parametrize(
    "more",
    [
        ("--limit", "7"),
        ("--seed", "1"),
        ("--split", "val"),
        ("--timesteps", "3"),
        ("--replicates", "3"),
        ("--weights", "raw"),
        ("--again",),
    ],
    ids=lambda words: words[0],
)
def test_another_score_is_computed(own_run: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    calls, honest = [], sharded.score_likelihood

    def counted(*values: Any, **named: Any) -> Any:
        calls.append(1)
        return honest(*values, **named)

    monkeypatch.setattr(sharded, "score_likelihood", counted)
    first = scored(own_run, "--limit", "6")
    second = scored(own_run, *([] if "--limit" in more else ["--limit", "6"]), *more)
    assert len(calls) == 2
    assert (first["nats"] == second["nats"]) == (more == ("--again",))


def test_a_score_of_a_longer_run_is_another(own_run: Path) -> None:
    first = scored(own_run, "--limit", "6")
    call_well("train", "ddpm", "--out", own_run, "--resume", "--steps", "13")
    assert scored(own_run, "--limit", "6")["nats"] != first["nats"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1}'])
def test_a_damaged_score_is_computed_anew(own_run: Path, text: str) -> None:
    first = scored(own_run, "--limit", "6")
    next((own_run / "scores").iterdir()).write_text(text)
    second = scored(own_run, "--limit", "6")
    assert second["nats"] == first["nats"]
    call_well("score", own_run, "--limit", "6")


def test_the_batch_size_does_not_matter(digits_run: Path, own_run: Path) -> None:
    scores = [
        nelbo.score(own_run, limit=11, batch_size=batch, again=True, device="cpu").bits_per_dim
        for batch in (1, 4, 11, 64)
    ]
    assert scores == pytest.approx([scores[0]] * 4, rel=1e-6)


def test_the_score_is_that_of_the_models_bound(own_run: Path) -> None:
    model, x = nelbo.load(own_run), load("digits").split("test")[:9]
    bound = model.bound(x, replicates=2)  # type: ignore[attr-defined]
    found = scored(own_run, "--limit", "9")
    assert float(bound.total.double().mean()) == pytest.approx(found["nats"], rel=1e-6)
    for name, value in bound.terms.items():
        assert float(value.double().mean()) == pytest.approx(found["terms"][name]["nats"], rel=1e-6)


def test_val_is_scored_when_asked(own_run: Path) -> None:
    found = scored(own_run, "--split", "val", "--timesteps", "2")
    assert (found["split"], found["n"]) == ("val", 179)


def test_without_limit_the_whole_split_is_scored(own_run: Path) -> None:
    assert scored(own_run, "--timesteps", "1")["n"] == 359


def test_per_image_rows_average_to_the_total(own_run: Path, here: Path) -> None:
    answer = call_well("score", own_run, "--limit", "8", "--json", "--per-image", "rows.csv")
    found = json.loads(answer.out)
    with (here / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(i) for i in range(8)]
    for name in (*found["terms"], "total"):
        part = found if name == "total" else found["terms"][name]
        for unit in ("nats", "bits_per_dim"):
            mean = np.mean([float(row[f"{name}_{unit}"]) for row in rows])
            assert mean == pytest.approx(part[unit], rel=1e-6, abs=1e-6)
    for row in rows:
        parts = sum(float(row[f"{name}_nats"]) for name in found["terms"])
        assert parts == pytest.approx(float(row["total_nats"]), abs=1e-5)


def test_per_image_says_which_image_it_is(here: Path) -> None:
    """Path, class and split of each, whatever the names hold, and the strangest first when asked."""
    pixels, random = {}, np.random.default_rng(0)
    for k in range(24):
        folder = here / "pictures" / ('a,"b"' if k % 2 else "new\nline")
        folder.mkdir(parents=True, exist_ok=True)
        name = os.fsdecode(b"caf\xe9 %d.png" % k) if k < 4 else f"{k}.png"
        image = random.integers(0, 256, (6, 6), dtype=np.uint8)
        Image.fromarray(image).save(folder / name)
        pixels[f"{folder.name}/{name}"] = image
    train_tiny(here / "run", "--data", "pictures", steps=1)
    call_well("score", "run", "--split", "all", "--per-image", "rows.csv", "--sort")
    with open("rows.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    data = load("pictures")
    assert sorted(row["source"] for row in rows) == sorted(pixels)
    for row in rows:
        image = data.images[int(row["image"])]
        assert np.array_equal(image[0].numpy(), pixels[row["source"]])
        assert row["label"] == row["source"].split("/")[0]
        start, stop = data.bounds[row["split"]]
        assert start <= int(row["image"]) < stop
    totals = [float(row["total_nats"]) for row in rows]
    assert totals == sorted(totals, reverse=True)


def test_per_image_has_the_row_of_an_array(here: Path) -> None:
    """Through splits, duplicates and shaping: the row of the file that was read."""
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 6), dtype=np.uint8)
    images[7] = images[3]
    np.save("images.npy", images)
    data = load("images.npy", channels=3)
    assert sorted(int(data.origin("all", i)[0]) for i in range(30)) == list(range(30))
    for split in data.bounds:
        for i, image in enumerate(data.split(split)):
            row, label, said = data.origin(split, i)
            assert np.array_equal(image[0].numpy(), images[int(row)])
            assert (label, said) == ("", split)


def test_per_image_has_the_row_of_a_named_set(own_run: Path, here: Path) -> None:
    """Of digits: the row in scikit-learn's array, with its label."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    call_well("score", own_run, "--limit", "5", "--per-image", "rows.csv")
    with open("rows.csv", newline="") as file:
        for row in csv.DictReader(file):
            shown = load("digits").split("test")[int(row["image"])][0].numpy()
            assert np.array_equal(shown, bunch.images[int(row["source"])])
            assert (row["label"], row["split"]) == (str(bunch.target[int(row["source"])]), "test")


def test_per_image_makes_its_folder(own_run: Path, here: Path) -> None:
    """As --out of 'sample' does; or refuses before the work, but never loses it afterwards."""
    call_well("score", own_run, "--limit", "2", "--per-image", "new/folder/rows.csv")
    assert (here / "new" / "folder" / "rows.csv").is_file()


def test_the_table_has_the_numbers(own_run: Path) -> None:
    found = scored(own_run, "--limit", "20")
    shown = call_well("score", own_run, "--limit", "20").out
    for part in (found, *found["terms"].values()):
        assert f"{part['bits_per_dim']:.4f}" in shown
        assert f"{part['stderr']:.4f}" in shown
    for word in ("ddpm on digits", "test split", "20 images", "64 dimensions", "ema", "bound", "4.0875", "bits/dim"):
        assert word in shown


def test_raw_weights_are_others(own_run: Path) -> None:
    ema, raw = (scored(own_run, "--limit", "6", "--weights", w) for w in ("ema", "raw"))
    assert (ema["weights"], raw["weights"]) == ("ema", "raw")
    assert ema["nats"] != raw["nats"]


def test_other_data_of_the_same_kind_can_be_scored(own_run: Path, here: Path) -> None:
    np.save(here / "mine.npy", np.random.default_rng(0).integers(0, 17, (30, 8, 8), dtype=np.uint8))
    found = scored(own_run, "--data", "mine.npy", "--levels", "17")
    assert (found["data"], found["n"]) == ("mine", 4)


@pytest.mark.parametrize(
    ("shape", "more", "words"),
    [
        ((30, 6, 8), ("--levels", "17"), ("1×6×8", "1×8×8")),
        ((30, 8, 8, 3), ("--levels", "17"), ("3×8×8", "1×8×8")),
        ((30, 8, 8), (), ("256", "17")),
    ],
)
def test_other_shapes_and_levels_are_refused(
    own_run: Path, here: Path, shape: tuple[int, ...], more: tuple[str, ...], words: tuple[str, ...]
) -> None:
    np.save(here / "mine.npy", np.random.default_rng(0).integers(0, 17, shape, dtype=np.uint8))
    before = listing(here)
    answer = call("score", own_run, "--data", "mine.npy", *more)
    assert answer.code == 2
    for word in ("--data", *words):
        assert word in answer.err
    assert listing(here) == before


def test_reading_options_alone_are_about_the_runs_own_data(here: Path) -> None:
    """Without --data, --holdout and the like must not turn to digits."""
    write_pictures(here / "pictures", 12, (4, 4))
    train_tiny(here / "r", "--data", "pictures", steps=1)
    answer = call("score", "r", "--skip-bad", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["data"] == "pictures"


def test_data_that_changed_are_not_scored_in_silence(here: Path) -> None:
    """Test images of the changed folder may be images that the run was trained on."""
    write_pictures(here / "pictures", 12, (4, 4))
    train_tiny(here / "r", "--data", "pictures", steps=1)
    Image.new("RGB", (4, 4), "red").save(here / "pictures" / "new.png")
    answer = call("score", "r")
    assert "changed" in answer.err
    assert answer.code in (0, 2)


def test_a_run_finds_its_data_from_another_directory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(here / "pictures", 12, (4, 4))
    train_tiny(here / "r", "--data", "pictures", steps=1)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    call_well("score", "../r")
    call_well("train", "ddpm", "--out", "../r", "--resume", "--steps", "2")


def test_python_refuses_what_the_command_line_refuses(own_run: Path) -> None:
    for bad in ({"replicates": 1}, {"limit": 0}, {"limit": -1}, {"batch_size": 0}, {"seed": -1}, {"split": "x"}):
        with pytest.raises(InputError):
            nelbo.score(own_run, **bad)
