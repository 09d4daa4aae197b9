"""Fixtures: an empty working directory, and two small runs that tests read and never change."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from machine_helpers import train_tiny, write_pictures


def as_text(value: Any) -> Any:
    """The same with every string as UTF-8 can write it."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {as_text(key): as_text(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(as_text(each) for each in value)
    return value


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """A test of names that are no text fails like any other: its report would stop all tests in several processes."""
    return as_text((yield))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; no data and no cache but what a test makes."""
    where = tmp_path / "here"
    where.mkdir()
    monkeypatch.chdir(where)
    monkeypatch.setenv("NELBO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NELBO_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    return where


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits, 12 steps. Only to be read."""
    return train_tiny(tmp_path_factory.mktemp("runs") / "digits", steps=12)


@pytest.fixture
def own_run(digits_run: Path, here: Path) -> Path:
    """A copy of it, as ``run`` in the working directory."""
    return Path(shutil.copytree(digits_run, here / "run"))


@pytest.fixture(scope="session")
def colour_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve RGB images of 10 × 14. Only to be read."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "colour")


@pytest.fixture(scope="session")
def colour_run(tmp_path_factory: pytest.TempPathFactory, colour_folder: Path) -> Path:
    """A run on them. Only to be read."""
    return train_tiny(tmp_path_factory.mktemp("runs") / "colour", "--data", colour_folder, steps=2)
