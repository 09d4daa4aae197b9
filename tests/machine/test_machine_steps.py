"""``nelbo score`` of a vdm in steps, and forms with their own options."""

from __future__ import annotations

import json
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
    assert list(several["terms"]) == ["importance_weighted"]
    assert several["bits_per_dim"] < whole["bits_per_dim"]
    assert scored(vdm_run, "--T", 6, "--form", "iw", "--k", 2)["k"] == 2


def test_the_flow_is_an_estimate_of_another_model(vdm_run: Path) -> None:
    found = scored(vdm_run, "--form", "ode", limit=2)
    assert found["kind"] == "estimate"
    assert "another model" in found["why"]
    assert list(found["terms"]) == ["flow", "dequantisation", "reconstruction"]
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
