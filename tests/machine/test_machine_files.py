"""Results are complete or absent, and write errors name the file."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from machine_helpers import call

from nelbo.errors import InputError
from nelbo.files import atomic_write, replace_text, sole
from nelbo.jobs.monitor import Monitor
from nelbo.training import Step, latest_checkpoint
from nelbo.training.folders import step_of

resource = pytest.importorskip("resource")


def half(path: Path) -> None:
    """Stopped in the middle of a file."""
    with atomic_write(path) as aside:
        aside.write_text("half of the n")
        raise KeyboardInterrupt


def one_of_three(folder: Path) -> None:
    """Stopped in the middle of a folder."""
    with atomic_write(folder) as aside:
        aside.mkdir()
        (aside / "one").touch()
        raise KeyboardInterrupt


def test_all_of_it_or_none(tmp_path: Path) -> None:
    path = tmp_path / "made" / "one.txt"
    replace_text(path, "old")
    with pytest.raises(KeyboardInterrupt):
        half(path)
    assert [p.name for p in path.parent.iterdir()] == ["one.txt"]
    assert path.read_text() == "old"
    replace_text(path, "new")
    assert path.read_text() == "new"


def test_a_folder_too(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(KeyboardInterrupt):
        one_of_three(place / "many")
    assert not list(place.iterdir())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (place / f".writing-{ended.pid}.{ended.pid}-many").mkdir()  # left by a process that was killed
    (place / f".writing-{ended.pid}.{ended.pid}-many" / "old").touch()
    with atomic_write(place / "many") as aside:
        aside.mkdir()
        (aside / "one").touch()
    assert sorted(p.relative_to(place).as_posix() for p in place.rglob("*")) == ["many", "many/one"]


@pytest.mark.parametrize("new", [False, True])
def test_two_that_write_one_path(tmp_path: Path, new: bool) -> None:
    """Neither disturbs the other; what must be new is not replaced by the second."""
    path, theirs = tmp_path / "x.txt", []

    def other() -> None:
        with atomic_write(path, new) as aside:
            theirs.append(aside)
            aside.write_text("other")

    with contextlib.ExitStack() as stack:
        if new:
            stack.enter_context(pytest.raises(InputError, match="made by another process"))
        aside = stack.enter_context(atomic_write(path, new))
        aside.write_text("mine")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert theirs[0] != aside
        assert (path.read_text(), aside.read_text()) == ("other", "mine")
    assert path.read_text() == ("other" if new else "mine")
    assert not list(tmp_path.glob(".writing*"))


@pytest.mark.parametrize("inside", [True, False])
def test_a_full_disk_is_said_with_the_name(tmp_path: Path, inside: bool) -> None:
    with pytest.raises(OSError, match="No space") as caught, atomic_write(tmp_path / "a.png") as aside:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(aside) if inside else None)
    assert caught.value.filename == str(tmp_path / "a.png")


def test_files_that_cannot_grow(own_run: Path, tmp_path: Path) -> None:
    """A limit of the system on the size of files, which is met in the middle of a write."""
    out = tmp_path / "place" / "drawn.npz"
    done = subprocess.run(
        [sys.executable, "-m", "nelbo", "sample", str(own_run), "-n", "9", "--steps", "2", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)),
    )
    assert done.returncode == 2
    assert done.stderr.strip() == f"nelbo: {out}: File too large"
    assert not list(out.parent.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_where_nothing_can_be_written(own_run: Path) -> None:
    answer = call("sample", own_run, "-n", "2", "--steps", "2", "--out", "/proc/drawn.png")
    assert answer.code == 2
    assert answer.err.startswith("nelbo: /proc/drawn.png: ")
    assert answer.err.count("\n") == 1


def test_a_run_that_was_killed_before_it_was_there_can_begin(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / ".writing-config.toml").write_text("half of i")
    words = ("train", "ddpm", "--widths", "8", "8", "--timesteps", "20", "--out", "run", "--device", "cpu")
    assert call(*words, "--steps", "2", "--resume").code == 0
    (here / "other").mkdir()
    (here / "other" / "mine.txt").touch()
    assert call(*words[:-3], "other", "--resume").code == 2


def test_a_second_process_on_one_run_is_refused(own_run: Path) -> None:
    before = sorted(own_run.rglob("*"))
    with sole(own_run):
        answer = call("train", "ddpm", "--resume", "--out", own_run, "--steps", "99")
    assert (answer.code, answer.out) == (2, "")
    assert "another process is training in it" in answer.err
    assert sorted(own_run.rglob("*")) == before
    with sole(own_run):
        pass


@pytest.mark.parametrize("at", [3, 23])
def test_a_directory_deleted_under_the_run_is_made_anew(at: int, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Early on, and after the last time that anything is logged; the run can be opened, and gone on with."""
    honest = Monitor.see

    def see(watcher: Monitor, step: Step) -> None:
        honest(watcher, step)
        if step.step == at:
            shutil.rmtree(here / "run")

    words = ("train", "ddpm", "--widths", "8", "8", "--timesteps", "20", "--out", "run", "--device", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "see", see)
        answer = call(*words, "--steps", "24")
    assert answer.code == 0
    assert answer.err.count("was deleted during the run") == 1
    assert call("sample", "run", "-n", "1", "--device", "cpu").code == 0
    assert call(*words, "--steps", "26", "--resume").code == 0
    assert step_of(latest_checkpoint(here / "run")) == 26  # type: ignore[arg-type]


def test_a_disk_that_is_full_for_a_while_is_said_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once when a picture cannot be written, once when it can again; the run is whole at the end."""
    honest = Monitor.preview

    def look(watcher: Monitor, step: Step) -> None:
        if step.step in (4, 6):
            raise OSError(errno.ENOSPC, "No space left on device", "grid.png")
        honest(watcher, step)

    monkeypatch.setattr(Monitor, "preview", look)
    answer = call("train", "ddpm", "--steps", "12", "--widths", "8", "8", "--timesteps", "20", "--out", "run")
    assert answer.code == 0
    said = [line for line in answer.err.splitlines() if line.startswith("step ")]
    assert said == [
        "step 4: grid.png: No space left on device; training continues",
        "step 8: can be written again",
    ]
    assert step_of(latest_checkpoint(here / "run")) == 12  # type: ignore[arg-type]
