"""Times: previews have a fraction of the time, runs with --minutes end on time, long work prints its progress."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from machine_helpers import Toy, call_well, same_tensors, tensors_of, train_tiny
from rich.console import Console
from torch import Tensor

from nelbo.config.files import CONFIG
from nelbo.jobs.journal import Journal
from nelbo.jobs.monitor import Monitor
from nelbo.jobs.preview_budget import FREE_SECONDS, SHARE
from nelbo.models._checks import Images as ImageBatch
from nelbo.models.inspector import Inspector
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.options import TrainingOptions
from nelbo.report.progress import Bar, TimeLeft, bar
from nelbo.rng import Draws
from nelbo.training import Trainer, session

SIZE, BATCH = 8, 4


class Clock:
    """Time that passes where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def __deepcopy__(self, memo: object) -> Clock:
        return self


class Slow(Toy):
    """A toy whose network takes its time: so long for a training step, and so long for an image to be looked at."""

    def __init__(self, clock: Clock, step: float, evaluation: float) -> None:
        super().__init__(SIZE, 1e-3)
        self.clock, self.step, self.evaluation = clock, step, evaluation

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        self.clock.now += self.step
        return super().loss(x, draws)

    @property
    def inspector(self) -> SlowInspector:
        return SlowInspector(self)

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        x = torch.zeros(len(indices), *self.shape)
        for step in range(settings.steps or 25):
            self.clock.now += self.evaluation * len(indices)
            yield Frame(step + 1, settings.steps or 25, x, x)


class SlowInspector(Inspector):
    model: Slow

    @property
    def preview_settings(self) -> SampleSettings:
        return SampleSettings(steps=25)

    def measures(self, images: ImageBatch, start: int = 0) -> dict[str, Tensor]:
        self.model.clock.now += 2 * self.model.evaluation * len(images)
        return {"size": images.float().flatten(1).mean(1)}


class Images:
    """A dataset, as far as a watcher knows."""

    def split(self, name: str) -> Tensor:
        return torch.zeros(200, 1, 1, SIZE, dtype=torch.uint8)


def watched(folder: Path, model: Slow, begun: int = 0, **recipe: Any) -> Monitor:
    """A run of it to the end, as 'nelbo train' watches it, from step ``begun`` on."""
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text("")
    options = TrainingOptions(batch_size=BATCH, precision="fp32", optimizer="adamw", **recipe)
    trainer = Trainer(model, Images().split("train"), options, folder, clock=model.clock)
    trainer.step = begun
    with bar("training", 1.0, lines=False) as progress, Journal(folder, False) as journal:
        watcher = Monitor(trainer, Images(), journal, progress, None)  # type: ignore[arg-type]
        for step in trainer:
            watcher.see(step)
        watcher.sum_up()
    return watcher


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Every checkpoint takes three seconds."""
    clock, honest = Clock(), session.write_checkpoint

    def write(*given: Any) -> Path:
        clock.now += 3.0
        return honest(*given)

    monkeypatch.setattr(session, "write_checkpoint", write)
    return clock


@pytest.mark.parametrize("factor", [0.3, 1.0, 10.0], ids="an evaluation is {} of an image's step".format)
@pytest.mark.parametrize("step", [0.5, 4.0, 76.0])
def test_looks_have_a_twentieth_of_the_time_and_it_ends_on_time(
    tmp_path: Path, slow_disk: Clock, step: float, factor: float
) -> None:
    """Five minutes. At most one piece of a look, a step of its sampler for 36 images, is more than the share."""
    began, evaluation = slow_disk.now, factor * step / BATCH
    watcher = watched(tmp_path / "run", Slow(slow_disk, step, evaluation), minutes=5)
    assert watcher.previews.budget.spent <= SHARE * 300 + 36 * evaluation
    assert 300 - step - 2 * SHARE * 300 - 3 <= slow_disk.now - began <= 300 + step + 10
    assert watcher.trainer.step * step >= 0.8 * 300 - step, "the rest is for training"


def test_where_there_is_time_looks_are_full(tmp_path: Path, slow_disk: Clock) -> None:
    watched(tmp_path / "run", Slow(slow_disk, 0.5, 0.001), minutes=30)
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 6


@pytest.mark.parametrize("step", [0.01, 5.0])
def test_looks_of_a_run_by_steps(tmp_path: Path, slow_disk: Clock, step: float) -> None:
    watcher = watched(tmp_path / "run", Slow(slow_disk, step, step), steps=60)
    assert watcher.previews.budget.spent <= max(FREE_SECONDS, SHARE * watcher.trainer.seconds) + 36 * step
    assert watcher.trainer.step == 60


def test_what_looks_took_is_said(tmp_path: Path, slow_disk: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watcher = watched(tmp_path / "run", Slow(slow_disk, 0.5, 0.01), minutes=5)
    said = capsys.readouterr().err
    assert f"previews (val and samples) took {watcher.previews.budget.spent:.1f} s of" in said
    assert "a step takes" not in said, "600 steps are enough"
    expected, images, of, times = re.search(
        r"about (\S+) steps in 5 minutes: (\S+) images, each of (\d+) about (\S+) times", " ".join(said.split())
    ).groups()  # type: ignore[union-attr]
    assert int(expected) == pytest.approx(watcher.trainer.step, rel=0.15)  # checkpoints take a tenth
    assert float(images.replace(",", "")) == pytest.approx(BATCH * int(expected), rel=0.05)
    assert float(times) == pytest.approx(BATCH * int(expected) / int(of), rel=0.1)


def test_too_slow_for_any_sense_is_said_after_the_first_step(
    tmp_path: Path, slow_disk: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """4 steps of 76 s in 5 minutes; 300 of them take 380 minutes."""
    watched(tmp_path / "run", Slow(slow_disk, 76.0, 25.0), minutes=5)
    said = capsys.readouterr().err
    first = said.splitlines()[0]
    assert first.startswith("a step takes 76 s here, so 5 minutes are about 3 steps")
    for way in ("`size`", "`minutes` 380", "`batch_size`", "GPU"):
        assert way in first
    assert "there were no previews" in said
    assert "nelbo score" in said


@pytest.mark.parametrize("begun", [7, 8, 9, 18])
def test_the_first_steps_of_a_resumed_run_are_timed(
    tmp_path: Path, slow_disk: Clock, capsys: pytest.CaptureFixture[str], begun: int
) -> None:
    """Every tenth step is logged, also where it is among the first that are timed."""
    watched(tmp_path / "run", Slow(slow_disk, 0.5, 0.01), begun, minutes=1)
    assert capsys.readouterr().err.startswith("a step takes 0.5 s here, so 1 minute is about 1")


@pytest.mark.parametrize("family", ["ddpm", "gan"])
def test_looks_do_not_touch_the_training(here: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, with dropout and with spectral normalisation, which has a state of its own."""
    own = ["--dropout", "0.3"] if family == "ddpm" else ["--spectral", "--latent", "4", "--clusters", "5"]
    words = ("train", family, "--widths", "8", "8", *own, "--steps", "12", "--device", "cpu", "--out")
    call_well(*words, "looked")
    assert list((here / "looked" / "samples").iterdir())
    monkeypatch.setattr(Monitor, "preview", lambda watcher, step: None)
    call_well(*words, "alone")
    assert not (here / "alone" / "samples").exists()
    for part in ("model", "ema", "optimizer"):
        same_tensors(tensors_of(here / "looked", part), tensors_of(here / "alone", part))


def test_warnings_are_printed_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not at every look, also where the figures in the line change."""
    clock = Clock()
    lines = {2: ["collapse: 0.1 of it; do this"], 4: ["collapse: 0.2 of it; do this"], 6: [], 8: ["collapse: 1 of it"]}
    at = iter(range(2, 20, 2))
    monkeypatch.setattr(SlowInspector, "warnings", lambda inspector, diagnostics: lines.get(next(at), []))
    watched(tmp_path / "run", Slow(clock, 0.1, 0.001), steps=12)
    said = [line for line in capsys.readouterr().err.splitlines() if "collapse" in line]
    assert said == [
        "step 2: collapse: 0.1 of it; do this",
        "step 6: no longer: collapse",
        "step 8: collapse: 1 of it",
        "step 10: no longer: collapse",
    ]


# Long work


def test_the_time_left_is_known_after_one_slow_piece() -> None:
    """A minute for each of ten pieces: nine minutes are left after the first, however long ago that was."""
    clock, out = Clock(), io.StringIO()
    quiet = Console(file=out, force_terminal=False, width=200)
    with Bar(lines=True, console=quiet, disable=True, get_time=clock) as progress:
        progress.add_task("drawing", total=10, note="", begun=0.0)
        assert TimeLeft().render(progress.tasks[0]).plain == ""
        clock.now += 60
        progress.move(1)
        assert TimeLeft().render(progress.tasks[0]).plain == "0:09:00 left"
        clock.now += 60
        progress.move(2)
        assert TimeLeft().render(progress.tasks[0]).plain == "0:08:00 left"
    assert out.getvalue().splitlines() == [
        "drawing: 10%, about 0:09:00 left",
        "drawing: 20%, about 0:08:00 left",
    ]


@pytest.mark.parametrize(
    ("total", "begun", "moved", "left"),
    [
        (1.0, 0.5, 0.75, "0:01:40 left"),  # a resumed run: half of what is left
        (10_000, 0.0, 1, ""),  # the first of many images, mostly the start: no days
        (10_000, 0.0, 100, "2:45:00 left"),
    ],
)
def test_the_time_left_is_that_of_what_is_left(total: float, begun: float, moved: float, left: str) -> None:
    """After 100 seconds."""
    clock = Clock()
    with Bar(lines=False, disable=True, get_time=clock) as progress:
        progress.add_task("working", total=total, note="", begun=begun)
        clock.now += 100
        progress.move(moved)
        assert TimeLeft().render(progress.tasks[0]).plain == left


def test_every_long_work_moves_its_bar(digits_run: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also inside of one batch; and what is drawn, embedded and compared."""
    moved: dict[str, list[float]] = {}
    honest = Bar.move

    def move(progress: Bar, done: float, **fields: Any) -> None:
        moved.setdefault(progress.tasks[0].description, []).append(done)
        honest(progress, done, **fields)

    monkeypatch.setattr(Bar, "move", move)
    run = train_tiny(here / "run", steps=2)
    call_well("features", "--epochs", "1", "--out", "features")
    call_well("score", run, "--limit", "8", "--form", "trajectory")
    inside = moved["scoring 8 images"]
    assert inside == sorted(inside)
    assert len([done for done in inside if 0 < done < 8]) >= 20, "30 steps of one batch"
    call_well("evaluate", run, "--samples", "21", "--steps", "5", "--features", "features")
    assert len(moved["sampling 21 images"]) == 5
    assert moved["features of 1,259 training images"][-1] == 1259
    call_well("compare", run, "--out", "page")
    assert len(moved["sampling 36 images of run"]) > 5
    assert moved["profile over t of run"][-1] == 64
