"""Moved images, and splits of older runs: the same images in the same splits."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import tomli_w
from machine_helpers import call, call_well, listing, tiny, train_tiny, write_pictures

import nelbo
from nelbo.config.convert import FORMAT, converted
from nelbo.config.families import OURS, family_module
from nelbo.data import load
from nelbo.jobs.run import Run
from nelbo.options import IN_FILES

AGAIN = ("train", "ddpm", "--out", "run", "--resume", "--steps", "2")


@pytest.fixture
def moved(here: Path) -> Path:
    """A run whose images have been moved since, and other images."""
    write_pictures(here / "pictures", 12, (4, 4))
    write_pictures(here / "others", 12, (4, 4), seed=1)
    train_tiny(here / "run", "--data", "pictures", steps=1)
    (here / "pictures").rename(here / "new")
    return here


def test_the_same_images_elsewhere_are_taken_without_a_word(moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Run(moved / "run").config
    answer = call_well(*AGAIN, "--data", "new")
    assert "changed" not in answer.err
    assert "held" not in answer.err
    monkeypatch.chdir(moved / "others")  # the new place is found from any working directory
    run = Run(moved / "run")
    assert run.config.data.data == str((moved / "new").resolve())
    assert run.config.images == before.images
    assert run.config.trained_on == ()
    assert (run.step, run.dataset.sha256) == (2, before.images.sha256)


def test_other_images_need_a_word(moved: Path) -> None:
    before = listing(moved / "run")
    answer = call(*AGAIN, "--data", "others")
    assert (answer.code, "--changed-data" in answer.err, answer.err.count("\n")) == (2, True, 1)
    answer = call(*AGAIN, "--data", "nowhere")
    assert (answer.code, "'nowhere' is neither" in answer.err) == (2, True)
    assert listing(moved / "run") == before
    call_well(*AGAIN, "--data", "others", "--changed-data")
    assert Run(moved / "run").config.data.data == str((moved / "others").resolve())


@pytest.mark.parametrize("words", [AGAIN, ("score", "run"), ("sample", "run", "--real", "--out", "a.png")])
def test_images_that_are_gone(moved: Path, words: tuple[str, ...]) -> None:
    before = listing(moved)
    answer = call(*words)
    assert (answer.code, answer.err.count("\n")) == (2, 1), answer.err
    assert f"{moved / 'pictures'}, the path of the run's images, is missing" in answer.err
    assert "nelbo train ddpm --out run --resume --data NEW" in answer.err
    assert listing(moved) == before


def test_compare_says_that_images_are_gone(moved: Path) -> None:
    answer = call_well("compare", "run", "--out", "page")
    assert answer.err.count("is missing; give the new path with --data NEW") == 1


def test_a_score_of_the_same_images_elsewhere_is_the_run_s_own(moved: Path) -> None:
    found = json.loads(call_well("score", "run", "--data", "new", "--json").out)
    assert found["data_sha256"] == Run(moved / "run").config.images.sha256
    other = json.loads(call_well("score", "run", "--data", "others", "--json").out)
    assert other["data_sha256"] != found["data_sha256"]


def as_format_1(run: Path) -> None:
    """Write the run's settings as the version before wrote them."""
    place = run / "config.toml"
    text = place.read_text().replace("format = 2", "format = 1").replace('split_by = "rank"\n', "")
    assert "split_by" not in text
    place.write_text(text)


@pytest.fixture
def old(here: Path) -> Path:
    """A run of format 1 on images that the two rules split differently."""
    write_pictures(here / "pictures", 12, (4, 4))
    (here / "rank.toml").write_text('[data]\ndata = "pictures"\nsplit_by = "rank"\n')
    train_tiny(here / "run", "--config", "rank.toml", steps=1)
    as_format_1(here / "run")
    assert load("pictures").sha256 != load("pictures", split_by="rank").sha256
    return here


def test_a_run_of_format_1_keeps_its_splits(old: Path) -> None:
    """Scored, resumed, moved and scored again; ``load(split_by="rank")`` is held to the old rule elsewhere."""
    sha256 = load("pictures", split_by="rank").sha256
    assert Run(old / "run").config.images.sha256 == Run(old / "run").dataset.sha256 == sha256
    assert json.loads(call_well("score", "run", "--json").out)["data_sha256"] == sha256
    (old / "pictures").rename(old / "new")
    assert json.loads(call_well("score", "run", "--data", "new", "--json").out)["data_sha256"] == sha256
    call_well(*AGAIN, "--data", "new")
    written = tomllib.loads((old / "run/config.toml").read_text())
    assert (written["format"], written["data"]["split_by"]) == (2, "rank")
    assert Run(old / "run").dataset.sha256 == sha256


def test_its_settings_for_a_new_run_split_its_own_images_alike_and_others_anew(old: Path) -> None:
    recipe = ("--config", "run/config.toml", "--steps", "1")
    call_well("train", "ddpm", *recipe, "--out", "own")
    assert Run(old / "own").config.images.sha256 == Run(old / "run").config.images.sha256
    write_pictures(old / "others", 12, (4, 4), seed=1)
    call_well("train", "ddpm", *recipe, "--out", "other", "--data", "others")
    assert Run(old / "other").config.data.split_by == "hash"


def test_the_rule_is_no_option_of_the_command_line(here: Path) -> None:
    answer = call("train", "ddpm", *tiny(), "--steps", "1", "--out", "run", "--split-by", "rank")
    assert (answer.code, "--split-by" in answer.err) == (2, True)


def test_converters_lead_from_every_format_to_this_one() -> None:
    for number in range(1, FORMAT + 1):
        assert converted({"format": number, "data": {}})["format"] == FORMAT
    assert converted({"format": 1, "data": {"data": "a"}})["data"] == {"split_by": "rank", "data": "a"}
    for odd in ({"format": FORMAT + 1}, {"format": "1"}, {"format": True}, {}, {"format": 1.0}):
        assert converted(odd) == odd


def test_a_config_of_a_later_format_names_the_version_that_reads_it(here: Path) -> None:
    train_tiny(here / "run", steps=1)
    place = here / "run/config.toml"
    (here / "later.toml").write_text(
        place.read_text().replace("format = 2", "format = 3").replace('nelbo = "', 'nelbo = "99.')
    )
    answer = call("train", "ddpm", "--config", "later.toml", "--out", "new")
    assert (answer.code, "format 3" in answer.err, "pip install nelbo==99." in answer.err) == (2, True, True)


def test_a_config_of_format_1_has_the_first_revision_of_nelbos_networks() -> None:
    for family in OURS:
        given = {"format": 1, "family": family, "model": {"widths": [8]}}
        assert converted(given)["model"] == {"revision": 1, "widths": [8]}
        assert family_module(family).OPTIONS.model_fields["revision"].json_schema_extra == IN_FILES.json_schema_extra
    assert converted({"format": 1, "family": "theirs", "model": {"a": 1}})["model"] == {"a": 1}


@pytest.mark.parametrize(("made_by", "said"), [("99.0", "pip install nelbo==99.0 reads it"), (None, "")])
def test_a_later_revision_of_a_network_names_its_version(here: Path, made_by: str | None, said: str) -> None:
    place = train_tiny(here / "run", steps=1) / "config.toml"
    written = tomllib.loads(place.read_text())
    assert written["model"]["revision"] == 2
    assert written["versions"]["nelbo"] == nelbo.__version__
    written["model"]["revision"] = 3
    written["versions"]["nelbo"] = made_by or nelbo.__version__
    place.write_text(tomli_w.dumps(written))
    answer = call("info", "run")
    assert answer.code == 2
    assert "config.toml: [model] revision" in answer.err
    assert "not 3" in answer.err
    assert said in answer.err
    assert ("pip install" in answer.err) == bool(said)


def test_a_score_counts_distinct_images(here: Path) -> None:
    """Three images, four times each: one distinct image in test, so no error over data; and four copies are n = 4."""
    for folder in "abcd":
        write_pictures(here / "pictures" / folder, 3, (4, 4))
    train_tiny(here / "run", "--data", "pictures", steps=1)
    found = json.loads(call_well("score", "run", "--json").out)
    assert (found["n"], found["n_distinct"], found["stderr"], found["stderr_data"]) == (4, 1, None, None)
    assert found["stderr_mc"] > 0
    every = json.loads(call_well("score", "run", "--json", "--split", "all").out)
    assert (every["n"], every["n_distinct"]) == (12, 3)
    assert every["stderr"] > 0
    assert "test: 4 images, 1 distinct" in call_well("info", "pictures").out
