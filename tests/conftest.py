"""What holds in every test: one thread, in it and in every process that it starts, and torch as it was. A browser.

Networks are tiny, and two test processes share two cores. Threads that wait for each other on a busy machine make small
models hundreds of times slower.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was() -> Iterator[None]:
    """A test that changes a setting of torch for good fails, and not the tests after it."""
    yield
    found = {"default dtype": torch.get_default_dtype(), "threads": torch.get_num_threads()}
    found["gradients"] = torch.is_grad_enabled()
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    assert found == {"default dtype": torch.float32, "threads": 1, "gradients": True}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Chromium, without a window. It ends with the module, because a loop of events goes on as long as it runs."""
    api = pytest.importorskip("playwright.sync_api", reason="the browser needs nelbo[docs]")
    with api.sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser") or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("there is no Chromium: apt-get install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
