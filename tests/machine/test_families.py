"""Every family trains, resumes bit by bit, samples, scores and describes itself."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from machine_helpers import call, call_well, same_tensors, tensors_of

from nelbo.config.families import family_names

DIFFUSION = (("--timesteps", "2"), ("--steps", "4"), "prior_bits_per_dim_at_most")
FAMILIES = {
    "ae": (("--latent", "4", "--widths", "8", "8"), (), (), "parameters"),
    "ddpm": (("--timesteps", "30", "--widths", "8", "8", "--dropout", "0.1"), *DIFFUSION),
    "diffusion": (("--predict", "levels", "--decoder", "categorical", "--widths", "8", "8"), *DIFFUSION),
    "gan": (("--latent", "4", "--widths", "8", "8", "--spectral"), (), (), "discriminator_parameters"),
    "hvae": (
        ("--latent", "2", "--depth", "3", "--widths", "8", "8"),
        ("--form", "iw", "--k", "2"),
        (),
        "p(x|z_1)",
    ),
    "vae": (("--latent", "4", "--widths", "8", "8"), ("--form", "iw", "--k", "2"), (), "p(x|z)"),
    "vdm": (("--widths", "8", "8", "--dropout", "0.1", "--gamma", "learned"), *DIFFUSION),
}
"""Each family with the options of a very small model, what to score and to sample it with, and one of its facts. A new
family is one line."""

COMMON = ("--batch-size", "8", "--device", "cpu", "--precision", "fp32")
every_family = pytest.mark.parametrize("family", list(FAMILIES))


def train(family: str, out: Path, *more: str) -> Path:
    call_well("train", family, *FAMILIES[family][0], *COMMON, "--out", out, *more)
    return out


def test_no_family_is_left_out() -> None:
    assert sorted(FAMILIES) == family_names()


@every_family
def test_a_family_does_what_the_commands_promise(family: str, here: Path) -> None:
    run = train(family, here / "run", "--steps", "6")
    assert list((run / "samples").glob("*.png"))
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    _, scoring, sampling, fact = FAMILIES[family]
    score = json.loads(call_well("score", run, "--limit", "8", *scoring, "--json").out)
    assert score["family"] == family
    if score["kind"] == "none":
        assert score["bits_per_dim"] is None
        assert score["why"]
        assert all(math.isfinite(measure["value"]) for measure in score["measures"].values())
        assert set().union(*metrics) >= {f"val_{name}" for name in score["measures"]}
        answer = call("score", run, "--form", "denoising")
        assert (answer.code, answer.out) == (2, "")
        assert "--form" in answer.err
    else:
        assert any("val_bits_per_dim" in row for row in metrics)
        assert sum(term["nats"] for term in score["terms"].values()) == pytest.approx(score["nats"], rel=1e-9)
        assert score["bits_per_dim"] > 0
    assert call_well("score", run, "--limit", "8", *scoring).out
    call_well("sample", run, "-n", "5", *sampling, "--out", "drawn.npz")
    assert np.load("drawn.npz")["images"].shape == (5, 8, 8, 1)
    assert fact in call_well("info", run).out


@every_family
def test_resumed_is_never_stopped(family: str, here: Path) -> None:
    straight = train(family, here / "straight", "--steps", "6", "--decay", "0")
    stopped = train(family, here / "stopped", "--steps", "3", "--decay", "0")
    train(family, stopped, "--steps", "6", "--decay", "0", "--resume")
    for part in ("model", "ema", "optimizer"):
        same_tensors(tensors_of(straight, part), tensors_of(stopped, part))
