"""Golden runs: runs of earlier versions load, and give the same numbers as then."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_helpers import IMAGES, RUNS, info, numbers, recorded

PATHS = sorted(file.parent for file in RUNS.glob("format-*/*/config.toml"))
TOLERANCE = 1e-9
"""Nats, or half the range of pixels: in float64 another order of additions changes 1e-11."""


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_golden_run_gives_the_numbers_that_it_gave(path: Path) -> None:
    expected, said = recorded(path)
    found = numbers(path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = float((found[name] - value).abs().max())
        assert difference <= TOLERANCE, f"{name} differs by {difference}"
    now = info(path)
    assert now.keys() == said.keys()
    for name, value in said.items():
        assert now[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-12)), name


def test_golden_runs_are_of_every_family_and_small() -> None:
    assert {path.name.split("-")[0] for path in PATHS} == {"ae", "vae", "hvae", "gan", "ddpm", "vdm"}
    assert IMAGES > 1
    for path in PATHS:
        assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 330_000
