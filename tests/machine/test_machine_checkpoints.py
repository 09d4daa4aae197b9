"""Checkpoints: complete or refused, never a pickle, and a resumed run equals an uninterrupted one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from machine_helpers import Toy, call, forget_settings, same_tensors

import nelbo
from nelbo.data import load
from nelbo.errors import InputError
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.options import TrainingOptions
from nelbo.training import Interrupted, Trainer, latest_checkpoint, read_checkpoint, write_checkpoint
from nelbo.training.checkpoint import Checkpoint
from nelbo.training.folders import all_checkpoints, step_of

NAMES = ("model", "ema", "optimizer")


def ddpm_trainer(folder: Path, objective: str = "simple", dropout: float = 0.3, steps: int = 9) -> Trainer:
    torch.manual_seed(0)
    settings = {"timesteps": 25, "widths": (8, 8), "attention": (1,), "dropout": dropout, "objective": objective}
    model = DDPM.from_options(DDPMOptions.model_validate(settings), (1, 8, 8), 17)
    recipe = TrainingOptions(steps=steps, batch_size=7, precision="fp32", warmup=2, lr=0.01)
    return Trainer(model, load("digits").split("train")[:20], recipe, folder)


def end_of(run: Path) -> Checkpoint:
    folder = latest_checkpoint(run)
    assert folder is not None
    return read_checkpoint(folder)


class CrashError(Exception):
    """The power went."""


def stop_by_signal(signum: signal.Signals) -> Callable[[Trainer, int], None]:
    def stop(trainer: Trainer, at: int) -> None:
        def walk() -> None:
            for step in trainer:
                if step.step == at:
                    signal.raise_signal(signum)

        with pytest.raises(Interrupted) as caught:
            walk()
        assert (caught.value.signum, caught.value.step) == (signum, at)

    return stop


def stop_by_crash(trainer: Trainer, at: int) -> None:
    """The last checkpoint is a step older than the crash: a step is done twice."""

    def walk() -> None:
        for step in trainer:
            if step.step == at:
                trainer.save()
            if step.step == at + 1:
                raise CrashError

    with pytest.raises(CrashError):
        walk()


@pytest.mark.parametrize("objective", ["simple", "bound", "hybrid"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_stopped_run_is_the_straight_run_to_the_bit(tmp_path: Path, objective: str, dropout: float) -> None:
    list(ddpm_trainer(tmp_path / "straight", objective, dropout))
    for name, stop in (
        ("term", stop_by_signal(signal.SIGTERM)),
        ("int", stop_by_signal(signal.SIGINT)),
        ("crash", stop_by_crash),
    ):
        stop(ddpm_trainer(tmp_path / name, objective, dropout), 4)
        torch.manual_seed(99)
        again = ddpm_trainer(tmp_path / name, objective, dropout)
        folder = latest_checkpoint(tmp_path / name)
        assert folder is not None
        assert step_of(folder) == 4
        again.restore(read_checkpoint(folder), folder)
        list(again)
        for part in NAMES:
            same_tensors(end_of(tmp_path / "straight").tensors[part], end_of(tmp_path / name).tensors[part])


def test_dropout_does_something(tmp_path: Path) -> None:
    """Or the test above would prove nothing about it."""
    for dropout in (0.0, 0.3):
        list(ddpm_trainer(tmp_path / str(dropout), dropout=dropout))
    one, two = (end_of(tmp_path / name).tensors["model"] for name in ("0.0", "0.3"))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_signals_work_as_before_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop_by_signal(signal.SIGINT)(ddpm_trainer(tmp_path), 2)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    trainer = ddpm_trainer(tmp_path, steps=2)
    list(trainer)
    found = end_of(tmp_path)
    assert found.state["step"] == 2
    assert found.state["data"] == {"epoch": 0, "position": 14}
    same_tensors(found.tensors["model"], dict(trainer.model.state_dict()))
    same_tensors(found.tensors["ema"], dict(trainer.ema.model.state_dict()))
    moments = found.tensors["optimizer"].keys()
    assert {key.rpartition("/")[0] for key in moments} == {name for name, _ in trainer.model.named_parameters()}
    assert {key.rpartition("/")[2] for key in moments} == {"step", "exp_avg", "exp_avg_sq", "momentum"}


def small(step: int) -> Checkpoint:
    return Checkpoint({"step": step, "seconds": 1.0}, {name: {"w": torch.full((3,), float(step))} for name in NAMES})


@pytest.mark.parametrize("dies_at", range(8))
def test_a_write_that_dies_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int) -> None:
    """Five files and three folders are forced to disk: wherever it is full, the one before is there and whole."""
    write_checkpoint(tmp_path, small(1))
    synced, honest = [], os.fsync

    def dying(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == dies_at + 1:
            with suppress(OSError):  # a folder cannot be cut
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", dying)
    with pytest.raises(OSError, match="No space") as caught:
        write_checkpoint(tmp_path, small(2))
    assert str(caught.value.filename).startswith(str(tmp_path / "checkpoints"))
    assert ".writing" not in str(caught.value.filename)
    monkeypatch.undo()
    for folder in all_checkpoints(tmp_path):
        read_checkpoint(folder)
    assert end_of(tmp_path).state["step"] in (1, 2)
    write_checkpoint(tmp_path, small(2))
    assert end_of(tmp_path).state["step"] == 2
    assert not list((tmp_path / "checkpoints").glob(".writing-step*"))


def test_old_ones_are_thinned(tmp_path: Path) -> None:
    for step in range(1, 41):
        write_checkpoint(tmp_path, small(step))
    assert [step_of(folder) for folder in all_checkpoints(tmp_path)] == [1, 2, 4, 8, 16, 32, 39, 40]


@pytest.mark.parametrize(
    "text",
    [
        "../../etc",
        "/etc",
        "..",
        "",
        "step-99999999",
        "step-../../../etc",
        "\x00",
        "step-00000001/../../..",
        "step-\x00",
        "x" * 300,
        "step-" + "1" * 300,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_latest_does_not_lead_astray(tmp_path: Path, text: str) -> None:
    write_checkpoint(tmp_path, small(1))
    write_checkpoint(tmp_path, small(2))
    (tmp_path / "etc").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text(text)
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-00000002"


def test_latest_may_be_missing_or_no_text(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    newest = write_checkpoint(tmp_path, small(7))
    (tmp_path / "checkpoints" / "latest").write_bytes(b"\xff\xfe\x00")
    assert latest_checkpoint(tmp_path) == newest
    (tmp_path / "checkpoints" / "latest").unlink()
    assert latest_checkpoint(tmp_path) == newest


@pytest.mark.parametrize("name", ["step-00000001.bak", "step-00000001 (copy)", "step-1x"])
def test_other_things_beside_the_checkpoints_are_passed_over(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path, small(1))
    shutil.copytree(folder, folder.with_name(name))
    for step in (2, 3, 4):
        write_checkpoint(tmp_path, small(step))
    (tmp_path / "checkpoints" / "latest").unlink()
    assert end_of(tmp_path).state["step"] == 4
    assert folder.with_name(name).is_dir()


# Nothing is a pickle, and none is read


def reseal(folder: Path) -> None:
    """Make state.json agree with the files beside it: damage that no hash can find."""
    state = json.loads((folder / "state.json").read_text())
    for name in NAMES:
        data = (folder / f"{name}.safetensors").read_bytes()
        state["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "state.json").write_text(json.dumps(state))


def touch(path: str) -> None:
    Path(path).write_text("executed")


class Evil:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return touch, (str(self.path),)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_in_disguise_is_refused(own_run: Path, tmp_path: Path, name: str, sealed: bool) -> None:
    folder, trap = latest_checkpoint(own_run), tmp_path / "trap"
    assert folder is not None
    assert pickle.loads(pickle.dumps(Evil(trap))) is None
    assert trap.exists()
    trap.unlink()
    (folder / f"{name}.safetensors").write_bytes(pickle.dumps(Evil(trap)))
    if sealed:
        reseal(folder)
    with pytest.raises(InputError, match=rf"{name}\.safetensors"):
        read_checkpoint(folder)
    commands = [("train", "ddpm", "--out", own_run, "--resume", "--steps", "20")]
    if name != "optimizer":
        commands.append(("sample", own_run, "-n", "1", "--weights", "ema" if name == "ema" else "raw"))
    for command in commands:
        answer = call(*command)
        assert answer.code == 2, answer.err
        assert f"{name}.safetensors" in answer.err
    assert not trap.exists()


def test_nothing_in_a_run_is_a_pickle(digits_run: Path) -> None:
    for path in digits_run.rglob("*"):
        if not path.is_file():
            continue
        start = path.read_bytes()[:4]
        assert start[:2] not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), f"{path} looks like a pickle"
        assert start != b"PK\x03\x04", f"{path} is an archive, as torch.save writes"
        assert path.suffix in (".safetensors", ".json", ".jsonl", ".toml", ".png") or path.name == "latest"


# Damage that no hash can find


def rewrite(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    safetensors.torch.save_file(tensors, folder / f"{name}.safetensors")
    reseal(folder)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["renamed", "reshaped", "missing"])
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, name: str, how: str) -> None:
    trainer = ddpm_trainer(tmp_path, steps=1)
    list(trainer)
    folder = latest_checkpoint(tmp_path)
    assert folder is not None
    tensors = dict(read_checkpoint(folder).tensors[name])
    key = next(key for key, value in tensors.items() if value.ndim == 4)
    value = tensors.pop(key)
    if how == "renamed":
        tensors["nonsense/exp_avg"] = value
    elif how == "reshaped":
        tensors[key] = value[:-1].clone()
    rewrite(folder, name, tensors)
    with pytest.raises(InputError, match=rf"{name}\.safetensors"):
        ddpm_trainer(tmp_path).restore(read_checkpoint(folder), folder)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"model": 3, "ema": 3, "optimizer": 3}},
        {"files": {"model": {}, "ema": {}, "optimizer": {}}},
        {"files": []},
        {"step": "four"},
        {"step": -1},
        {"seconds": None},
        {"seconds": "long"},
        {"format": 99},
    ],
    ids=str,
)
def test_a_strange_state_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    trainer = Trainer(Toy(), torch.zeros(3, 1, 1, 3, dtype=torch.uint8), TrainingOptions(steps=1), tmp_path)
    list(trainer)
    folder = latest_checkpoint(tmp_path)
    assert folder is not None
    state = json.loads((folder / "state.json").read_text()) | change
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError) as caught:
        trainer.restore(read_checkpoint(folder), folder)
    assert str(folder) in str(caught.value)
    assert "NoneType" not in str(caught.value)


def test_weights_of_another_network_are_refused(own_run: Path) -> None:
    path = own_run / "config.toml"
    path.write_text(path.read_text().replace("blocks = 2", "blocks = 3"))
    forget_settings(own_run)
    with pytest.raises(InputError, match=r"ema\.safetensors.*config\.toml"):
        nelbo.load(own_run)


def test_a_run_from_before_muon_goes_on_with_adamw(here: Path) -> None:
    words = ("train", "ddpm", "--widths", "8", "8", "--timesteps", "20", "--out", "run", "--device", "cpu")
    assert call(*words, "--steps", "2", "--optimizer", "adamw").code == 0
    config = here / "run" / "config.toml"
    text = config.read_text()
    assert 'optimizer = "adamw"' in text
    config.write_text(text.replace('optimizer = "adamw"\n', ""))
    answer = call(*words, "--steps", "4", "--resume")
    assert answer.code == 0, answer.err
    found = end_of(here / "run")
    assert found.state["step"] == 4
    assert {key.rpartition("/")[2] for key in found.tensors["optimizer"]} == {"step", "exp_avg", "exp_avg_sq"}
