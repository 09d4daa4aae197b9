"""What visitors with a mouse have found: each in Chromium, or against the function behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from studio_helpers import LENGTH, Served
from test_studio_page import SLOW, Visit, paint

from nelbo.studio.html import busy


@pytest.fixture(scope="module")
def visit(chromium: Any, studio: Served) -> Iterator[Visit]:
    """One visit on a desktop."""
    found = Visit(chromium, studio)
    found.run("digits-ddpm")
    yield found
    found.close()


def press_until(visit: Visit, button: str, name: str, said: str) -> None:
    """Press a button until the note says this: a slower answer to an event before can come after the first press's."""
    from playwright.sync_api import TimeoutError as Late

    for _ in range(10):
        visit.press(button)
        with suppress(Late):
            text = f"document.getElementById('{name}-note')?.innerText || ''"
            visit.page.wait_for_function(f"({text}).includes({said!r})", timeout=10_000)
            return
    visit.note(name, said)  # fails, and shows the note


def test_a_refused_upload_leaves_no_image(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    visit.screen("Edit")
    visit.seen("#edit-canvas canvas:not([hidden])")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    page.locator("#edit-upload input[type=file]").set_input_files(str(tmp_path / "bad.png"))
    visit.note("edit", "bad.png")
    page.wait_for_function("document.querySelector('#edit-canvas canvas').hidden", timeout=SLOW)
    press_until(visit, "Draw", "edit", "there is none of this run")
    page.locator("#edit-upload").get_by_role("button", name="Clear", exact=True).click()
    visit.seen("#edit-canvas canvas:not([hidden])")
    visit.note("edit", "^$")
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
    visit.note("edit", "^$")  # the test image is back


def test_draws_of_an_edit_are_saved(visit: Visit, folders: Path) -> None:
    page = visit.page
    visit.screen("Edit")
    visit.seen("#edit-canvas canvas:not([hidden])")
    page.get_by_label("Vary", exact=True).check()
    visit.note("edit", "noised")
    visit.press("Draw")
    visit.note("edit", "6 draws")
    page.locator("#edit-save").click()
    found = visit.saved("edit", ".png")
    assert (folders / found).is_file()
    assert Path(found).name.startswith("vary-step-")
    with page.expect_download() as waiting:
        page.locator("#edit-file").click()
    assert Path(waiting.value.path()).read_bytes() == (folders / found).read_bytes()


def test_draws_of_another_image_go(visit: Visit) -> None:
    """They cannot be taken for those of the new one, or saved as such."""
    page = visit.page
    visit.screen("Edit")
    visit.seen("#edit-canvas canvas:not([hidden])")
    page.get_by_label("Vary", exact=True).check()
    visit.press("Draw")
    visit.seen("#edit-pictures img")
    visit.value("#edit-number", "5")
    page.wait_for_function("!document.querySelector('#edit-pictures img')", timeout=SLOW)
    page.wait_for_function("document.getElementById('edit-save').disabled", timeout=SLOW)


def test_an_address_that_is_typed_is_gone_to(visit: Visit) -> None:
    page = visit.page
    page.wait_for_function("location.hash.includes('digits-ddpm')", timeout=SLOW)
    for other, name in (("digits-vae", "digits-ddpm"), ("digits-ddpm", "digits-vae")):
        page.evaluate("([name, other]) => { location.hash = location.hash.replace(name, other); }", [name, other])
        loaded = "window.nelboChosen && window.nelboRun"  # the page's own script, and its first choice
        page.wait_for_function(f"document.querySelector('#run input')?.value === '{other}' && {loaded}", timeout=SLOW)
    visit.errors.clear()  # a browser that reloads reports the streams that it ends


def test_the_browser_asks_before_it_ends_work(visit: Visit) -> None:
    leaves = "() => dispatchEvent(new Event('beforeunload', {cancelable: true}))"
    assert visit.page.evaluate(leaves)
    visit.page.evaluate(
        "html => document.body.insertAdjacentHTML('beforeend', html)", busy("compressing", 0.5, "9.0 s")
    )
    try:
        assert not visit.page.evaluate(leaves)
    finally:
        visit.page.evaluate("() => document.querySelector('progress.work').remove()")


def test_a_folded_table_is_whole(visit: Visit) -> None:
    visit.screen("Data")
    visit.press("Look")
    visit.seen("#data-facts details summary").click()
    table = "document.querySelector('#data-facts details .wide')"
    visit.page.wait_for_function(f"{table}.clientHeight > 100", timeout=SLOW)
    assert visit.page.evaluate(f"{table}.scrollHeight <= {table}.clientHeight")


def test_a_result_of_another_run_says_so(visit: Visit) -> None:
    """The pictures of the run that was chosen before stay, until there are others."""
    page = visit.page
    visit.run("digits-ddpm")
    visit.screen("Sample")
    visit.press("Draw")
    visit.seen("#sample-pictures img")
    shown = "document.getElementById('sample-pictures').closest('.result').classList.contains('old')"
    assert not page.evaluate(shown)
    visit.run("digits-vae")
    page.wait_for_function(shown, timeout=SLOW)
    visit.run("digits-ddpm")
    page.wait_for_function(f"!{shown}", timeout=SLOW)
    visit.run("digits-vae")
    page.wait_for_function(shown, timeout=SLOW)
    visit.press("Draw")
    page.wait_for_function(f"!{shown}", timeout=SLOW)
    visit.run("digits-ddpm")


def test_the_emptied_box_of_a_slider_is_no_number(visit: Visit) -> None:
    page = visit.page
    visit.screen("Sample")
    box = page.locator("#sample-n input[type=number]")
    box.fill("3")
    box.press("Enter")
    box.fill("")
    visit.press("Draw")
    visit.note("sample", "^3 images")
    assert box.input_value() == "3"


def test_back_goes_to_the_screen_before(visit: Visit) -> None:
    page = visit.page
    selected = "name => document.getElementById(`screen-${name}-button`).getAttribute('aria-selected') === 'true'"
    for name in ("Data", "Sample", "Edit"):
        visit.screen(name)
        page.wait_for_function("name => location.hash.includes(`screen=${name}`)", arg=name.lower(), timeout=SLOW)
    for name in ("sample", "data"):
        page.go_back()
        page.wait_for_function(selected, arg=name, timeout=SLOW)
    page.go_forward()
    page.wait_for_function(selected, arg="sample", timeout=SLOW)
    page.wait_for_function("location.hash.includes('digits-ddpm')", timeout=SLOW)
    # Faster than Gradio's event of a click
    for going, name in (("back", "data"), ("forward", "sample"), ("forward", "edit")):
        page.evaluate(f"history.{going}()")
        page.wait_for_function("name => location.hash.includes(`screen=${name}`)", arg=name, timeout=SLOW)
    page.wait_for_function(selected, arg="edit", timeout=SLOW)


def test_saved_images_have_the_step_that_drew_them_and_their_label(folders: Path) -> None:
    import nelbo
    from nelbo.jobs.sample import usual_out

    run = nelbo.Run(folders / "runs/digits-vae")
    assert usual_out(run, 3, 4, ".npz", 7, "a/b").name == "step-00000007-n3-seed4-a_b.npz"
    assert usual_out(run, 3, 4).name == f"step-{run.step:08d}-n3-seed4.png"


def test_every_grey_of_a_file_is_converted(tmp_path: Path) -> None:
    """To the nearest of 17 levels, and to itself of 256."""
    from nelbo.jobs.edit_images import converted_levels

    greys = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(greys).save(tmp_path / "greys.png")
    for levels, expected in ((256, greys), (17, np.floor(greys * (16 / 255) + 0.5))):
        found, lost = converted_levels(tmp_path / "greys.png", (1, 16, 16), levels, None)
        np.testing.assert_array_equal(found[0].numpy(), expected)
        assert lost == ""


def test_a_fast_stroke_has_no_gaps(visit: Visit) -> None:
    page = visit.page
    visit.screen("Edit")
    page.get_by_role("button", name="Clear the hole").click()
    canvas = visit.seen("#edit-canvas canvas:not([hidden])")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.06 * box["width"], box["y"] + 0.06 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.94 * box["width"], box["y"] + 0.94 * box["height"])  # in one step
    page.mouse.up()
    page.wait_for_function("/8 pixels are/.test(document.querySelector('#edit-canvas').innerText)", timeout=SLOW)
    page.get_by_role("button", name="Clear the hole").click()


def test_too_few_images_of_val_state_the_rate_that_they_can(folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the studio needs nelbo[studio]")
    from nelbo.jobs.threshold import least_rate
    from nelbo.studio.held import HeldRun
    from nelbo.studio.safety import Folders
    from nelbo.studio.screens.odd import found
    from nelbo.studio.studio import Studio
    from nelbo.studio.trainings import Trainings

    inside = Folders([folders / "runs"])
    studio, run = Studio(inside, Trainings(inside), tmp_path), str(folders / "runs/digits-vae")
    _, facts, page = found(studio, run, "digits", "resize", "test", 2, 20, 0.0001)
    least = least_rate(HeldRun(Path(run), inside))
    assert f"{least:.2g} instead of 0.0001" in facts
    assert "Threshold" in facts
    assert "iframe" in page


def test_a_folder_is_searched_whole_and_one_outside_is_not_spoken_of(folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the studio needs nelbo[studio]")
    from nelbo.studio.safety import Folders
    from nelbo.studio.screens.odd import usual_split
    from nelbo.studio.studio import Studio
    from nelbo.studio.trainings import Trainings

    inside = Folders([folders / "runs"])
    studio = Studio(inside, Trainings(inside), tmp_path)
    said = [usual_split(studio, spec)[1] for spec in (str(folders / "runs"), "digits", str(tmp_path), "/", "\0", None)]
    assert said == ["all", *["test"] * 5]


def test_rows_of_images_are_saved_in_columns(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the studio needs nelbo[studio]")
    from nelbo.studio.saving import FORMATS, strip

    images = torch.randint(0, 17, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = strip([images[:3], images[3:]], 17, tmp_path, "walk")
    for suffix in FORMATS.values():
        made.save(made.out(suffix))
        assert made.out(suffix).name == f"walk-2{suffix}"  # none is overwritten
    with np.load(tmp_path / "samples/walk.npz") as found:
        np.testing.assert_array_equal(found["images"][..., 0], images[:, 0].numpy())
    with Image.open(tmp_path / "samples/walk.gif") as film, Image.open(tmp_path / "samples/walk.png") as whole:
        assert film.n_frames == 3  # type: ignore[attr-defined]
        assert whole.width > whole.height  # 3 columns, 2 rows
        assert film.width < film.height  # 1 column, 2 rows


def test_photographs_against_digits_are_one_sentence(studio: Served, folders: Path, tmp_path: Path) -> None:
    import nelbo
    from nelbo.errors import InputError
    from nelbo.options import DataOptions
    from nelbo.studio.safety import Folders
    from nelbo.studio.screens.odd import as_the_run, converted
    from nelbo.studio.studio import Studio
    from nelbo.studio.trainings import Trainings

    places = Folders([tmp_path])
    made = Studio(places, Trainings(places), tmp_path)
    config = nelbo.Run(folders / "runs/digits-vae").config
    images = config.images
    for k in range(12):
        noise = np.random.default_rng(k).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{k}.png")
    data = as_the_run(DataOptions(data=str(tmp_path)), config, "resize")
    with pytest.raises(InputError, match=r"8×8 pixels in 17 shades \(digits\).*run that was trained on such") as found:
        converted(made, data, images)
    assert found.value.where == "data"
    line = converted(made, data.model_copy(update={"levels": 256}), images)
    assert "Channels converted from 3 to 1" in line


def test_errors_name_only_controls_that_exist(studio: Served) -> None:
    from studio_helpers import config_of

    from nelbo.studio.words import LABELS

    shown = {each["props"].get("label") for each in config_of(studio.address)["components"]}
    shown |= {
        each["props"].get("value") for each in config_of(studio.address)["components"] if each["type"] == "button"
    }
    assert set(LABELS.values()) <= shown


def test_a_training_that_used_its_time_has_ended(folders: Path) -> None:
    from nelbo.jobs.progress import progress_of

    found = progress_of(folders / "runs/digits-ddpm")
    assert found.minutes == LENGTH.get("minutes")
    assert found.share == 1.0


def test_a_bar_that_other_threads_move_is_watched_and_can_be_ended() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from nelbo.report.progress import bar
    from nelbo.watching import watched

    seen: list[float | None] = []

    def watch(task: str, share: float | None) -> None:
        seen.append(share)
        if share == 0.5:
            raise KeyError(task)

    with watched(watch), bar("decompressing", 4) as progress, ThreadPoolExecutor(1) as pool:
        pool.submit(progress.move, 1).result()
        with pytest.raises(KeyError, match="decompressing"):
            pool.submit(progress.move, 2).result()
    assert seen == [0.0, 0.25, 0.5]


def test_a_decompression_that_is_stopped_ends_its_workers(folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("constriction", reason="the codec needs nelbo[codec]")
    import nelbo
    from nelbo.jobs import compress_job
    from nelbo.jobs.codec_crew import Worker
    from nelbo.jobs.decompress import decompress
    from nelbo.watching import watched

    run = nelbo.Run(folders / "runs/digits-vae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress_job, "may_be_shorter", lambda *_: False)  # with a model of so few steps it is
        nelbo.compress(run, "digits", tmp_path / "all.nelbo", split="train", check=False)
    workers: list[Worker] = []

    def watch(task: str, share: float | None) -> None:
        if task.startswith("decompressing") and share:
            raise KeyError(task)

    made = Worker.__init__

    def remember(self: Worker, *values: Any) -> None:
        made(self, *values)
        workers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "__init__", remember)
        with watched(watch), pytest.raises(KeyError, match="decompressing"):
            decompress(run, tmp_path / "all.nelbo")
    assert workers
    assert all(each.process.poll() is not None for each in workers)


def test_the_list_of_runs_closes_by_tab(visit: Visit) -> None:
    page = visit.page
    page.locator("#run input").focus()
    page.wait_for_selector("ul[role=listbox]", timeout=SLOW)
    page.keyboard.press("Tab")
    page.wait_for_selector("ul[role=listbox]", state="detached", timeout=SLOW)


def test_a_number_out_of_range_is_one_line(visit: Visit) -> None:
    visit.screen("Denoise")
    visit.page.get_by_label("Number").locator("visible=true").first.fill("-3")
    visit.press("Show")
    assert visit.note("denoise", "too small").strip() == "Number: -3 is too small; choose 0 or more"
    visit.page.get_by_label("Number").locator("visible=true").first.fill("0")


def test_a_report_has_its_full_height(visit: Visit) -> None:
    page = visit.page
    visit.screen("Odd ones")
    visit.value("#odd-n", "5")
    visit.press("Find the odd ones")
    visit.seen("#odd-page iframe")
    page.wait_for_function(
        """() => { const frame = document.querySelector('#odd-page iframe');
          const root = frame.contentDocument.documentElement;
          return root.getBoundingClientRect().height > 100 &&
            Math.abs(frame.clientHeight - root.getBoundingClientRect().height) < 6; }""",
        timeout=SLOW,
    )


def test_errors_keep_the_names_of_runs() -> None:
    pytest.importorskip("gradio", reason="the studio needs nelbo[studio]")
    from nelbo.errors import InputError
    from nelbo.studio.answers import sentence
    from nelbo.studio.html import problem

    assert ">digits-1: no training runs there<" in problem(sentence(InputError("digits-1", "no training runs there")))
