"""Copies of the package with a planted error, and tests that run on a copy in its own process."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PRELOADED = ["torch.distributed.tensor", "torchdiffeq", "scipy.stats", "scipy.interpolate", "mpmath", "hypothesis"]
"""What takes long to import and is not nelbo: a server imports it once, and each process is a fork of it."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Of the server and of all processes: one thread, and no plugin of pytest's that these tests have no use for."""
OPTIONS = ("-p", "no:unraisableexception")
"""It collects all garbage at the end, which takes as long as the tests."""
SEEN = "call AssertionError"
"""How a test ends that sees the error: its own assertion, and not a crash on the way to it."""


class Mutant(NamedTuple):
    """An error to plant.

    Attributes:
        kind: the historic mistake that it stands for.
        what: which of them it is, in a few words.
        file: relative to src/nelbo.
        old, new: what stands there, once in the file, and what is planted in its place.
        seen_by: tests that must fail, each by its own assertion: ids relative to tests/math, or relative to tests if
            they name a folder; parameters included.
    """

    kind: str
    what: str
    file: str
    old: str
    new: str
    seen_by: tuple[str, ...]


class Answer(NamedTuple):
    """pytest's exit code, test → how it ended, and what pytest printed."""

    code: int
    ended: dict[str, str]
    out: str


class Watch:
    """A plugin that notes how every test ended."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        name = item.nodeid.removeprefix("tests/math/").removeprefix("tests/")
        if call.excinfo is not None:
            self.ended[name] = f"{call.when} {call.excinfo.typename}"
        elif call.when == "call":
            self.ended[name] = "passed"


def copied(where: Path, mutant: Mutant | None = None) -> Path:
    """A folder with a copy of the package in it, and the error in that."""
    package = Path(shutil.copytree(ROOT / "src" / "nelbo", where / "nelbo", ignore=shutil.ignore_patterns("*.pyc")))
    if mutant is not None:
        source = package / mutant.file
        text = source.read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, f"{mutant.file} must have this once: {mutant.old}"
        source.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    return where


def path_of(test: str) -> str:
    """The id of a test as pytest takes it."""
    return f"tests/{test}" if "/" in test.partition("::")[0] else f"tests/math/{test}"


def run_tests(where: Path, tests: tuple[str, ...]) -> Answer:
    """Run tests on the copy in this folder. To be called in a new process, where no nelbo is loaded."""
    assert "nelbo" not in sys.modules
    sys.path.insert(0, str(where))
    os.chdir(ROOT)
    watch, out = Watch(), io.StringIO()
    with contextlib.redirect_stdout(out):
        code = pytest.main([*OPTIONS, *map(path_of, tests)], plugins=[watch])
    importlib.import_module("nelbo")
    loaded = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "nelbo"]
    strange = [file for file in loaded if file is not None and not Path(file).is_relative_to(where)]
    assert not strange, f"not from the copy: {strange}"
    return Answer(int(code), watch.ended, out.getvalue())
