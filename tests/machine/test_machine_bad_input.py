"""Unusable input: exit code 2, one meaningful line with the field or file, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from machine_helpers import TINY, call, call_well, listing, tiny, write_pictures
from PIL import Image


class Row(NamedTuple):
    """One command line that must be refused.

    ``words`` stand in the message. ``prepare`` makes the working directory, where ``run`` is a run and ``pictures`` a
    folder of images.
    """

    line: list[str]
    words: tuple[str, ...]
    prepare: Callable[[Path], object] | None = None


def row(line: str | list[str], words: tuple[str, ...], prepare: Callable[[Path], object] | None = None) -> Row:
    """A row from a line as it is typed."""
    return Row(line.split() if isinstance(line, str) else line, words, prepare)


def checkpoint_of(here: Path) -> Path:
    return here / "run" / "checkpoints" / "step-00000012"


def cut(name: str) -> Callable[[Path], object]:
    def prepare(here: Path) -> None:
        path = checkpoint_of(here) / name
        path.write_bytes(path.read_bytes()[:-100])

    return prepare


def flip(name: str) -> Callable[[Path], object]:
    def prepare(here: Path) -> None:
        path = checkpoint_of(here) / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return prepare


def remove(name: str) -> Callable[[Path], object]:
    return lambda here: (checkpoint_of(here) / name).unlink()


def write(name: str, text: str) -> Callable[[Path], object]:
    def prepare(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)

    return prepare


def replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    def prepare(here: Path) -> None:
        text = (here / name).read_text()
        assert old in text
        (here / name).write_text(text.replace(old, new, 1))

    return prepare


def corrupt_picture(here: Path) -> None:
    (here / "pictures" / "05.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")


def other_size(here: Path) -> None:
    Image.new("RGB", (7, 9)).save(here / "pictures" / "odd.png")


def other_channels(here: Path) -> None:
    Image.new("RGBA", (14, 10)).save(here / "pictures" / "odd.png")


def float_array(here: Path) -> None:
    np.save(here / "mine.npy", np.zeros((20, 8, 8), dtype=np.float32))


def two_pictures(here: Path) -> None:
    write_pictures(here / "two", 2)


def unreadable(name: str) -> Callable[[Path], object]:
    def prepare(here: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("nothing is unreadable to root")
        (here / name).chmod(0)

    return prepare


RUN_CONFIG = "run/config.toml"
TRAIN = "train ddpm TINY --steps 1 --out new "
CONFIG = TRAIN + "--config mine.toml"
ROWS: dict[str, Row] = {
    # The command line itself
    "command unknown": row("trian ddpm", ("trian", "train")),
    "family unknown": row("train nope", ("FAMILY", "nope", "ddpm")),
    "family nearest": row("train dppm", ("FAMILY", "did you mean 'ddpm'")),
    "family a module": row("train base", ("FAMILY", "base")),
    "family a path": row("train ../os", ("FAMILY", "../os")),
    "family last": row("train --steps 3 ddpm", ("FAMILY",)),
    "option unknown": row(TRAIN + "--timestep 3", ("--timestep", "--timesteps")),
    "option unknown sample": row("sample run --sampelr ddim", ("--sampelr", "--sampler")),
    "option unknown score": row("score run --spilt val", ("--spilt", "--split")),
    "argument missing sample": row("sample", ("RUN",)),
    "argument missing score": row("score --json", ("RUN",)),
    "argument missing info": row("info", ("WHAT",)),
    "argument extra train": row(TRAIN + "extra", ("extra",)),
    "argument extra sample": row("sample run extra", ("extra",)),
    "argument extra score": row("score run run", ("run",)),
    "value missing": row("train ddpm --out new --steps", ("--steps",)),
    "resume without out": row("train ddpm --resume", ("--resume", "--out")),
    "resume with init": row("train ddpm --resume --out run --init run", ("--init", "--resume")),
    # Data
    "data unknown": row(TRAIN + "--data nope", ("--data", "nope", "digits")),
    "data nearest": row(TRAIN + "--data mnits", ("--data", "did you mean 'mnist'")),
    "data empty name": row([*TRAIN.split(), "--data", ""], ("--data",)),
    "folder missing": row(TRAIN + "--data ./photos", ("./photos",)),
    "folder empty": row(TRAIN + "--data empty", ("empty", "no images"), lambda here: (here / "empty").mkdir()),
    "folder of text": row(TRAIN + "--data texts", ("texts", "no images"), write("texts/a.txt", "a")),
    "folder too small": row(TRAIN + "--data two", ("two", "3"), two_pictures),
    "file of text": row(TRAIN + "--data a.txt", ("a.txt",), write("a.txt", "hello")),
    "array of floats": row(TRAIN + "--data mine.npy", ("mine.npy", "uint8"), float_array),
    "image corrupt": row(TRAIN + "--data pictures", ("05.png", "--skip-bad"), corrupt_picture),
    "images of two sizes": row(TRAIN + "--data pictures", ("odd.png", "9x7", "--size", "--fit"), other_size),
    "images of two channels": row(TRAIN + "--data pictures", ("odd.png", "--channels"), other_channels),
    "folder unreadable": row(TRAIN + "--data pictures", ("pictures",), unreadable("pictures")),
    "size no size": row(TRAIN + "--size big", ("--size", "HxW", "big")),
    "size of zero": row(TRAIN + "--size 0x8", ("--size", "HxW", "0x8")),
    "size of one": row(TRAIN + "--size 8", ("--size", "HxW")),
    "size negative": row(TRAIN + "--size=-8x8", ("--size", "HxW")),
    "size without fit": row(TRAIN + "--size 4x4", ("--fit", "4x4")),
    "fit without size": row(TRAIN + "--fit crop", ("--fit", "--size")),
    "fit unknown": row(TRAIN + "--size 4x4 --fit cropp", ("--fit", "crop", "pad", "resize")),
    "holdout": row(TRAIN + "--holdout 0.7", ("--holdout", "0.7")),
    "holdout nan": row(TRAIN + "--holdout nan", ("--holdout", "nan")),
    "levels 1": row(TRAIN + "--levels 1", ("--levels",)),
    "levels 257": row(TRAIN + "--levels 257", ("--levels", "256")),
    "levels too few": row(TRAIN + "--levels 16", ("--levels", "16")),
    "channels": row(TRAIN + "--channels 9", ("--channels", "4")),
    # The recipe
    "minutes and steps": row(TRAIN + "--minutes 3", ("--minutes", "--steps")),
    **{f"minutes {x}": row(f"train ddpm --out new --minutes {x}", ("--minutes", x)) for x in ("0", "-1", "nan", "inf")},
    "minutes x": row("train ddpm --out new --minutes x", ("--minutes", "number")),
    "steps 0": row("train ddpm --out new --steps 0", ("--steps", "0")),
    "steps 1.5": row("train ddpm --out new --steps 1.5", ("--steps", "1.5")),
    "seed -1": row(TRAIN + "--seed -1", ("--seed", "-1")),
    "seed too big": row(TRAIN + "--seed 9223372036854775808", ("--seed",)),
    "batch size": row(TRAIN + "--batch-size 0", ("--batch-size", "0")),
    **{f"lr {value}": row(TRAIN + f"--lr {value}", ("--lr", value)) for value in ("0", "-1", "nan", "inf")},
    "warmup": row(TRAIN + "--warmup -1", ("--warmup",)),
    "decay": row(TRAIN + "--decay 1.1", ("--decay",)),
    "clip": row(TRAIN + "--clip 0", ("--clip",)),
    "ema": row(TRAIN + "--ema 1", ("--ema",)),
    "precision": row(TRAIN + "--precision fp16", ("--precision", "fp16", "bf16")),
    "device": row(TRAIN + "--device nonsense", ("--device", "nonsense")),
    "device meta": row(TRAIN + "--device meta", ("--device", "meta")),
    "device number": row(TRAIN + "--device cuda:77", ("--device", "cuda:77")),
    # The model
    "timesteps 0": row(TRAIN + "--timesteps 0", ("--timesteps",)),
    "timesteps -1": row(TRAIN + "--timesteps -1", ("--timesteps",)),
    "timesteps 20 linear": row(TRAIN + "--timesteps 20", ("timesteps", "20")),
    "after a note": row(TRAIN + "--data pictures --channels 1 --timesteps 20", ("timesteps", "20")),
    "schedule": row(TRAIN + "--schedule cosin", ("--schedule", "cosine")),
    "predict": row(TRAIN + "--predict noise", ("--predict", "eps")),
    "widths": row(TRAIN + "--widths 0", ("--widths",)),
    "attention": row(TRAIN + "--attention 7", ("attention", "7")),
    "attention negative": row(TRAIN + "--attention -1", ("attention", "-1")),
    "dropout": row(TRAIN + "--dropout 1", ("--dropout",)),
    # Where to write
    "out exists": row(TRAIN.replace("new", "pictures"), ("--out", "pictures")),
    "out is a run": row(TRAIN.replace("new", "run"), ("--out", "run", "--resume")),
    "out is a file": row(TRAIN.replace("new", "a.txt"), ("--out", "a.txt"), write("a.txt", "mine")),
    "out below a file": row(TRAIN.replace("new", "a.txt/run"), ("--out", "a.txt"), write("a.txt", "mine")),
    "out far below a file": row(TRAIN.replace("new", "a.txt/b/run"), ("--out", "a.txt"), write("a.txt", "mine")),
    "resume no run": row(TRAIN.replace("new", "pictures") + "--resume", ("--out", "pictures", "not a run")),
    "resume with fewer steps": row("train ddpm --out run --resume --steps 5", ("--steps", "12")),
    "init no run": row(TRAIN + "--init pictures", ("pictures", "not a run")),
    "init does not fit": row(TRAIN + "--init run --blocks 3", ("run",)),
    # --config
    "config missing": row(CONFIG, ("mine.toml",)),
    "config a folder": row(TRAIN + "--config pictures", ("pictures",)),
    "config not TOML": row(CONFIG, ("mine.toml", "TOML", "line 2"), write("mine.toml", "a = 1\nb = = 2\n")),
    "config not text": row(TRAIN + "--config pictures/00.png", ("00.png",)),
    "config key at the top": row(CONFIG, ("mine.toml", "lr", "[training]"), write("mine.toml", "lr = 0.1\n")),
    "config table": row(CONFIG, ("trainig", "did you mean 'training'"), write("mine.toml", "[trainig]\nlr = 0.1\n")),
    "config no table": row(CONFIG, ("mine.toml", "model"), write("mine.toml", "model = 3\n")),
    "config key data": row(
        CONFIG, ("mine.toml", "[data]", "did you mean 'size'"), write("mine.toml", "[data]\nsiz=1\n")
    ),
    "config key model": row(
        CONFIG, ("mine.toml", "[model]", "did you mean 'schedule'"), write("mine.toml", '[model]\nshedule = "linear"\n')
    ),
    "config key training": row(
        CONFIG, ("mine.toml", "[training]", "did you mean 'warmup'"), write("mine.toml", "[training]\nwarmpu = 3\n")
    ),
    "config type": row(
        CONFIG, ("mine.toml", "[training]", "lr", "'fast'"), write("mine.toml", '[training]\nlr = "fast"\n')
    ),
    "config list": row(CONFIG, ("mine.toml", "[training]", "lr"), write("mine.toml", "[training]\nlr = [1]\n")),
    "config range": row(CONFIG, ("mine.toml", "[model]", "dropout"), write("mine.toml", "[model]\ndropout = 2\n")),
    "config size": row(CONFIG, ("mine.toml", "size", "HxW"), write("mine.toml", '[data]\nsize = "8"\n')),
    "config family": row(CONFIG, ("mine.toml", "family", "dppm"), write("mine.toml", 'family = "dppm"\n')),
    "config family a number": row(CONFIG, ("mine.toml", "family"), write("mine.toml", "family = 3\n")),
    "config unreadable": row(CONFIG, ("mine.toml",), lambda h: (write("mine.toml", "")(h), unreadable("mine.toml")(h))),
    # A run that is none, or damaged
    "run missing": row("sample nothing", ("nothing",)),
    "run no run": row("sample pictures", ("pictures", "not a run")),
    "run a file": row("score a.txt", ("a.txt",), write("a.txt", "x")),
    **{
        f"{name} cut": row(f"{line}", (f"{name}.safetensors",), cut(f"{name}.safetensors"))
        for name, line in {
            "ema": "sample run",
            "model": "score run --weights raw",
            "optimizer": "train ddpm --out run --resume --steps 20",
        }.items()
    },
    "ema flipped": row("score run", ("ema.safetensors",), flip("ema.safetensors")),
    "ema missing": row("sample run", ("ema.safetensors",), remove("ema.safetensors")),
    "state missing": row("sample run", ("state.json",), remove("state.json")),
    "state not JSON": row("score run", ("state.json",), cut("state.json")),
    "state a list": row("info run", ("state.json",), write("run/checkpoints/step-00000012/state.json", "[]")),
    "run config not TOML": row("sample run", ("config.toml", "TOML"), write(RUN_CONFIG, "= 3")),
    "run config empty": row("sample run", ("config.toml",), write(RUN_CONFIG, "")),
    "run config later": row("info run", ("config.toml", "format"), replace(RUN_CONFIG, "format = 2", "format = 3")),
    "run config later and odd": row(
        "info run", ("config.toml", "format"), write(RUN_CONFIG, 'format = 3\nversions = "new"\n')
    ),
    "run config family os": row("sample run", ("config.toml", "family"), replace(RUN_CONFIG, '"ddpm"', '"os"')),
    "run config family a path": row("sample run", ("family", "../x"), replace(RUN_CONFIG, '"ddpm"', '"../x"')),
    "run config family a list": row("sample run", ("config.toml", "family"), replace(RUN_CONFIG, '"ddpm"', '["os"]')),
    "run config no model": row("sample run", ("config.toml", "model"), replace(RUN_CONFIG, "[model]", "[modell]")),
    "run config model": row("sample run", ("config.toml", "blocks"), replace(RUN_CONFIG, "blocks = 2", "blocks = 0")),
    "run config images": row("sample run", ("config.toml", "levels"), replace(RUN_CONFIG, "levels = 17", "levels = 1")),
    "run config hash": row("sample run", ("config.toml", "sha256"), replace(RUN_CONFIG, 'sha256 = "', 'sha256 = "x')),
    "run config key": row("info run", ("config.toml", "lrr"), replace(RUN_CONFIG, "\nlr =", "\nlrr =")),
    "run config shape": row(
        "sample run", ("config.toml: [images] shape",), replace(RUN_CONFIG, "    1,\n    8,", "    3,\n    8,")
    ),
    "run config widths": row(
        "sample run", ("config.toml: [model] widths",), replace(RUN_CONFIG, "    8,\n    8,", "    8,\n    9,")
    ),
    "run config T": row("sample run", ("timesteps",), replace(RUN_CONFIG, "timesteps = 30", "timesteps = 20")),
    # sample
    "sample out exists": row("sample run -n 1 --out a.png", ("--out", "a.png"), write("a.png", "mine")),
    "sample out a run": row("sample run -n 1 --out run", ("--out", "run")),
    "sample out kind": row("sample run -n 1 --out a.jpg", ("--out", ".jpg", ".png")),
    "sample out below a file": row("sample run -n 1 --out a.txt/b.png", ("--out", "a.txt"), write("a.txt", "mine")),
    "sample sampler": row("sample run --sampler ddmi", ("--sampler", "did you mean 'ddim'")),
    "sample temperature": row("sample run --temperature 0.5", ("--temperature", "does not have")),
    "sample temperature below 0": row("sample run --temperature -1", ("--temperature",)),
    "sample eta": row("sample run --eta 2", ("--eta", "2")),
    "sample eta nan": row("sample run --eta nan", ("--eta",)),
    "sample eta ancestral": row("sample run --sampler ancestral --eta 0.5", ("--eta", "ddim")),
    "sample steps 0": row("sample run --steps 0", ("--steps", "0")),
    "sample steps": row("sample run --steps 31", ("--steps", "30")),
    "sample n": row("sample run -n 0", ("-n",)),
    "sample n x": row("sample run -n many", ("-n", "many")),
    "sample seed": row("sample run --seed -1", ("--seed",)),
    "sample seed too big": row("sample run -n 1 --seed 18446744073709551616", ("--seed",)),
    "sample batch size": row("sample run --batch-size 0", ("--batch-size",)),
    "sample weights": row("sample run --weights nope", ("--weights", "ema", "raw")),
    "sample device": row("sample run --device nonsense", ("--device", "nonsense")),
    "sample real npz": row("sample run --real --out a.npz", ("--real", ".png")),
    # score
    "score split": row("score run --split tset", ("--split", "did you mean 'test'")),
    "score form": row("score run --form nope", ("--form", "denoising")),
    "score weights": row("score run --weights eam", ("--weights", "did you mean 'ema'")),
    "score limit": row("score run --limit 0", ("--limit",)),
    "score replicates": row("score run --replicates 1", ("--replicates", "2")),
    "score timesteps": row("score run --timesteps 30", ("--timesteps", "29")),
    "score timesteps -1": row("score run --timesteps -1", ("--timesteps",)),
    "score seed too big": row("score run --limit 2 --seed 18446744073709551616", ("--seed",)),
    "score batch size": row("score run --batch-size 0", ("--batch-size",)),
    "score per image exists": row("score run --per-image a.csv", ("--per-image", "a.csv"), write("a.csv", "mine")),
    "score per image a folder": row("score run --per-image pictures", ("--per-image", "pictures")),
    "score worst 0": row("score run --worst 0", ("--worst", "1")),
    "score worst suffix": row("score run --worst 2 --out a.png", ("--out", "a.png", ".html")),
    "score worst exists": row("score run --worst 2 --out a.html", ("--out", "a.html"), write("a.html", "mine")),
    "score out alone": row("score run --out a.html", ("--out", "--worst")),
    "score false alarms 0": row("score run --false-alarms 0", ("--false-alarms", "greater than 0")),
    "score false alarms 1": row("score run --false-alarms 1", ("--false-alarms", "less than 1")),
    "score false alarms rare": row("score run --false-alarms 0.001", ("--false-alarms", "179", "999")),
    "score data": row("score run --data pictures", ("--data", "3×10×14", "1×8×8")),
    # info
    "info nothing": row("info nothing", ("nothing",)),
    "info empty folder": row("info empty", ("empty",), lambda here: (here / "empty").mkdir()),
}


@pytest.mark.parametrize("name", ROWS)
def test_refused(name: str, own_run: Path, colour_folder: Path, here: Path) -> None:
    case = ROWS[name]
    shutil.copytree(colour_folder, here / "pictures")
    if case.prepare is not None:
        case.prepare(here)
    before = listing(here)
    words = [x for word in case.line for x in (tiny(*case.line) if word == "TINY" else [word])]
    answer = call(*words)
    assert answer.code == 2, answer.err
    assert answer.out == ""
    assert answer.err.endswith("\n")
    assert answer.err.count("\n") == 1, f"not one line: {answer.err}"
    assert answer.err.startswith("nelbo: ")
    for word in case.words:
        assert word in answer.err
    for jargon in ("Traceback", "string should match", "^[", "\\d", "NoneType", "pydantic", "value error", "errno"):
        assert jargon.lower() not in answer.err.lower()
    assert listing(here) == before, "something was written"


def test_bad_images_are_left_out_when_told(here: Path, colour_folder: Path) -> None:
    shutil.copytree(colour_folder, here / "pictures")
    corrupt_picture(here)
    answer = call_well("train", "ddpm", *TINY, "--steps", "1", "--data", "pictures", "--skip-bad", "--out", "r")
    assert "05.png" in answer.err
    found = json.loads(call_well("info", "pictures", "--skip-bad", "--json").out)
    assert sum(found["splits"].values()) == 11
    assert any("05.png" in note for note in found["notes"])


def test_a_damaged_checkpoint_can_be_mended_as_the_message_says(own_run: Path, here: Path) -> None:
    newest = here / "run" / "checkpoints" / "step-00000013"
    call_well("train", "ddpm", "--out", "run", "--resume", "--steps", "13")
    (newest / "ema.safetensors").write_bytes(b"")
    assert "delete step-00000013" in call("sample", "run", "-n", "1").err
    shutil.rmtree(newest)
    call_well("sample", "run", "-n", "1")


def test_no_checkpoint_is_promised_where_there_is_none(own_run: Path, here: Path) -> None:
    cut("ema.safetensors")(here)
    assert [p.name for p in (own_run / "checkpoints").glob("step-*")] == ["step-00000012"]
    assert "checkpoint before it" not in call("sample", "run", "-n", "1").err


def test_the_table_is_long() -> None:
    assert len(ROWS) >= 40
