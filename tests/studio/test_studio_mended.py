"""What visitors with a mouse have found: each in Chromium, or against the function behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from studio_helpers import Served
from test_studio_page import SLOW, Visit, paint


@pytest.fixture(scope="module")
def visit(chromium: Any, studio: Served) -> Iterator[Visit]:
    """One visit on a desktop."""
    found = Visit(chromium, studio)
    found.run("digits-ddpm")
    yield found
    found.close()


def test_a_refused_upload_leaves_no_image(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    visit.screen("Edit")
    visit.seen("#edit-canvas canvas:not([hidden])")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    page.locator("#edit-upload input[type=file]").set_input_files(str(tmp_path / "bad.png"))
    visit.note("edit", "bad.png")
    page.wait_for_function("document.querySelector('#edit-canvas canvas').hidden", timeout=SLOW)
    visit.press("Draw")
    visit.note("edit", "there is none of this run")
    page.locator("#edit-upload").get_by_role("button", name="Clear", exact=True).click()
    visit.seen("#edit-canvas canvas:not([hidden])")
    page.wait_for_function("document.querySelector('#edit-note').innerText.trim() === ''", timeout=SLOW)
    paint(visit)
    page.wait_for_function("/pixels are/.test(document.querySelector('#edit-canvas').innerText)", timeout=SLOW)
    visit.press("Draw")
    visit.note("edit", "6 draws")


def test_a_colour_file_is_converted_for_a_grey_run(visit: Visit, tmp_path: Path) -> None:
    from nelbo.jobs.edit_images import converted_levels

    colour = np.zeros((8, 8, 4), np.uint8)
    colour[..., 0], colour[:4, :, 3] = 255, 255
    Image.fromarray(colour).save(tmp_path / "red.png")
    found, lost = converted_levels(tmp_path / "red.png", (1, 8, 8), 17, None)
    assert found.unique().tolist() == [round(0.299 * 16)]
    assert "colour with transparency" in lost
    visit.screen("Edit")
    visit.page.locator("#edit-upload input[type=file]").set_input_files(str(tmp_path / "red.png"))
    visit.note("edit", "red.png is converted: it is colour with transparency, and the run's images are grey")
    visit.page.locator("#edit-upload").get_by_role("button", name="Clear", exact=True).click()
