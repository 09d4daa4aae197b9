"""The study of editing (``make editing``) at small size: what it measures is right for samples of the exact law."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from machine_helpers import train_tiny
from torch import Tensor

import editing
from nelbo.editing.methods import MomentMatching, Replacement
from nelbo.jobs.run import Run

ORACLES = editing.oracles()


def exact_samples(oracle: editing.Oracle, n: int) -> Tensor:
    """n samples of the exact law given what is seen."""
    random = np.random.default_rng(0)
    exact, rest = oracle.exact, oracle.rest
    parts = []
    for part in exact.parts:
        root = torch.linalg.cholesky(rest @ part.cov @ rest.T)
        noise = torch.from_numpy(random.standard_normal((n, len(rest))))
        parts.append(part.mean + noise @ root.T @ rest)
    chosen = torch.from_numpy(random.choice(len(parts), n, p=exact.weights.numpy()))
    return torch.stack(parts)[chosen, torch.arange(n)]


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
def test_samples_of_the_exact_law_have_no_error(oracle: editing.Oracle) -> None:
    """20,000 samples: KL below twice its expectation (d + d(d + 1)/2)/2n for one mode, and four times for two, some of
    whose samples are assigned to the other; other errors below 0.03. A shift of half a standard deviation is seen."""
    n, d = 20_000, len(oracle.rest)
    x = exact_samples(oracle, n)
    found = editing.measured(oracle, "exact", 0, x)
    expected = (d + d * (d + 1) / 2) / (2 * n)
    assert found.kl < 2 * len(oracle.exact.parts) * expected
    assert max(found.mean, found.cov) < 0.03
    assert found.first == pytest.approx(float(oracle.exact.weights[0]), abs=0.02)
    shift = 0.5 * (oracle.rest @ oracle.exact.cov @ oracle.rest.T).trace().sqrt() * oracle.rest[0]
    assert editing.measured(oracle, "shifted", 0, x + shift).mean == pytest.approx(0.5, abs=0.03)


def test_steps_are_those_that_the_budget_pays() -> None:
    assert editing.steps_for(MomentMatching(3), 200) == 50
    assert editing.steps_for(Replacement(10), 200) == 20
    assert editing.steps_for(Replacement(10), 30) is None


def test_the_page_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table at small size, and the error of the nearest neighbour by hand."""
    monkeypatch.setattr(editing, "BUDGETS", (25, 50))
    monkeypatch.setattr(editing, "SETTINGS", {"guidance": 3})
    run = Run(train_tiny(tmp_path / "run"))
    imputation = editing.imputations([run.path], 5, 2)
    tables = [editing.table(oracle, 50, lambda line: None) for oracle in ORACLES]
    page = editing.page(tables, 50, imputation)
    assert page.count("### ") == len(ORACLES) + 1
    assert "| guidance, 3 steps | 6 |" in page
    found = editing.FOUND.search(page)
    assert found is not None
    assert found[0].strip() == imputation.strip()
    x, train = (run.dataset.split(split).double() / 8 - 1 for split in ("test", "train"))
    errors = []
    for image in x[:5]:
        near = train[(train - image)[..., :4].square().sum((1, 2, 3)).argmin()]
        errors.append(float((near - image)[..., 4:].square().mean()))
    assert f"| nearest training image by the seen pixels | 0 | {np.mean(errors):.4f} ±" in page
