"""Python blocks on pages: every block runs, page by page, and type-checks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHORTER = {"minutes=2)": "steps=20)"}
"""What a reader waits for and a test does not."""


def code_of(page: Path) -> str:
    """The page's blocks of Python, one after the other; those with prompts are doctests, and run elsewhere."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    code = "\n\n".join(block for block in blocks if not block.startswith(">>>"))
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    return code


WITH_CODE = [page for page in PAGES if code_of(page)]


def test_there_are_pages_with_code() -> None:
    assert {page.name for page in WITH_CODE} >= {"README.md", "python.md"}


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(code_of(page), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_code_of_every_page_has_right_types(tmp_path: Path) -> None:
    for page in WITH_CODE:
        (tmp_path / f"{page.stem.lower()}.py").write_text(code_of(page), encoding="utf-8")
    for example in sorted((ROOT / "examples").glob("*.py")):
        (tmp_path / example.name).write_text(example.read_text(encoding="utf-8"), encoding="utf-8")
    files = sorted(str(file) for file in tmp_path.glob("*.py"))
    # with the settings and the cache of `make types`, in which nelbo's modules have relative paths
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *files],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
