"""``nelbo score`` of a vdm in steps, and forms with their own options."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from machine_helpers import call, call_well

COMMON = ("--widths", "8", "8", "--batch-size", "8", "--device", "cpu", "--precision", "fp32")


@pytest.fixture(scope="module")
def vdm_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("steps") / "run"
    call_well("train", "vdm", *COMMON, "--steps", "40", "--out", out)
    return out


def scored(run: Path, *more: object, limit: int = 12) -> dict[str, Any]:
    words = (str(word) for word in ("--limit", limit, *more))
    found = json.loads(call_well("score", run, "--json", *words).out)
    assert isinstance(found, dict)
    return found


def test_more_steps_near_continuous_time_from_above(vdm_run: Path) -> None:
    """L_T falls to L_∞ as 1/T on the same images: at four times the steps under half the gap, beyond the errors."""
    found = [scored(vdm_run, "--T", T, "--timesteps", "0") for T in (16, 64, 256)]
    limit = scored(vdm_run, "--timesteps", "256")
    gaps = [score["bits_per_dim"] - limit["bits_per_dim"] for score in found]
    error = 3 * max(score["stderr_mc"] for score in (*found[1:], limit))
    assert gaps[0] > gaps[1] > gaps[2] - error
    assert gaps[1] < 0.5 * gaps[0]
    assert abs(gaps[2]) < 0.5 * gaps[1] + error
    assert [score["T"] for score in found] == [16, 64, 256]
    assert "T" not in limit


def test_in_steps_there_are_trajectories(vdm_run: Path) -> None:
    whole, several = scored(vdm_run, "--T", 6, "--form", "trajectory"), scored(vdm_run, "--T", 6, "--form", "iw")
    assert whole["evaluations"] == 2 * 7
    assert (several["kind"], several["k"], several["evaluations"]) == ("iw_bound", 8, 2 * 8 * 7)
    assert list(several["terms"]) == ["importance_weighted", "cluster"]
    assert several["bits_per_dim"] < whole["bits_per_dim"]
    assert scored(vdm_run, "--T", 6, "--form", "iw", "--k", 2)["k"] == 2


def test_the_flow_is_an_estimate_of_another_model(vdm_run: Path) -> None:
    found = scored(vdm_run, "--form", "ode", limit=2)
    assert found["kind"] == "estimate"
    assert "another model" in found["why"]
    assert list(found["terms"]) == ["flow", "dequantisation", "reconstruction", "cluster"]
    assert found["evaluations"] > 20
    shown = call_well("score", vdm_run, "--form", "ode", "--limit", "2").out
    assert "another model" in shown
    assert "estimate" in shown


@pytest.mark.parametrize(
    ("words", "option", "said"),
    [
        (("--form", "trajectory"), "--form", "--T"),
        (("--k", "4"), "--k", "--form iw"),
        (("--T", "6", "--form", "iw", "--k", "0"), "--k", "1"),
        (("--T", "6", "--form", "iw", "--timesteps", "3"), "--timesteps", "always uses every t"),
        (("--T", "0"), "--T", "1"),
        (("--form", "odd"), "--form", "ode"),
        (("--spacing", "best"), "--spacing", "--T"),
        (("--reverse-variance", "moments"), "--reverse-variance", "--T"),
        (("--T", "6", "--reverse-variance", "learned"), "--reverse-variance", "beta_tilde"),
    ],
)
def test_what_does_not_go_together_is_said(vdm_run: Path, words: tuple[str, ...], option: str, said: str) -> None:
    answer = call("score", vdm_run, *words)
    assert answer.code == 2
    assert answer.out == ""
    assert option in answer.err
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_a_ddpm_has_its_own_steps(tmp_path: Path) -> None:
    call_well("train", "ddpm", *COMMON, "--timesteps", "20", "--out", tmp_path / "run", "--steps", "2")
    answer = call("score", tmp_path / "run", "--T", "10")
    assert answer.code == 2
    assert "--T" in answer.err
    assert "only a diffusion model in continuous time" in answer.err


def test_the_best_steps_are_measured_once_and_have_a_lower_bound(vdm_run: Path) -> None:
    """With the same noise, on images that the steps were not chosen on."""
    even = scored(vdm_run, "--T", 7, "--timesteps", "0")
    best = scored(vdm_run, "--T", 7, "--timesteps", "0", "--spacing", "best")
    costs = (vdm_run / "steps.json").read_bytes()
    again = scored(vdm_run, "--T", 7, "--timesteps", "0", "--spacing", "best", "--again")
    assert (vdm_run / "steps.json").read_bytes() == costs
    assert again["bits_per_dim"] == best["bits_per_dim"]
    assert best["bits_per_dim"] < even["bits_per_dim"] - 3 * best["stderr_mc"]
    assert len(best["gammas"]) == 8
    assert "gammas" not in even


def test_a_damaged_file_of_costs_is_measured_again(vdm_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(vdm_run, run)
    before = scored(run, "--T", 3, "--spacing", "best")
    (run / "steps.json").write_text("[1, {]")
    assert scored(run, "--T", 3, "--spacing", "best", "--again")["gammas"] == before["gammas"]


def test_samples_come_from_the_best_steps(vdm_run: Path, tmp_path: Path) -> None:
    words = ("sample", vdm_run, "-n", "2", "--spacing", "best", "--steps", "5", "--out")
    answer = call_well(*words, tmp_path / "two.png")
    assert "ancestral, 5 steps" in answer.err
    for more, said in ((("--sampler", "ddim"), "ancestral"), ((), "steps")):
        words = ("sample", vdm_run, "-n", "2", "--spacing", "best", *more, "--out", tmp_path / "no.png")
        refused = call(*words)
        assert refused.code == 2
        assert said in refused.err


def test_a_ddpm_is_scored_in_the_best_of_its_steps(tmp_path: Path) -> None:
    run = tmp_path / "run"
    call_well("train", "ddpm", *COMMON, "--timesteps", "40", "--out", run, "--steps", "40")
    best = scored(run, "--T", 8, "--spacing", "best", "--timesteps", "0")
    own = scored(run, "--T", 8, "--spacing", "best", "--reverse-variance", "beta_tilde", "--timesteps", "0")
    assert len(best["gammas"]) == len(own["gammas"]) == 8
    assert best["bits_per_dim"] < own["bits_per_dim"]
    answer = call("score", run, "--T", "41", "--spacing", "best")
    assert answer.code == 2
    assert "--T" in answer.err
