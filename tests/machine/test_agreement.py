"""The agreement table (``make agreement``) at small size: for the exact denoiser and on digits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from machine_helpers import train_tiny

import forms
from nelbo.diffusion.schedules import LinearBeta, chain_of
from nelbo.diffusion.variances import VARIANCES
from nelbo.jobs.run import Run
from nelbo.theory.exact import GaussianData


def test_on_the_oracle_every_form_is_the_likelihood_where_the_reverse_process_is_exact() -> None:
    """Exact expectations at T = 1,000: to round-off of sums of a thousand terms up to 1e3, so 1e-9."""
    found = forms.oracle_expectations(1000)
    exact = 0.5 * 0.7**2 + 0.5 * math.log(2 * math.pi)
    for name in ("−ln p", "denoising", "consistency"):
        assert found[name][0] == pytest.approx(exact, abs=1e-9)
    assert found["denoising"][1] == pytest.approx(found["consistency"][1], abs=1e-9)
    assert found["denoising"][1] > exact + 0.1
    assert found["entropy, over the data"][0] == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=1e-9)


def test_on_the_oracle_trajectories_have_the_same_mean() -> None:
    """T = 100, σ² = β̃, 2,000 trajectories: within 3 standard errors of the exact expectation."""
    gammas, data = chain_of(LinearBeta().grid(100)), GaussianData(torch.zeros(1), torch.eye(1))
    x_0 = torch.full((2000, 1), 0.7, dtype=torch.float64)
    total = forms.oracle_trajectories(data, gammas, VARIANCES["beta_tilde"], x_0)
    expected = forms.oracle_expectations(100)["denoising"][1]
    assert abs(float(total.mean()) - expected) <= 3 * float(total.std()) / 2000**0.5


def test_on_digits_the_three_bounds_agree(tmp_path: Path) -> None:
    """Three pairs, noise of their own: none beyond 3.5 combined errors (1 in 700 by chance, and the seed is fixed)."""
    run = train_tiny(tmp_path / "run", "--timesteps", "40", "--schedule", "sigmoid", steps=60)
    found = forms.measured(Run(run), 40, 8, None, forms.BOUNDS)
    assert [row.form for row in found] == [
        "denoising, 8 t",
        "denoising, 39 t",
        "consistency, 8 t",
        "consistency, 39 t",
        "trajectory",
    ]
    assert forms.disagreement(found) <= 3.5
    # What is compared is known well enough for a fault to show.
    assert all(row.score.stderr_mc() < 0.05 * row.score.bits() for row in found if row.evaluations == 40)
    page = forms.run_page("digits", found)
    assert f"| trajectory | bound | 40 | {found[-1].score.bits():.4f} |" in page
    forms.draw({"digits": found}, tmp_path / "variance.png")
    assert (tmp_path / "variance.png").stat().st_size > 1000
