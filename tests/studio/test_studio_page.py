"""The studio in Chromium, as a visitor uses it: every screen, dark and light, on a phone, by keyboard."""

from __future__ import annotations

import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from studio_helpers import PICTURES, Served

import nelbo
from nelbo.data import load
from nelbo.report.pictures import picture

SCREENS = ("Data", "Train", "Sample", "Denoise", "Latents", "Edit", "Odd ones", "Compare", "Compress")
PHONE = {"width": 390, "height": 844}
TALLEST = 1240.0
"""Height of a picture for docs, in pixels."""
DESKTOP = {"width": 1280, "height": 900}
SLOW = 60_000
"""Milliseconds that an answer may take on a busy machine."""
ANSWER = 2.0
"""Seconds that an answer to a slider may take here; docs/howto/studio.md has what it takes on an idle machine."""


class Visit:
    """A page, with the requests and the errors of its visit.

    Args:
        chromium: the browser.
        studio: the studio.
        scheme: ``dark`` or ``light``.
        size: of the window.
        runs: whether the folders have runs.
    """

    def __init__(
        self, chromium: Any, studio: Served, scheme: str = "light", size: dict[str, int] = DESKTOP, runs: bool = True
    ) -> None:
        self.context = chromium.new_context(color_scheme=scheme, viewport=size, accept_downloads=True)
        self.page = self.context.new_page()
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.goto(studio.address)
        self.page.wait_for_selector("#screens", timeout=SLOW)
        if runs:
            self.page.wait_for_function("document.querySelector('#run input')?.value", timeout=SLOW)

    def run(self, name: str) -> None:
        """Choose a run."""
        self.page.locator("#run input").click()
        self.page.get_by_role("option", name=name, exact=True).click()

    def screen(self, name: str) -> None:
        """Go to a screen."""
        self.page.get_by_role("tab", name=name, exact=True).click()

    def saved(self, name: str, suffix: str) -> str:
        """The path in the note of a screen that has saved."""
        return re.findall(rf"Saved as (.*{re.escape(suffix)})\.", self.note(f"{name}-saved", rf"Saved as .*\{suffix}"))[
            -1
        ]

    def press(self, name: str) -> None:
        """Press a button of the screen that is shown."""
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").first.click()

    def seen(self, selector: str) -> Any:
        """The element, when it is there."""
        self.page.wait_for_selector(selector, timeout=SLOW)
        return self.page.locator(selector)

    def note(self, name: str, pattern: str) -> str:
        """The note of a screen, when it has this text."""
        try:
            self.page.wait_for_function(
                "([id, text]) => new RegExp(text).test(document.getElementById(id)?.innerText || '')",
                arg=[f"{name}-note", pattern],
                timeout=SLOW,
            )
        finally:
            text = str(self.page.locator(f"#{name}-note").inner_text())
            print(f"{name}: {text!r}")  # shown beside a failure
        return text

    def value(self, selector: str, value: str) -> None:
        """Set a number."""
        box = self.page.locator(f"{selector} input[type=number]")
        box.fill(value)
        box.press("Enter")

    def picture(self, name: str) -> None:
        """A picture of the whole page for docs, when they are made."""
        if PICTURES:
            self.page.wait_for_timeout(600)
            self.page.evaluate("document.activeElement.blur()")
            self.page.mouse.move(5, 5)
            self.page.screenshot(path=f"{PICTURES}/studio-{name}.png", clip=self.clip(), full_page=True)

    def clip(self) -> dict[str, float]:
        """The part of the page to show."""
        box = self.page.locator("main").first.bounding_box()
        size = self.page.viewport_size
        self.page.evaluate("scrollTo(0, 0)")
        return {"x": 0, "y": 0, "width": size["width"], "height": min(TALLEST, box["height"] + 60)}

    def close(self) -> None:
        """End the visit; it had no errors, and asked no other host."""
        self.context.close()
        assert not self.errors, self.errors


@pytest.fixture(scope="module")
def visit(chromium: Any, studio: Served) -> Iterator[Visit]:
    """One visit on a desktop, which all screens share."""
    found = Visit(chromium, studio)
    found.run("digits-ddpm")
    yield found
    assert found.hosts == {f"127.0.0.1:{studio.port}"}
    found.close()


def test_the_first_page_comes_before_the_screens(studio: Served) -> None:
    """Seconds on a busy machine; docs/howto/studio.md has what it takes on an idle one."""
    assert studio.first < 10
    assert studio.first < studio.ready


def test_data_are_shown_by_split_and_class(visit: Visit) -> None:
    page = visit.page
    visit.screen("Data")
    visit.press("Look")
    visit.seen("#data-pictures img")
    assert visit.note("data", "of 1,259 in train")
    assert page.locator("#data-pictures img").count() == 40
    assert "8 × 8 pixels" in page.locator("#data-facts").inner_text()
    visit.picture("data")
    page.locator("#data-class input").click()
    page.get_by_role("option", name="4", exact=True).click()
    page.get_by_label("test", exact=True).locator("visible=true").first.check()
    visit.note("data", "of 3. in test")
    assert all("class 4" in text for text in page.locator("#data-pictures figcaption").all_inner_texts())


def test_data_that_are_refused_say_why(visit: Visit, folders: Path) -> None:
    page = visit.page
    visit.screen("Data")
    spec = page.locator("#data-spec input")
    for text, problem in {
        "/etc": "outside",
        str(folders / "photos/../../.."): "outside",
        "hf:anything": "known names",
        "https://example.org/x": "outside",
        str(folders / "photos"): "broken.png.*Skip unreadable files",
    }.items():
        spec.fill(text)
        spec.press("Enter")
        visit.press("Look")
        assert "Traceback" not in visit.note("data", problem)
    visit.press("Find unreadable files")
    visit.note("data", "1 file cannot be read")
    assert "0/broken.png" in page.locator("#data-copies").inner_text()
    page.get_by_label("Skip unreadable files").check()
    visit.press("Look")
    visit.note("data", "Images 0 to")
    page.get_by_label("Skip unreadable files").uncheck()
    spec.fill(str(folders / "copied"))
    spec.press("Enter")
    visit.press("Look")
    visit.note("data", "of 1\\d in train")
    assert "1 image is in more than one split" in page.locator("#data-copies").inner_text()


def test_images_are_drawn_and_saved(visit: Visit, folders: Path) -> None:
    page = visit.page
    visit.screen("Sample")
    page.locator("#sample-label input").click()
    page.get_by_role("option", name="3", exact=True).click()
    visit.seen("#sample-pictures img")
    visit.value("#sample-n", "10")
    visit.press("Draw")
    visit.note("sample", "10 images of ddpm.*evaluations")
    captions = page.locator("#sample-pictures figcaption").all_inner_texts()
    assert captions == [f"seed 0, {i}: 3" for i in range(10)]
    visit.picture("sample")
    for kind, suffix in {"PNG": ".png", "NPZ": ".npz", "GIF": ".gif"}.items():
        page.get_by_label("Save as").click()
        page.get_by_role("option", name=re.compile(kind)).click()
        visit.press("Save")
        saved = folders / visit.saved("sample", suffix)
        assert saved.parent == folders / "runs/digits-ddpm/samples"
        with page.expect_download() as waiting:
            page.locator("#sample-file").click()
        assert Path(waiting.value.path()).read_bytes() == saved.read_bytes()


def seconds_of(visit: Visit, slider: str, outcome: str, value: float) -> float:
    """Seconds from the move of a slider to another picture."""
    found: float = visit.page.evaluate(
        """([slider, outcome, value, slow]) => new Promise((done, fail) => {
          const input = document.querySelector(slider + ' input[type=range]');
          const seen = () => document.querySelector(outcome + ' img')?.src, began = performance.now(), before = seen();
          const look = () => {
            const took = performance.now() - began;
            if (seen() && seen() !== before) done(took / 1000);
            else if (took > slow) fail(new Error(`${outcome} stays ${seen() ? 'the same' : 'empty'}`));
            else requestAnimationFrame(look);
          };
          requestAnimationFrame(look);
          Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, value);
          input.dispatchEvent(new Event('input', {bubbles: true}));
        })""",
        [slider, outcome, value, SLOW],
    )
    return found


def test_denoising_follows_the_slider(visit: Visit) -> None:
    page = visit.page
    visit.screen("Denoise")
    visit.press("Show")
    visit.seen("#denoise-way img")
    visit.note("denoise", "bound of this image is .* ± .* bits/dim")
    assert page.locator("#denoise-way img").count() == 16
    times = [seconds_of(visit, "#denoise-t", "#denoise-now", t) for t in (0.7, 0.3, 0.6, 0.2, 0.8, 0.4)]
    print(f"slider of denoise: {sorted(times)[3]:.3f} s")
    assert sorted(times)[3] < ANSWER
    page.wait_for_function("document.querySelector('#denoise-now dd')?.innerText === '0.40'", timeout=SLOW)
    visit.picture("denoise")
    page.get_by_label("an image that the model draws").check()
    page.wait_for_function(
        "document.querySelector('#denoise-now')?.innerText.includes('state of the drawing')", timeout=SLOW
    )


def test_latents_are_walked(visit: Visit) -> None:
    visit.screen("Latents")
    visit.press("Walk")
    visit.note("latents", "From seed 0 to seed 1")
    assert visit.seen("#latents-pictures img").count() == 8
    visit.page.locator("#latents-save").click()
    visit.note("latents-saved", r"Saved as .*walk-step-\d{8}-seed0-to-seed1\.png")
    visit.picture("latents")
    visit.press("Line between the two images")
    visit.note("latents", "Deterministic flow")
    visit.run("digits-vae")
    visit.press("What the latents do")
    visit.note("latents", "vae at step")
    assert visit.seen("#latents-pictures img").count() == 3
    visit.run("digits-ddpm")


def paint(visit: Visit) -> None:
    """Paint over the middle of the image."""
    canvas = visit.seen("#edit-canvas canvas:not([hidden])")
    canvas.scroll_into_view_if_needed()
    box, mouse = canvas.bounding_box(), visit.page.mouse
    mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.45 * box["height"])
    mouse.down()
    mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.45 * box["height"], steps=10)
    mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.65 * box["height"], steps=5)
    mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.65 * box["height"], steps=10)
    mouse.up()


def test_a_painted_hole_is_filled(visit: Visit, folders: Path) -> None:
    page = visit.page
    visit.screen("Edit")
    visit.seen("#edit-canvas canvas:not([hidden])")
    visit.press("Draw")
    visit.note("edit", "no pixel is marked")
    paint(visit)
    page.wait_for_function("/1[0-9] pixels/.test(document.querySelector('#edit-canvas').innerText)", timeout=SLOW)
    visit.press("Draw")
    visit.note("edit", "6 draws")
    assert visit.seen("#edit-pictures img").count() == 8
    visit.picture("edit")
    visit.press("Clear the hole")
    page.wait_for_function("document.querySelector('#edit-canvas').innerText.includes('Paint with')", timeout=SLOW)
    page.locator("#edit-canvas canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    assert "1 pixel is marked" in page.locator("#edit-canvas").inner_text()
    page.get_by_label("Vary", exact=True).check()
    visit.note("edit", "noised")
    visit.press("Draw")
    visit.note("edit", "6 draws")
    page.get_by_label("Enlarge", exact=True).check()
    visit.note("edit", "reduced")
    visit.press("Draw")
    visit.note("edit", "6 draws")
    page.get_by_label("Fill the hole", exact=True).check()
    visit.note("edit", "Paint over")
    page.locator("input[type=file]").set_input_files(str(folders / "photos/1/01.png"))
    page.wait_for_function("document.querySelector('#edit-canvas').innerText.includes('Paint with')", timeout=SLOW)
    paint(visit)
    page.wait_for_function("/pixels are/.test(document.querySelector('#edit-canvas').innerText)", timeout=SLOW)
    visit.press("Draw")
    visit.note("edit", "6 draws")


def test_an_upload_that_is_no_image_is_refused(visit: Visit, tmp_path: Path) -> None:
    visit.screen("Edit")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    visit.page.get_by_role("button", name="Clear", exact=True).click()
    visit.page.locator("input[type=file]").set_input_files(str(tmp_path / "bad.png"))
    assert "bad.png" in visit.note("edit", "bad.png")


def test_odd_ones_are_found(visit: Visit) -> None:
    visit.screen("Odd ones")
    visit.value("#odd-n", "5")
    visit.press("Find the odd ones")
    frame = visit.seen("#odd-page iframe")
    assert "worst-" in visit.note("odd", "The page is kept as")
    page = frame.content_frame
    assert "5 strangest images of 200" in page.locator("h1").inner_text()
    assert "Threshold" in visit.page.locator("#odd-facts").inner_text()
    visit.picture("odd-ones")


def test_odd_ones_of_a_folder_of_another_size_are_found(visit: Visit, folders: Path) -> None:
    spec = visit.page.locator("#odd-spec input")
    spec.fill(str(folders / "photos/1"))
    spec.press("Enter")
    visit.page.get_by_label("all", exact=True).locator("visible=true").first.check()
    visit.press("Find the odd ones")
    visit.page.wait_for_function("document.querySelector('#odd-facts')?.innerText.includes('of 20')", timeout=SLOW)
    assert "strangest images of 20" in visit.seen("#odd-page iframe").content_frame.locator("h1").inner_text()


def test_runs_are_compared(visit: Visit) -> None:
    visit.screen("Compare")
    visit.press("Compare")
    visit.note("compare", "two runs or more")
    for box in visit.page.locator("#compare-runs input").all()[:2]:
        box.check()
    visit.press("Compare")
    frame = visit.seen("#compare-page iframe").content_frame
    assert "2 runs" in frame.locator("h1").inner_text()
    assert frame.locator("img").count() >= 3
    visit.picture("compare")


def test_images_are_compressed_and_come_back(visit: Visit, folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("constriction", reason="the codec needs nelbo[codec]")
    visit.run("digits-vae")
    visit.screen("Compress")
    visit.press("Decompress")
    visit.note("compress-back", "compress images first")
    count = 359 if PICTURES else 64
    visit.value("#compress-n", str(count))
    visit.press("Compress")
    line = visit.note("compress", f"{count} images in [0-9,]+ bytes")
    size = int(line.split(" images in ")[1].split(" ")[0].replace(",", ""))
    (file,) = (folders / "runs/digits-vae/compressed").glob("*.nelbo")
    assert file.stat().st_size == size
    parts = nelbo.info(file)["parts"]
    images = sum(parts.get(name, 0) for name in ("model", "initial", "plain", "apart"))
    facts = visit.page.locator("#compress-facts").inner_text()
    assert f"Of which header and index\n{size - images:,} bytes" in facts
    table = visit.page.locator("#compress-facts table").inner_text()
    assert {"PNG, a file each", "WebP, side by side"} <= set(re.findall(r"^[^\t\n]+", table, re.MULTILINE))
    visit.press("Decompress")
    visit.note("compress-back", f"{count} of {count} images are back")
    with visit.page.expect_download() as download:
        visit.press("Download the images")
    download.value.save_as(tmp_path / "images.zip")
    with zipfile.ZipFile(tmp_path / "images.zip") as found:
        names = sorted((name for name in found.namelist() if name.endswith(".png")), key=lambda name: Path(name).name)
        parts = [np.asarray(Image.open(found.open(name))) for name in names]
    expected = [np.asarray(picture(image, 17)) for image in load("digits").split("test")[:count]]
    assert all(np.array_equal(one, two) for one, two in zip(parts, expected, strict=True))
    visit.picture("compress")


def test_a_reload_keeps_the_screen_and_the_run(visit: Visit) -> None:
    visit.screen("Latents")
    visit.run("digits-vae")
    visit.page.wait_for_function("location.hash.includes('latents') && location.hash.includes('digits-vae')")
    visit.page.reload()
    visit.page.wait_for_selector("#latents-walk", state="visible", timeout=SLOW)
    visit.page.wait_for_function("document.querySelector('#run input')?.value === 'digits-vae'", timeout=SLOW)


def test_two_tabs_do_not_disturb_each_other(chromium: Any, studio: Served) -> None:
    tabs = [Visit(chromium, studio), Visit(chromium, studio)]
    for tab, run in zip(tabs, ("digits-ddpm", "digits-vae"), strict=True):
        tab.run(run)
        tab.screen("Sample")
    for tab in tabs:
        tab.press("Draw")
    for tab, family in zip(tabs, ("ddpm", "vae"), strict=True):
        tab.note("sample", f"16 images of {family}")
        tab.close()


def test_a_run_that_vanishes_is_one_message(chromium: Any, studio: Served, folders: Path) -> None:
    copy = folders / "runs/short-lived"
    shutil.copytree(folders / "runs/digits-vae", copy)
    tab = Visit(chromium, studio)
    tab.run("short-lived")
    tab.screen("Sample")
    tab.press("Draw")
    tab.note("sample", "16 images of vae")
    shutil.rmtree(copy)
    tab.press("Draw")
    assert tab.note("sample", "vanished").count("\n") == 0
    tab.press("Refresh")
    tab.page.wait_for_function("document.querySelector('#run input')?.value !== 'short-lived'", timeout=SLOW)
    tab.press("Draw")
    tab.note("sample", "16 images of")
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_for_those_who_cannot_see_or_point(chromium: Any, studio: Served, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe needs axe-playwright-python")
    tab, found = Visit(chromium, studio, scheme), []
    tab.run("digits-ddpm")
    tab.screen("Data")
    tab.press("Look")
    tab.seen("#data-pictures img")
    for name in SCREENS:
        tab.screen(name)
        tab.page.wait_for_timeout(300)
        if name in ("Denoise", "Sample"):
            tab.press({"Denoise": "Show", "Sample": "Draw"}[name])
            tab.seen(f"#{name.lower()}-{'way' if name == 'Denoise' else 'pictures'} img")
        problems = axe.Axe().run(tab.page).response["violations"]
        found += [(name, each["id"], each["nodes"][0]["html"]) for each in problems if each["impact"] != "minor"]
    assert not found
    if scheme == "dark":
        tab.screen("Sample")
        tab.picture("dark")
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_one_column(chromium: Any, studio: Served, scheme: str) -> None:
    tab = Visit(chromium, studio, scheme, PHONE)
    for name in SCREENS:
        tab.screen(name)
        tab.page.wait_for_timeout(200)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
    tab.run("digits-ddpm")
    tab.screen("Denoise")
    tab.press("Show")
    tab.seen("#denoise-way img")
    tab.picture(f"phone-{scheme}")
    tab.close()


def test_every_screen_is_reached_with_the_keyboard(chromium: Any, studio: Served) -> None:
    tab = Visit(chromium, studio)
    keys = tab.page.keyboard
    tab.page.get_by_role("tab", name="Data", exact=True).focus()
    reached = set()
    for _ in range(60):
        keys.press("Tab")
        name = tab.page.evaluate(
            "document.activeElement.getAttribute('role') === 'tab' && document.activeElement.innerText"
        )
        if name:
            reached.add(str(name).strip())
        if len(reached) == len(SCREENS) - 1:
            break
        if not name:
            break
    tab.page.get_by_role("tab", name="Sample", exact=True).focus()
    keys.press("Enter")
    tab.seen("#sample-go").focus()
    keys.press("Enter")
    tab.note("sample", "16 images of")
    assert reached | {"Data"} == set(SCREENS)
    tab.close()


def test_slow_work_shows_progress_and_can_be_stopped(chromium: Any, studio: Served) -> None:
    tab = Visit(chromium, studio)
    tab.run("digits-ddpm")
    tab.screen("Odd ones")
    limit = tab.page.get_by_label("Images to score").locator("visible=true")
    limit.fill("1259")
    tab.page.get_by_label("train", exact=True).locator("visible=true").first.check()
    tab.value("#odd-n", "50")
    stop = tab.page.get_by_role("button", name="Stop", exact=True).locator("visible=true")
    assert stop.is_disabled()
    tab.press("Find the odd ones")
    tab.seen("#odd-note progress")
    began = time.monotonic()
    tab.press("Stop")
    tab.note("odd", "Stopped")
    assert time.monotonic() - began < 20
    assert stop.is_disabled()
    limit.fill("1200")  # other images, or the result would be known if the first was done before the stop
    tab.press("Find the odd ones")
    tab.seen("#odd-note progress")
    tab.close()  # in the middle
    tab, began = Visit(chromium, studio), time.monotonic()
    tab.screen("Sample")
    tab.press("Draw")  # the machine is free again
    tab.note("sample", "16 images of")
    assert time.monotonic() - began < 20
    tab.close()
