"""The studio's tests share two small runs, one studio, and one Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Chromium, without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="the browser needs nelbo[docs]")
    with api.sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser") or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("there is no Chromium: apt-get install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
