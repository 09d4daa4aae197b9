"""Results of ``score`` and ``evaluate`` in Python: typed, as in --json, and as stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from machine_helpers import call_well
from pydantic import ValidationError

import nelbo
from nelbo.jobs.kept import read_kept


def test_a_score_is_what_json_has(own_run: Path) -> None:
    score = nelbo.Run(own_run).score(limit=8)
    assert isinstance(score, nelbo.Score)
    printed = call_well("score", own_run, "--limit", "8", "--json").out
    assert json.loads(printed) == json.loads(score.to_json()) == score.as_dict()
    assert call_well("score", own_run, "--limit", "8").out.rstrip() == str(score)
    assert sum(term.nats for term in score.terms.values()) == pytest.approx(score.nats)
    with pytest.raises(ValidationError):
        score.bits_per_dim = 0.0  # type: ignore[misc]


@pytest.mark.parametrize("settings", [{}, {"form": "entropy"}, {"baseline": "run"}])
def test_a_kept_score_is_read_back(own_run: Path, here: Path, settings: dict[str, str]) -> None:
    score = nelbo.score(own_run, limit=8, **settings)
    (file,) = (own_run / "scores").glob("*.json")
    assert read_kept(file, nelbo.Score) == score == nelbo.score(own_run, limit=8, **settings)
    assert read_kept(file, nelbo.Evaluation) is None
    assert list(score.extras) == (["difference"] if "form" in settings else [])
    assert (score.baseline is None) == ("baseline" not in settings)


def test_a_family_without_a_bound_says_why(here: Path) -> None:
    run = nelbo.train("ae", "digits", steps=2, widths=(8, 8), device="cpu", out="ae")
    score = run.score(limit=8)
    assert (score.kind, score.bits_per_dim, score.stderr, score.terms) == ("none", None, None, {})
    assert score.why
    assert score.measures
    assert score.why in str(score)
    with pytest.raises(nelbo.InputError, match=r"^form: "):
        run.score(form="iw")


def test_an_evaluation_is_what_json_has(own_run: Path, here: Path) -> None:
    run = nelbo.train("ae", "digits", steps=2, widths=(8, 8), latent=4, device="cpu", out="ae")
    found = nelbo.Run(own_run).evaluate(samples=20, steps=2, features=run.path)
    assert isinstance(found, nelbo.Evaluation)
    words = ("evaluate", own_run, "--samples", "20", "--steps", "2", "--features", "ae")
    assert json.loads(call_well(*words, "--json").out) == found.as_dict()
    assert call_well(*words).out.rstrip() == str(found)
    assert found.quality["FD-ae-digits"].value > 0
    assert found.modes is None


@pytest.mark.parametrize("bad", [{"nonsense": 1}, {"samples": 30}, {"replicates": 1}, {"timesteps": -1}])
def test_settings_that_there_are_not_name_the_field(own_run: Path, bad: dict[str, int]) -> None:
    with pytest.raises(nelbo.InputError, match=f"^{next(iter(bad))}: "):
        nelbo.score(own_run, **bad)
