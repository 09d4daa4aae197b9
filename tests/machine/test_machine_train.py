"""``nelbo train``: the run directory, resuming, signals, and messages."""

from __future__ import annotations

import builtins
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from machine_helpers import (
    TINY,
    call,
    call_well,
    environment,
    listing,
    same_tensors,
    tensors_of,
    tiny,
    train_tiny,
    write_pictures,
)
from PIL import Image

import nelbo
from nelbo.jobs.monitor import Monitor
from nelbo.training import latest_checkpoint, read_checkpoint

# The run directory


def test_the_run_directory_is_the_documented_one(digits_run: Path) -> None:
    assert {p.name for p in digits_run.iterdir()} == {"config.toml", "metrics.jsonl", "checkpoints", "samples"}
    folders = {p.name for p in (digits_run / "checkpoints").iterdir()}
    assert (digits_run / "checkpoints" / "latest").read_text() == "step-00000012"
    assert "step-00000012" in folders
    for name in folders - {"latest"}:
        assert len(name) == len("step-00000012")
        files = {p.name for p in (digits_run / "checkpoints" / name).iterdir()}
        assert files == {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}
    samples = sorted(p.name for p in (digits_run / "samples").iterdir())
    assert samples == [f"step-{step:08d}.png" for step in (2, 4, 6, 8, 10, 12)]
    for name in samples:
        with Image.open(digits_run / "samples" / name) as image:
            image.load()
            assert (
                len(set(image.getdata() if not hasattr(image, "get_flattened_data") else image.get_flattened_data()))
                > 2
            )


def test_metrics_are_one_object_a_line(digits_run: Path) -> None:
    rows = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    assert all(isinstance(row, dict) and 1 <= row["step"] <= 12 for row in rows)
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert {10, 12} <= {row["step"] for row in rows if "loss" in row}
    last = [row for row in rows if "val_bits_per_dim" in row][-1]
    assert last["step"] == 12
    assert last["val_stderr"] > 0


def test_config_says_everything_that_was_resolved(digits_run: Path) -> None:
    config = tomllib.loads((digits_run / "config.toml").read_text())
    assert config["family"] == "ddpm"
    assert config["format"] == 2
    assert config["data"]["data"] == "digits"
    assert config["model"]["widths"] == [8, 8]
    assert config["model"]["attention"] == [1]
    assert config["model"]["timesteps"] == 30
    assert config["training"]["steps"] == 12
    assert "minutes" not in config["training"]
    assert config["training"]["seed"] == 0
    assert config["images"]["shape"] == [1, 8, 8]
    assert config["images"]["levels"] == 17
    assert len(config["images"]["sha256"]) == 64
    assert config["images"]["counts"] == {"train": 1259, "val": 179, "test": 359}
    assert {"nelbo", "torch", "numpy", "python"} <= config["versions"].keys()


def test_a_model_is_rebuilt_from_the_run_alone(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 12, (4, 6))
    run = train_tiny(tmp_path / "run", "--data", pictures, steps=1)
    shutil.rmtree(pictures)
    elsewhere = run.rename(tmp_path / "moved")
    model = nelbo.load(elsewhere)
    assert model.shape == (3, 4, 6)
    same_tensors(dict(model.state_dict()), tensors_of(elsewhere, "ema"))
    same_tensors(dict(nelbo.load(elsewhere, weights="raw").state_dict()), tensors_of(elsewhere))
    assert not model.training
    answer = call("score", elsewhere)
    assert answer.code == 2
    assert "pictures" in answer.err
    call_well("sample", elsewhere, "-n", "1")
    call_well("info", elsewhere)


def test_stdout_is_the_run_alone(here: Path) -> None:
    answer = call_well("train", "ddpm", *TINY, "--steps", "1", "--out", "r")
    assert answer.out == "r\n"
    for said in ("digits", "1,259", "1×8×8", "1 steps" if "1 steps" in answer.err else "1 step", "→ r"):
        assert said in answer.err


def test_without_out_a_new_directory_is_found(here: Path) -> None:
    first = call_well("train", "ddpm", *TINY, "--steps", "1").out.strip()
    second = call_well("train", "ddpm", *TINY, "--steps", "1").out.strip()
    assert (first, second) == ("runs/ddpm-digits", "runs/ddpm-digits-2")
    assert (here / first / "config.toml").is_file()


def test_no_control_characters_where_nobody_watches(here: Path) -> None:
    said = [call_well("train", "ddpm", *TINY, "--steps", "2", "--out", "r")]
    said += [call_well("sample", "r", "-n", "2"), call_well("score", "r", "--limit", "4"), call_well("info", "r")]
    for answer in said:
        for text in (answer.out, answer.err):
            assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("name", ["[red]photos", "a[/b]", ":smile: x", "two words", "ünï-写真"])
def test_names_are_shown_as_they_are(here: Path, name: str) -> None:
    write_pictures(here / "in" / name, 6, (4, 4))
    out = f"out/{name}"
    answer = call_well("train", "ddpm", *TINY, "--steps", "1", "--data", f"in/{name}", "--out", out)
    assert answer.out == f"{out}\n"
    assert f"→ {out}" in answer.err
    last = name.rsplit("/", 1)[-1]
    assert f"ddpm on {last}:" in answer.err
    assert f"ddpm on {last}," in call_well("score", out).out


# The same run twice


def test_a_run_by_steps_repeats_to_the_bit(here: Path) -> None:
    torch.manual_seed(1)
    train_tiny(here / "one", "--seed", "3", steps=3)
    torch.manual_seed(2)
    train_tiny(here / "two", "--seed", "3", steps=3)
    for part in ("model", "ema", "optimizer"):
        same_tensors(tensors_of(here / "one", part), tensors_of(here / "two", part))


def test_another_seed_is_another_run(here: Path) -> None:
    firsts = []
    for seed in ("0", "1"):
        train_tiny(here / seed, "--seed", seed, "--lr", "1e-12", steps=1)
        firsts.append(tensors_of(here / seed)["network.stem.weight"])
    assert not torch.allclose(firsts[0], firsts[1]), "both seeds begin with the same weights"


def test_python_and_the_command_line_train_alike(here: Path) -> None:
    train_tiny(here / "line", steps=2)
    run = nelbo.train(
        "ddpm",
        out=here / "python",
        steps=2,
        widths=(8, 8),
        timesteps=30,
        batch_size=8,
        device="cpu",
        precision="fp32",
        schedule="linear",
        objective="simple",
        reverse_variance="beta_tilde",
    )
    same_tensors(tensors_of(here / "line"), tensors_of(run.path))
    with pytest.raises(nelbo.InputError, match="lrr"):
        nelbo.train("ddpm", out=here / "wrong", lrr=1)


# Resuming


def test_resume_is_the_run_that_never_stopped(here: Path) -> None:
    extra = ("--dropout", "0.2", "--objective", "hybrid")
    straight = train_tiny(here / "straight", *extra, steps=7)
    stopped = here / "stopped"
    command = ("train", "ddpm", *tiny(*extra), *extra, "--steps", "7", "--out", stopped, "--resume")

    honest = Monitor.see

    def see(self: Any, step: Any) -> None:
        honest(self, step)
        if step.step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "see", see)
        answer = call(*command)
    assert answer.code == 143
    assert "step 3" in answer.err
    assert "--resume" in answer.err.splitlines()[-1]
    assert answer.out == ""
    again = call_well(*command)
    assert again.out == f"{stopped}\n"
    assert "from step 3" in again.err
    for part in ("model", "ema", "optimizer"):
        same_tensors(tensors_of(straight, part), tensors_of(stopped, part))


def test_resume_starts_what_is_not_there(here: Path) -> None:
    call_well("train", "ddpm", *TINY, "--steps", "1", "--out", "fresh", "--resume")
    assert (here / "fresh" / "checkpoints" / "step-00000001").is_dir()


def test_resume_goes_on_with_more_steps(own_run: Path) -> None:
    before = (own_run / "metrics.jsonl").read_text()
    call_well("train", "ddpm", "--out", own_run, "--resume", "--steps", "14")
    assert (own_run / "checkpoints" / "latest").read_text() == "step-00000014"
    assert tomllib.loads((own_run / "config.toml").read_text())["training"]["steps"] == 14
    assert (own_run / "metrics.jsonl").read_text().startswith(before)


def test_resume_of_a_run_that_is_done_changes_nothing(own_run: Path) -> None:
    before = listing(own_run / "checkpoints")
    answer = call_well("train", "ddpm", "--out", own_run, "--resume")
    assert answer.out == f"{own_run}\n"
    assert listing(own_run / "checkpoints") == before


def test_resume_accepts_what_the_run_was_begun_with(own_run: Path) -> None:
    call_well("train", "ddpm", *TINY, "--steps", "12", "--data", "digits", "--out", own_run, "--resume")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--weight-decay", "0.5"), ("--batch-size", "9"), ("--timesteps", "31"), ("--data", "mnist"), ("--seed", "1")],
)
def test_resume_with_another_setting_is_refused(own_run: Path, option: str, value: str) -> None:
    before = listing(own_run)
    answer = call("train", "ddpm", "--out", own_run, "--resume", option, value)
    assert answer.code == 2
    assert option in answer.err
    assert listing(own_run) == before


def test_resume_looks_into_the_config_file_too(own_run: Path, here: Path) -> None:
    """A setting in --config is a setting: it must not be passed over in silence."""
    (here / "mine.toml").write_text("[training]\nclip = 0.5\n")
    before = listing(own_run)
    answer = call("train", "ddpm", "--out", own_run, "--resume", "--config", "mine.toml")
    assert answer.code == 2
    assert "--clip" in answer.err
    assert listing(own_run) == before


def test_resume_on_other_data_is_refused(here: Path) -> None:
    write_pictures(here / "pictures", 8, (4, 4))
    train_tiny(here / "r", "--data", "pictures", steps=1)
    Image.new("RGB", (4, 4), "red").save(here / "pictures" / "new.png")
    before = listing(here / "r")
    answer = call("train", "ddpm", "--out", "r", "--resume", "--steps", "3")
    assert answer.code == 2
    assert "pictures" in answer.err
    assert listing(here / "r") == before


def rates(run: Path) -> list[float]:
    """The learning rate of each step that was logged."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["lr"] for row in rows if "lr" in row]


def test_a_longer_run_says_that_the_learning_rate_goes_up(here: Path) -> None:
    """By hand, with lr = 0.1, no warm-up, decay = 1: 0.1/10 at the last of 10 steps, 0.1/2 after 10 of 20."""
    recipe = ("--lr", "0.1", "--warmup", "0", "--decay", "1")
    train_tiny(here / "low", *recipe, steps=10)
    shutil.copytree(here / "low", here / "high")
    words = ("train", "ddpm", "--resume", "--steps", "20", "--out")
    said = call_well(*words, "high").err
    assert "decayed to 0.01 and increases to 0.05" in said
    assert rates(here / "high")[-1] == pytest.approx(0.1 / 20)
    assert "--lr 0.01 would keep the low rate" in said
    said = call_well(*words, "low", "--lr", "0.01").err
    assert "increases to" not in said
    assert rates(here / "low")[-1] == pytest.approx(0.01 / 20)
    assert tomllib.loads((here / "low" / "config.toml").read_text())["training"]["lr"] == 0.01
    assert "increases to" not in call_well(*words, "low").err, "the run is done"


def test_nothing_is_said_of_a_rate_that_did_not_come_down(here: Path) -> None:
    """Resumed as it was in its warm-up, or at a rate that was asked for."""
    train_tiny(here / "r", "--warmup", "30", steps=5)
    words = ("train", "ddpm", "--resume", "--out", "r")
    assert "increases to" not in call_well(*words, "--steps", "8").err
    assert "increases to" not in call_well(*words, "--steps", "12", "--lr", "0.01").err


def test_a_run_by_the_clock_that_has_ended_stays_as_it_is(here: Path) -> None:
    train_tiny_by_clock = ("train", "ddpm", *TINY, "--minutes", "0.05", "--out", "r")
    call_well(*train_tiny_by_clock)
    folder = latest_checkpoint(here / "r")
    assert folder is not None
    before = (folder / "model.safetensors").read_bytes()
    call_well("train", "ddpm", "--resume", "--out", "r")
    assert latest_checkpoint(here / "r") == folder
    assert (folder / "model.safetensors").read_bytes() == before


def test_init_begins_with_the_averaged_weights(digits_run: Path, here: Path) -> None:
    train_tiny(here / "r", "--init", digits_run, "--lr", "1e-12", steps=1)
    for name, value in tensors_of(here / "r").items():
        torch.testing.assert_close(value, tensors_of(digits_run, "ema")[name])
    assert tensors_of(digits_run)["network.stem.weight"].abs().sum() > 0


# A --config file


def test_a_config_file_sets_and_the_command_line_wins(here: Path) -> None:
    (here / "mine.toml").write_text(
        'family = "ddpm"\n[data]\ndata = "digits"\n[model]\nwidths = [8, 8]\ntimesteps = 40\n'
        "[training]\nminutes = 3\nbatch_size = 5\nlr = 0.01\n"
    )
    command = ("--config", "mine.toml", "--steps", "1", "--lr", "0.02", "--out", "r")
    call_well("train", "ddpm", *command)
    config = tomllib.loads((here / "r" / "config.toml").read_text())
    assert config["model"]["timesteps"] == 40
    assert config["training"]["batch_size"] == 5
    assert config["training"]["lr"] == 0.02
    assert config["training"]["steps"] == 1
    assert "minutes" not in config["training"]


def test_the_config_of_a_run_makes_the_same_run(digits_run: Path, here: Path) -> None:
    call_well("train", "ddpm", "--config", digits_run / "config.toml", "--out", "r", "--steps", "2")
    one, two = (tomllib.loads((run / "config.toml").read_text()) for run in (digits_run, here / "r"))
    assert one["training"].pop("steps") == 12
    assert two["training"].pop("steps") == 2
    assert one == two


# TensorBoard


def test_tensorboard_files_are_written(here: Path) -> None:
    train_tiny(here / "r", "--tensorboard", steps=1)
    events = list((here / "r" / "tensorboard").glob("events.out.tfevents.*"))
    assert len(events) == 1
    assert b"val_bits_per_dim" in events[0].read_bytes()


def test_without_tensorboard_nothing_is_begun(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ImportError(f"No module named {name!r}")
        return honest(name, *rest, **more)

    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    answer = call("train", "ddpm", *TINY, "--steps", "1", "--out", "r", "--tensorboard")
    assert answer.code == 2
    assert "nelbo[tensorboard]" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not (here / "r").exists()


# Trouble on the way


def test_a_run_that_diverges_says_so(here: Path) -> None:
    answer = call("train", "ddpm", *TINY, "--steps", "12", "--lr", "1e30", "--warmup", "0", "--out", "r")
    assert answer.code == 1
    assert "--lr" in answer.err.splitlines()[-1]
    for line in (here / "r" / "metrics.jsonl").read_text().splitlines():
        assert "NaN" not in line, "NaN is not JSON"
        assert "Infinity" not in line, "Infinity is not JSON"
    for folder in (here / "r").glob("checkpoints/step-*"):
        for value in read_checkpoint(folder).tensors["model"].values():
            assert bool(value.isfinite().all())


def test_a_run_that_diverged_at_once_begins_anew_with_another_recipe(here: Path) -> None:
    bad = ("--lr", "1e30", "--warmup", "0")
    answer = call("train", "ddpm", *TINY, "--steps", "12", *bad, "--out", "r")
    assert answer.code == 1
    assert "try a lower --lr, with --resume" in answer.err
    assert "FloatingPointError" not in answer.err
    assert not list((here / "r").glob("checkpoints/step-*"))
    answer = call("train", "ddpm", *TINY, "--steps", "12", "--lr", "1e-3", "--out", "r")
    assert answer.code == 2
    assert "add --resume to start again in it" in answer.err
    answer = call("train", "ddpm", "--timesteps", "31", "--out", "r", "--resume")
    assert answer.code == 2
    assert "delete r, which has no checkpoint" in answer.err
    better = ("--lr", "1e-3", "--warmup", "2", "--ema", "0.9")
    call_well("train", "ddpm", *TINY, "--steps", "12", *better, "--out", "r", "--resume")
    call_well("train", "ddpm", *TINY, "--steps", "12", *better, "--out", "straight")
    same_tensors(tensors_of(here / "r"), tensors_of(here / "straight"))
    recipe = tomllib.loads((here / "r" / "config.toml").read_text())["training"]
    assert (recipe["lr"], recipe["warmup"], recipe["ema"]) == (1e-3, 2, 0.9)


def begin(out: Path, stderr: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nelbo", "train", "ddpm", *TINY, "--steps", "1000000", "--out", str(out)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=stderr)


def wait_for_steps(out: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").stat().st_size:
            return
        time.sleep(0.05)
    raise AssertionError("no step was taken")


SLOW_DISK = """
import sys, time
import nelbo.training.checkpoint as checkpoint
from nelbo.cli import run
write = checkpoint.write_synced
def slow(path, data):
    write(path, data)
    print("writing", path.name, file=sys.stderr, flush=True)
    for _ in range(600):  # a signal that comes just before a sleep does not end it
        time.sleep(0.1)
checkpoint.write_synced = slow
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("before_it", [signal.SIG_DFL, signal.SIG_IGN], ids=["in front", "in the background"])
def test_a_second_ctrl_c_leaves_at_once_and_breaks_nothing(here: Path, before_it: signal.Handlers) -> None:
    """It comes while the checkpoint that the first one asked for is being written, which would take minutes.

    What a script's shell starts in the background has the signal ignored.
    """
    words = ["train", "ddpm", *TINY, "--resume", "--out", "run", "--steps"]
    call_well(*words, "3")
    metrics = here / "run" / "metrics.jsonl"
    before = metrics.stat().st_size
    command = [sys.executable, "-c", SLOW_DISK, *words, "1000000"]
    with subprocess.Popen(
        command,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, before_it),
    ) as process:
        assert process.stderr is not None
        while metrics.stat().st_size == before:  # the loop is under way, and watches for signals
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        while "writing" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert "Traceback" not in process.stderr.read()
    folder = latest_checkpoint(here / "run")
    assert folder is not None
    assert read_checkpoint(folder).state["step"] == 3
    assert call_well(*words, "5").code == 0


def test_signals_end_with_a_checkpoint_and_a_word(here: Path) -> None:
    """Two processes at once: SIGTERM with stderr in a pipe, Ctrl-C with stderr on a terminal."""
    leader, follower = pty.openpty()
    on_terminal, in_pipe = begin(here / "int", follower), begin(here / "term", subprocess.PIPE)
    os.close(follower)
    try:
        wait_for_steps(here / "term", in_pipe)
        in_pipe.send_signal(signal.SIGTERM)
        wait_for_steps(here / "int", on_terminal)
        on_terminal.send_signal(signal.SIGINT)
        out, err = in_pipe.communicate(timeout=60)
        shown = b""
        try:
            while piece := os.read(leader, 65536):
                shown += piece
        except OSError:
            pass  # the terminal's other side is closed
        assert on_terminal.wait(timeout=60) == 130
        assert on_terminal.stdout is not None
        on_terminal.stdout.close()
    finally:
        os.close(leader)
        for process in (on_terminal, in_pipe):
            if process.poll() is None:
                process.kill()
                process.wait()
    assert in_pipe.returncode == 143
    assert out == b""
    last = err.decode().splitlines()[-1]
    assert last.startswith("nelbo: ")
    assert "--resume" in last
    assert "Traceback" not in err.decode()
    assert b"\x1b" not in err
    assert b"\r" not in err
    assert "━" in shown.decode(errors="replace")
    assert b"--resume" in shown
    for name in ("int", "term"):
        folder = latest_checkpoint(here / name)
        assert folder is not None
        assert np.isfinite(read_checkpoint(folder).state["seconds"])
        assert f"step {int(folder.name[5:])}" in (last if name == "term" else shown.decode(errors="replace"))
