"""``nelbo score --baseline``: two runs with common random numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from machine_helpers import call, call_well, train_tiny

from nelbo.metrics import LikelihoodScore


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One small DDPM, and the same a little further on: much alike."""
    folder = tmp_path_factory.mktemp("baseline")
    return [train_tiny(folder / str(steps), "--timesteps", "40", steps=steps) for steps in (150, 170)]


def scored(run: Path, *more: object) -> dict:
    return json.loads(call_well("score", run, "--json", "--limit", "60", *more).out)


def test_the_difference_is_that_of_the_scores_with_a_smaller_error(runs: list[Path]) -> None:
    """Paired, the error of the difference is far below what two scores apart would give."""
    paired, one, two = scored(runs[1], "--baseline", runs[0]), scored(runs[0]), scored(runs[1])
    found = paired["baseline"]
    assert paired["bits_per_dim"] == two["bits_per_dim"]
    assert found["bits_per_dim"] == pytest.approx(one["bits_per_dim"], rel=1e-12)
    assert found["difference"] == pytest.approx(two["bits_per_dim"] - one["bits_per_dim"], rel=1e-9)
    assert found["stderr"] < 0.5 * math.hypot(one["stderr"], two["stderr"])
    assert found["stderr_mc"] < 0.7 * math.hypot(one["stderr_mc"], two["stderr_mc"])
    shown = call_well("score", runs[1], "--limit", "60", "--baseline", runs[0]).out
    assert "total − baseline" in shown


def test_a_run_does_not_differ_from_itself(runs: list[Path]) -> None:
    found = scored(runs[0], "--baseline", runs[0])["baseline"]
    assert (found["difference"], found["stderr"], found["stderr_mc"]) == (0.0, 0.0, 0.0)


def test_a_baseline_that_is_no_run_is_said(runs: list[Path], here: Path) -> None:
    answer = call("score", runs[0], "--baseline", "nowhere")
    assert answer.code == 2
    assert "nowhere" in answer.err


@pytest.mark.parametrize(("family", "said"), [("ae", "no bound"), ("vae", "no form 'denoising'")])
def test_a_baseline_that_cannot_be_measured_so_is_said(runs: list[Path], here: Path, family: str, said: str) -> None:
    call_well("train", family, "--steps", "1", "--latent", "2", "--widths", "8", "--out", "other", "--device", "cpu")
    answer = call("score", runs[0], "--baseline", "other")
    assert (answer.code, answer.out) == (2, "")
    assert "--baseline" in answer.err
    assert said in answer.err


def test_the_errors_of_a_difference_are_those_of_its_estimates() -> None:
    """By hand, from the paired estimates; and unpaired scores are refused."""
    a, b = (torch.randn(7, 3, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    difference = LikelihoodScore({"x": a}, 10, 6).minus(LikelihoodScore({"y": b}, 10, 6))
    d = (a - b).numpy() / (10 * math.log(2))
    assert difference.bits() == pytest.approx(d.mean())
    assert difference.stderr_mc() == pytest.approx(math.sqrt(sum(row.var(ddof=1) / 3 for row in d)) / 7)
    over_images = d.mean(1).std(ddof=1) / math.sqrt(7)
    assert difference.stderr() == pytest.approx(max(over_images, difference.stderr_mc()))
    with pytest.raises(ValueError, match="same images"):
        LikelihoodScore({"x": a}, 10, 6).minus(LikelihoodScore({"y": b[:, :2]}, 10, 4))
