"""docs/equations.md: every row names a function that exists and a test that exists."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| (.+?) \| \{py:obj\}`(nelbo\.[\w.]+)` \| `(tests/[\w/]+\.py)::(\w+)` \|$", TEXT, flags=re.MULTILINE
)
LINES = [line for line in TEXT.splitlines() if line.startswith("|") and "`nelbo." in line]


def test_every_row_was_read() -> None:
    assert len(ROWS) == len(LINES) > 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_the_function_exists(row: tuple[str, str, str, str]) -> None:
    parts = row[1].split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        assert found.__doc__ if callable(found) else found is not None
        return
    pytest.fail(f"{row[1]} is not there")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[1]}-{row[3]}")
def test_the_test_exists(row: tuple[str, str, str, str]) -> None:
    tree = ast.parse((ROOT / row[2]).read_text(encoding="utf-8"))
    assert row[3] in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
