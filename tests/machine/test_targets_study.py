"""The pages of targets and of guidance: rows are kept by run, and a page with rows of another code says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import guidance
import targets


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page of two targets with remarks, and an empty record."""
    monkeypatch.setattr(targets, "KEPT", tmp_path / "targets.json")
    monkeypatch.setattr(targets, "TARGETS", {name: targets.TARGETS[name] for name in ("ddpm", "vae")})
    path = tmp_path / "targets.md"
    path.write_text(f"# Targets\n{targets.REMARKS}By hand.\n", encoding="utf-8")
    return path


def row(name: str, found: str, code: str = targets.CODE) -> dict[str, Any]:
    """One result."""
    facts = {"asked": "≤ 1 bits/dim", "found": found, "reached": True, "parameters": 1e6, "steps": 1234, "minutes": 9.6}
    made = {"code": code, "day": "2026-01-01", "machine": "2 cores", "commands": ["nelbo score RUN"], "picture": False}
    return {"name": name, **facts, **made}


def test_a_run_replaces_its_own_rows_alone(page: Path) -> None:
    targets.keep("vae", [row("vae", "0.9")], page)
    targets.keep("ddpm", [row("ddpm", "0.7"), row("ddpm", "0.8")], page)
    targets.keep("vae", [row("vae", "0.6")], page)
    assert [(each["name"], each["found"]) for each in json.loads(targets.KEPT.read_text(encoding="utf-8"))] == [
        ("ddpm", "0.7"),
        ("ddpm", "0.8"),
        ("vae", "0.6"),
    ]
    text = page.read_text(encoding="utf-8")
    assert text.count("| ≤ 1 bits/dim |") == 3
    assert "0.9" not in text
    assert text.endswith("By hand.\n")


def test_a_page_with_rows_of_another_code_is_history(page: Path) -> None:
    targets.keep("ddpm", [row("ddpm", "0.7")], page)
    assert "(history)" in page.read_text(encoding="utf-8").splitlines()[0]  # vae is missing
    targets.keep("vae", [row("vae", "0.9", code="0.0, 1")], page)
    assert "(history)" in page.read_text(encoding="utf-8").splitlines()[0]
    targets.keep("vae", [row("vae", "0.9")], page)
    assert page.read_text(encoding="utf-8").splitlines()[0] == "# Targets"


def test_a_classifier_is_judged_by_its_share_and_its_time() -> None:
    result = {"right": {"value": 0.99, "stderr": 0.002}, "undecided": 0.01, "seconds": 38.0, "n": 2000}
    assert targets.classified(result) == ("0.9900 ± 0.0020 right, 0.010 undecided, 19 ms an image, 2,000 images", True)
    assert not targets.classified(result | {"seconds": 42.0})[1]
    assert not targets.classified(result | {"right": {"value": 0.98, "stderr": 0.002}})[1]


def test_no_guidance_has_one_row_and_a_point_on_every_curve(tmp_path: Path) -> None:
    none = guidance.Point(1.0, 0.8, 0.9, 0.1, 0.95, 3.0)
    curves = {name: [none, none._replace(g=g)] for name, g in (("one", 2.0), ("two", 3.0))}
    table = list(guidance.rows(curves, {"one": "40", "two": "30"}))
    assert [line.split(" | ")[:2] for line in table] == [["| none", "1"], ["| one", "2"], ["| two", "3"]]
    assert [line.split(" | ")[-1] for line in table] == ["20 |", "40 |", "30 |"]
    guidance.plot(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
