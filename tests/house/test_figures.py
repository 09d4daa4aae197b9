"""A page of a study is of the present revision of the networks, or its title says that it is history."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load() -> ModuleType:
    """bench/figures.py."""
    spec = importlib.util.spec_from_file_location("figures", ROOT / "bench" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = load()
WITHOUT_NETWORK = {"inference": "closed-form distributions", "forms": "an explanation", "scale": "a calculation"}
"""Pages whose numbers do not depend on a network of nelbo."""
PAGES = sorted(set(figures.STUDIES.values()) - set(WITHOUT_NETWORK))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_of_the_present_network_or_history(page: str) -> None:
    file = ROOT / "docs" / f"{page}.md"
    if not file.exists():
        pytest.skip("a new study, which has not been measured")
    text = file.read_text(encoding="utf-8")
    if "(history)" in text.splitlines()[0]:
        return
    revisions = {int(found["revision"]) for found in figures.LINE.finditer(text)}
    assert revisions == {figures.present_revision()}, f"measure {page}.md again, or put (history) into its title"


def test_the_runner_knows_every_study_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(study in makefile.split(".PHONY:")[1].splitlines()[0].split() for study in figures.STUDIES)
    scripts = {path.stem for path in (ROOT / "bench" / "studies").glob("*.py") if "def main(" in path.read_text()}
    assert scripts - {"forms", "peers"} <= set(figures.STUDIES)  # forms is that of agreement; peers writes no page


def test_a_record_is_read_back_and_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "DOCS", tmp_path)
    (tmp_path / "weights.md").write_text("# Weights\n", encoding="utf-8")
    assert figures.measured("weights") is None
    assert not figures.is_present("weights")
    figures.record("weights", 130.0)
    figures.record("weights", 190.0)
    text = (tmp_path / "weights.md").read_text(encoding="utf-8")
    assert text.count("(Measured") == 1
    assert figures.measured("weights").minutes == 3
    assert figures.is_present("weights")
    monkeypatch.setattr(figures.nelbo, "__version__", "99")
    assert not figures.is_present("weights")
