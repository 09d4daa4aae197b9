"""The studio's tests share two small runs, and one studio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from studio_helpers import Served, make_folders, served


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, photos and copied."""
    return make_folders(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="session")
def studio(folders: Path) -> Iterator[Served]:
    """A studio on these folders."""
    pytest.importorskip("gradio", reason="the studio needs nelbo[studio]")
    with served(folders / "runs", folders / "photos", folders / "copied") as found:
        yield found
