"""``nelbo info``: a run, a data set, and a schedule that ends too early."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from machine_helpers import TINY, call, call_well, forget_settings, listing, same_tensors, train_tiny

import nelbo
from nelbo.jobs.run import Run
from nelbo.training import read_checkpoint


def facts(what: str | Path, *more: str) -> dict[str, Any]:
    answer = call_well("info", what, "--json", *more)
    assert answer.out.count("\n") == 1
    found = json.loads(answer.out)
    assert isinstance(found, dict)
    return found


def test_a_run(digits_run: Path) -> None:
    before = listing(digits_run)
    found = facts(digits_run)
    assert (found["family"], found["step"], found["images_seen"]) == ("ddpm", 12, 96)
    assert found["parameters"] == sum(p.numel() for p in nelbo.load(digits_run).parameters())
    assert found["images"]["shape"] == [1, 8, 8]
    assert found["model"]["timesteps"] == 30
    assert found["training"]["batch_size"] == 8
    assert found["data"]["data"] == "digits"
    assert found["versions"].keys() >= {"nelbo", "torch"}
    assert listing(digits_run) == before


def test_what_decided_a_run_is_said(digits_run: Path, here: Path) -> None:
    """With --steps on a CPU it can be repeated: the same numbers of threads and processes, and the same weights."""
    machine = facts(digits_run)["machine"]
    assert machine["device"] == "cpu"
    assert (machine["threads"], machine["processes"], machine["matrices"]) == ("1", "1", "float32")
    assert machine["repeatable"].startswith("to the bit")
    again = train_tiny(here / "again", steps=12)
    for name, tensors in read_checkpoint(Run(digits_run).checkpoint).tensors.items():
        same_tensors(read_checkpoint(Run(again).checkpoint).tensors[name], tensors)
    call_well("train", "ddpm", *TINY, "--minutes", "0.01", "--out", "clock")
    assert "the learning rate follows the clock" in facts("clock")["machine"]["repeatable"]


def test_a_run_of_another_version_says_which(own_run: Path) -> None:
    """Whether its settings or its weights cannot be read; and nothing is said where both can."""
    config = own_run / "config.toml"
    text = config.read_text().replace(f'nelbo = "{nelbo.__version__}"', 'nelbo = "9.1.0"')
    hint = f"made by nelbo 9.1.0, but this is {nelbo.__version__}: pip install nelbo==9.1.0"
    config.write_text(text)
    call_well("info", own_run)
    config.write_text(text.replace("timesteps = 30", "timesteps = 30\nwarp = 3"))
    answer = call("sample", own_run)
    assert (answer.code, "warp" in answer.err, hint in answer.err) == (2, True, True), answer.err
    forget_settings(own_run)
    config.write_text(re.sub(r"widths = \[[^]]*\]", "widths = [8, 16]", text))
    answer = call("sample", own_run)
    assert (answer.code, "does not fit" in answer.err, hint in answer.err) == (2, True, True), answer.err
    config.write_text(text.replace("format = 2", "format = 3"))
    answer = call("sample", own_run)
    assert (answer.code, "format 3" in answer.err, hint in answer.err) == (2, True, True), answer.err


def test_a_run_for_people(digits_run: Path) -> None:
    shown = call_well("info", digits_run).out
    lines = shown.splitlines()
    assert len(lines) <= 20
    for word in ("ddpm", "timesteps = 30", "batch_size = 8", "digits", "prior"):
        assert word in shown
    assert any(re.match(r"prior_bits_per_dim\S*\s+\S*\d", line) for line in lines)


def test_data(colour_folder: Path) -> None:
    found = facts("digits")
    assert (found["shape"], found["levels"], found["dims"]) == ([1, 8, 8], 17, 64)
    assert found["splits"] == {"train": 1259, "val": 179, "test": 359}
    assert found["uniform_bits_per_dim"] == pytest.approx(4.0874628)
    found = facts(colour_folder, "--size", "4x6", "--fit", "crop", "--channels", "1")
    assert (found["shape"], found["levels"], found["dims"]) == ([1, 4, 6], 256, 24)
    assert sum(found["splits"].values()) == 12
    assert len([note for note in found["notes"] if "would be empty" not in note]) == 2
    shown = call_well("info", colour_folder).out
    for word in ("3 10 14", "256", "colour"):
        assert word in shown


def test_a_schedule_that_ends_too_early_is_seen(tmp_path: Path) -> None:
    """What is left of the image at T, and what that costs, as info shows it, against the closed form."""
    few = train_tiny(tmp_path / "few", "--schedule", "cosine", "--timesteps", "25", steps=1)
    many = train_tiny(tmp_path / "many", "--schedule", "linear", "--timesteps", "1000", steps=1)
    one, two = facts(few), facts(many)
    name = next(name for name in one if name.startswith("prior_bits"))
    assert min(one["signal_rate_at_T"], two["signal_rate_at_T"]) > 0
    assert one["signal_rate_at_T"] != two["signal_rate_at_T"]
    # For a pixel at ±1 the prior term is ½(v + s² − 1 − ln v) nats with s the signal rate and v = 1 − s².
    for found in (one, two):
        s2 = found["signal_rate_at_T"] ** 2
        expected = 0.5 * (-math.log1p(-s2)) / math.log(2)
        assert found[name] == pytest.approx(expected, rel=1e-3)


def test_a_run_that_has_not_begun(digits_run: Path, here: Path) -> None:
    (here / "r").mkdir()
    shutil.copy(digits_run / "config.toml", here / "r")
    assert facts("r")["step"] == 0
    answer = call("sample", "r")
    assert answer.code == 2
    assert "no checkpoint" in answer.err


@pytest.mark.parametrize("what", ["nope", "runs/mnist"])
def test_neither_run_nor_data(what: str) -> None:
    """The argument is named as help names it, and both readings are offered."""
    answer = call("info", what)
    assert answer.code == 2
    assert what in answer.err
    assert "run" in answer.err.replace(what, "")
    assert "--data" not in answer.err, "'info' has no --data to mend: its argument is WHAT"


def test_info_does_not_take_two_specs(colour_folder: Path) -> None:
    answer = call("info", "digits", "--data", colour_folder)
    assert answer.code == 2, "--data is passed over in silence"
