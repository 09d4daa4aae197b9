"""Results in RUN/scores are reused only for the same weights, settings and images."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from machine_helpers import call_well, train_tiny

from nelbo.files import remove
from nelbo.jobs import _digest as digest
from nelbo.jobs import sharded
from nelbo.jobs.run import Run

FEATURES = ("--device", "cpu")


def scored(run: Path, *more: object, by: str = "score") -> dict[str, Any]:
    found = json.loads(call_well(by, run, "--json", "--device", "cpu", *more).out)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs of as many steps from different seeds."""
    folder = tmp_path_factory.mktemp("seeds")
    return [train_tiny(folder / str(seed), "--seed", str(seed), steps=30) for seed in range(3)]


def swap_checkpoint(run: Path, other: Path) -> None:
    """Put the weights of another run, of the same step, where this run's are."""
    place = Run(run).checkpoint
    remove(place)
    shutil.copytree(Run(other).checkpoint, place)


@pytest.fixture
def a(seeds: list[Path], here: Path) -> Path:
    return Path(shutil.copytree(seeds[0], here / "a"))


@pytest.fixture
def b(seeds: list[Path], here: Path) -> Path:
    return Path(shutil.copytree(seeds[1], here / "b"))


def test_a_baseline_that_was_trained_anew_is_scored_anew(a: Path, seeds: list[Path], here: Path) -> None:
    """The same path and number of steps, another seed: the difference is that of the new weights."""
    asked = ("--limit", "40", "--baseline", "b")
    shutil.copytree(seeds[1], "b")
    first = scored(a, *asked)["baseline"]
    remove(Path("b"))
    train_tiny(Path("b"), "--seed", "2", steps=30)
    second = scored(a, *asked)["baseline"]
    apart = scored(a, "--limit", "40")["bits_per_dim"] - scored(Path("b"), "--limit", "40")["bits_per_dim"]
    assert second["difference"] == pytest.approx(apart, rel=1e-9)
    assert second["difference"] != first["difference"]


def test_checkpoints_swapped_at_an_equal_step_are_scored_anew(a: Path, seeds: list[Path]) -> None:
    first, other = scored(a, "--limit", "40"), scored(seeds[1], "--limit", "40")
    swap_checkpoint(a, seeds[1])
    second = scored(a, "--limit", "40")
    assert second["nats"] == other["nats"] != first["nats"]
    assert second["weights_sha256"] == other["weights_sha256"] != first["weights_sha256"]
    for weights in ("ema", "raw"):
        state = Run(a).state["files"][{"ema": "ema", "raw": "model"}[weights]]
        assert scored(a, "--limit", "2", "--weights", weights)["weights_sha256"] == state["sha256"]


def test_samples_of_swapped_checkpoints_are_measured_anew(a: Path, seeds: list[Path], here: Path) -> None:
    call_well("train", "ae", "--steps", "2", "--latent", "4", "--widths", "8", "--out", "ae", "--device", "cpu")
    asked = ("--samples", "20", "--steps", "2", "--features", "ae")
    first = scored(a, *asked, by="evaluate")
    assert scored(a, *asked, by="evaluate") == first
    swap_checkpoint(a, seeds[1])
    second = scored(a, *asked, by="evaluate")
    assert second["quality"] != first["quality"]
    assert second["weights_sha256"] == Run(seeds[1]).state["files"]["ema"]["sha256"]


def test_features_that_were_learnt_anew_measure_anew(a: Path, here: Path) -> None:
    """As many steps from another seed, at the same path; the answer says which features, and of which data."""
    asked = ("--samples", "20", "--steps", "2", "--features", "space")
    both = []
    for seed in "12":
        remove(Path("space"))
        call_well("features", "--data", "digits", "--epochs", "1", "--seed", seed, "--out", "space", *FEATURES)
        both.append(scored(a, *asked, by="evaluate"))
    about = json.loads(Path("space/features.json").read_text())
    assert both[0]["quality"] != both[1]["quality"]
    assert both[1]["features_sha256"] == about["sha256"]
    assert both[1]["features_data_sha256"] == about["data_sha256"] == both[1]["data_sha256"]


def test_compare_shows_no_score_of_other_weights(a: Path, b: Path, seeds: list[Path], here: Path) -> None:
    """Neither bits/dim nor the pairs nor the bits over t outlive a checkpoint that is swapped at an equal step."""
    for run in (a, b):
        scored(run, "--limit", "40")
    first = json.loads(call_well("compare", a, b, "--json").out)
    assert len(first["differences"]) == 1
    swap_checkpoint(b, seeds[2])
    second = json.loads(call_well("compare", a, b, "--json").out)
    assert second["runs"][1]["score"] is None
    assert second["differences"] == []
    assert second["runs"][0]["diffusion_profile"] == first["runs"][0]["diffusion_profile"]
    assert second["runs"][1]["diffusion_profile"] != first["runs"][1]["diffusion_profile"]
    scored(b, "--limit", "40")
    third = json.loads(call_well("compare", a, b, "--json").out)
    each = [
        np.load(run / "scores" / Path(facts["score"]["file"]).with_suffix(".npy"))
        for run, facts in zip((a, b), third["runs"], strict=True)
    ]
    expected = float((each[0] - each[1]).mean()) / (64 * np.log(2))
    assert third["differences"][0]["value"] == pytest.approx(expected, rel=1e-12)
    assert third["differences"][0]["value"] != first["differences"][0]["value"]


def test_compare_shows_averaged_weights_alone(a: Path, here: Path) -> None:
    """Its samples are of the averaged weights, so its bits/dim are too."""
    scored(a, "--limit", "40", "--weights", "raw")
    (facts,) = json.loads(call_well("compare", a, "--json").out)["runs"]
    assert facts["score"] is None


def test_another_revision_of_the_code_scores_anew(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scored(a, "--limit", "4")
    monkeypatch.setattr(digest, "REVISION", digest.REVISION + 1)
    calls, honest = [], sharded.score_likelihood

    def counted(*values: Any, **named: Any) -> Any:
        calls.append(1)
        return honest(*values, **named)

    monkeypatch.setattr(sharded, "score_likelihood", counted)
    second = scored(a, "--limit", "4")
    assert len(calls) == 1
    assert second["code"] != first["code"]
    assert second["nats"] == first["nats"]


def test_a_setting_changed_in_an_older_run_scores_anew(a: Path) -> None:
    """Checkpoints of before record no settings, so that nothing is refused; a kept score is not shown for others."""
    forget_settings(a)
    first = scored(a, "--limit", "20")
    alter(a, ("model", "schedule"), "cosine")
    second = scored(a, "--limit", "20")
    assert second["nats"] != first["nats"]
    assert second["model_sha256"] != first["model_sha256"]
    assert second["weights_sha256"] == first["weights_sha256"]


def forget_settings(run: Path) -> None:
    """Make the checkpoint one that was written before settings were kept in it."""
    path = Run(run).checkpoint / "state.json"
    state = json.loads(path.read_text())
    del state["settings"]
    path.write_text(json.dumps(state))


def alter(run: Path, place: tuple[str, ...], value: Any) -> None:
    """Change one setting of config.toml as a hand would."""
    whole = tomllib.loads((run / "config.toml").read_text())
    part = whole
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    (run / "config.toml").write_text(tomli_w.dumps(whole))
