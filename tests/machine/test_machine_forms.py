"""``nelbo score --form``: the forms of the bound on the command line."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from machine_helpers import call, call_well, train_tiny

from nelbo.errors import InputError
from nelbo.models.vdm import VDM, VDMOptions

BOUNDS = ("denoising", "consistency", "trajectory")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small DDPM on digits, T = 40, the decoder's variance learned. Only scored."""
    out = tmp_path_factory.mktemp("forms") / "run"
    return train_tiny(out, "--timesteps", "40", "--schedule", "sigmoid", "--objective", "hybrid", steps=60)


def scored(run: Path, form: str, *more: str) -> dict[str, Any]:
    found = json.loads(call_well("score", run, "--json", "--form", form, "--limit", "40", *more).out)
    assert isinstance(found, dict)
    return found


def test_the_three_bounds_agree_within_their_monte_carlo_error(trained: Path) -> None:
    """On the same images, each with a seed of its own; three combined standard errors, and those not vacuous."""
    scores = [
        scored(
            trained,
            form,
            "--seed",
            str(seed),
            "--replicates",
            "8",
            *([] if form == "trajectory" else ["--timesteps", "0"]),
        )
        for seed, form in enumerate(BOUNDS)
    ]
    for one, two in combinations(scores, 2):
        error = math.hypot(one["stderr_mc"], two["stderr_mc"])
        assert abs(one["bits_per_dim"] - two["bits_per_dim"]) <= 3 * error
        assert error < 0.05 * one["bits_per_dim"]
    for score in scores:
        assert score["kind"] == "bound"
        assert "why" not in score
        assert list(score["terms"]) == ["reconstruction", "diffusion", "prior", "cluster"]
        assert score["evaluations"] == 8 * 40


def test_the_entropy_form_is_no_bound_and_says_what_it_lacks(trained: Path) -> None:
    """Its total and the difference beside it are the denoising form's number, with the same noise."""
    entropy, denoising = scored(trained, "entropy"), scored(trained, "denoising")
    assert entropy["kind"] == "estimate"
    assert entropy["why"].startswith("not a bound")
    assert list(entropy["terms"]) == ["edge", "diffusion", "prior", "cluster"]
    assert math.fsum(term["nats"] for term in entropy["terms"].values()) == pytest.approx(entropy["nats"], rel=1e-9)
    for unit in ("nats", "bits_per_dim"):
        assert entropy[unit] + entropy["difference"][unit] == pytest.approx(denoising[unit], rel=1e-5)
    assert abs(entropy["difference"]["bits_per_dim"]) > 0.1
    shown = call_well("score", trained, "--form", "entropy", "--limit", "40").out
    assert "not a bound" in shown
    assert "bound − total" in shown


def test_whole_trajectories_leave_no_t_to_choose(trained: Path) -> None:
    assert scored(trained, "trajectory", "--timesteps", "0") == scored(trained, "trajectory")
    answer = call("score", trained, "--form", "trajectory", "--timesteps", "4")
    assert answer.code == 2
    assert "--timesteps" in answer.err
    assert answer.out == ""


def test_an_unknown_form_names_the_known_ones(trained: Path) -> None:
    answer = call("score", trained, "--form", "consistence")
    assert answer.code == 2
    assert all(form in answer.err for form in (*BOUNDS, "entropy"))


def test_a_family_without_the_form_says_which_it_has() -> None:
    model = VDM.from_options(VDMOptions(widths=(8,)).resolved((1, 4, 4)), (1, 4, 4), 3)
    assert model.forms.named("denoising").why is None
    with pytest.raises(InputError, match=r"form.*vdm.*forms: denoising"):
        model.forms.named("trajectory")


def test_forms_are_kept_apart(trained: Path) -> None:
    before = {path.name for path in (trained / "scores").glob("*.json")}
    found = [scored(trained, form, "--seed", "99") for form in (*BOUNDS, "entropy")]
    assert len({path.name for path in (trained / "scores").glob("*.json")} - before) == 4
    assert [scored(trained, form, "--seed", "99") for form in (*BOUNDS, "entropy")] == found
