"""Pages with doctests: the code runs and prints the output on the page."""

from __future__ import annotations

import doctest
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_every_line_of_the_road_runs() -> None:
    found = doctest.testfile(str(DOCS / "road.md"), module_relative=False, encoding="utf-8")
    assert found.failed == 0
    assert found.attempted > 20
