"""Trainings are processes of their own: they survive the studio, are found again, and end when they are asked to."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studio_helpers import PICTURES, served
from test_studio_page import SLOW, Visit

from nelbo.errors import InputError
from nelbo.files import LOCKS, lock_holder
from nelbo.jobs.progress import progress_of
from nelbo.studio.safety import Folders
from nelbo.studio.trainings import Trainings
from nelbo.training import latest_checkpoint

PATIENCE = 120.0


def until(found: Callable[[], Any]) -> Any:
    """What a function returns as soon as it is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError("nothing happened")


@pytest.mark.skipif(not LOCKS.exists(), reason="the system does not list locks")
def test_a_training_survives_the_studio_and_is_found_again(chromium: Any, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the studio needs nelbo[studio]")
    (tmp_path / "runs").mkdir()
    run = tmp_path / "runs/mine"
    with served(tmp_path / "runs") as studio:
        tab = Visit(chromium, studio, runs=False)
        tab.screen("Train")
        tab.page.get_by_label("Name").locator("visible=true").fill("mine")
        tab.press("Estimate")
        tab.note("train", "images/s here: .* steps, each image about .* times")
        tab.press("Start a training")
        tab.note("train", "Started mine")
        tab.page.wait_for_function(
            "document.querySelector('#train-live')?.innerText.includes('training,')", timeout=SLOW
        )
        pid = until(lambda: lock_holder(run))
        until(lambda: progress_of(run).step >= 10)
        tab.page.wait_for_selector("#train-live svg", timeout=SLOW)
        if PICTURES:
            until(lambda: progress_of(run).share > 0.6)
            tab.page.wait_for_timeout(2500)
        tab.picture("train")
        tab.context.close()
        os.kill(studio.process.pid, signal.SIGKILL)
        studio.process.wait(20)
    step = progress_of(run).step
    until(lambda: progress_of(run).step > step)
    assert lock_holder(run) == pid
    with served(tmp_path / "runs") as studio:
        tab = Visit(chromium, studio)
        tab.screen("Train")
        tab.page.wait_for_function(
            "document.querySelector('#train-live')?.innerText.includes('training,')", timeout=SLOW
        )
        assert tab.page.locator("#train-more").is_disabled()
        with pytest.raises(InputError, match="being trained already"):  # two visitors who press at once
            Trainings(Folders([tmp_path / "runs"])).resume(run, "vae")
        tab.press("Stop this run")
        tab.note("train", "writes a checkpoint")
        until(lambda: lock_holder(run) is None)
        assert latest_checkpoint(run) is not None
        tab.page.wait_for_function(
            "document.querySelector('#train-live')?.innerText.includes('stopped,')", timeout=SLOW
        )
        stopped = progress_of(run).step
        tab.press("Train this run on")
        tab.note("train", "trains on")
        until(lambda: progress_of(run).step > stopped)
        tab.press("Stop this run")
        until(lambda: lock_holder(run) is None)
        tab.close()


@pytest.fixture
def trainings(tmp_path: Path) -> Trainings:
    """Trainings in an empty folder."""
    return Trainings(Folders([tmp_path]))


def test_a_training_that_fails_says_why(trainings: Trainings, tmp_path: Path) -> None:
    out = trainings.folders.new("wrong")
    trainings.start("vae", out, ["--data=digits", "--minutes=-1"])
    line = until(lambda: trainings.ended_badly(out))
    assert "minutes" in line
    assert not out.exists()
    with pytest.raises(InputError, match="no training"):
        trainings.stop(out)


def test_a_full_disk_is_said_before_a_training(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3 * 2**20))
    with pytest.raises(InputError, match="only 3 MiB left"):
        trainings.start("vae", trainings.folders.new("full"), [])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_saving_is_one_message(folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the studio needs nelbo[studio]")
    from nelbo.studio.answers import quick, warm
    from nelbo.studio.saving import FORMATS, Savable, saved
    from nelbo.studio.studio import Studio

    def full(out: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))

    warm()  # answers wait for it
    found = Folders([folders / "runs"])
    made = Savable(lambda suffix: folders / f"runs/x{suffix}", full)
    note, _ = quick(saved, 1)(Studio(found, Trainings(found), tmp_path), FORMATS, made, next(iter(FORMATS)))
    assert "the disk is full" in note
    assert "problem" in note


def test_a_quick_answer_never_meets_the_dtype_of_a_file_that_is_written() -> None:
    """A file that asks for float64 in the middle of the answer has it afterwards."""
    pytest.importorskip("gradio", reason="the studio needs nelbo[studio]")
    import torch

    from nelbo.studio.answers import quick, warm
    from nelbo.torch_settings import default_dtype

    warm()
    order: list[str] = []

    def written() -> None:
        with default_dtype(torch.float64):
            order.append("written")

    def answer() -> list[str]:
        writer.start()
        writer.join(0.3)
        order.append("answered")
        return [str(torch.get_default_dtype())]

    writer = threading.Thread(target=written)
    assert quick(answer, 0)() == ["torch.float32"]
    writer.join()
    assert order == ["answered", "written"]


def test_errors_are_one_line() -> None:
    pytest.importorskip("gradio", reason="the studio needs nelbo[studio]")
    from nelbo.studio.answers import sentence

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/samples/a.png")
    assert sentence(full).startswith("runs/x/samples/a.png: the disk is full")
    assert sentence(InputError("skip_bad", "add `skip_bad`")) == "Skip unreadable files: add “Skip unreadable files”"
    assert "terminal" in sentence(KeyError("x"))
    assert "fewer images" in sentence(RuntimeError("not enough memory: you tried to allocate 9 GB"))
    assert all("\n" not in sentence(each) for each in (full, KeyError("x")))
