"""Output in every encoding, in a narrow terminal, and to a closed pipe."""

from __future__ import annotations

import codecs
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from machine_helpers import call, call_well, environment
from PIL import Image

from nelbo.jobs.run import Run
from nelbo.streams import READABLE, accept_any_text, as_text, readable

SMALL = ("--widths", "8", "8", "--latent", "2", "--batch-size", "4", "--device", "cpu", "--steps", "2")
ALL_COMMANDS = """
import contextlib, io, json, sys, traceback
from nelbo.__main__ import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["nelbo", *words]
    code = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (sys.stdout, sys.stderr):
        print(f"\\n=== {code}", file=stream, flush=True)
"""
"""Runs command lines one after the other, each as the command does, and parts what each writes by a line."""


def class_folders(folder: Path, *names: str) -> Path:
    """Forty grey images of 8 × 8 in each class, each class at a brightness of its own."""
    random = np.random.default_rng(0)
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(120):
            pixels = random.integers(0, 100, (8, 8), dtype=np.uint8) + np.uint8(100 * k)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def emoji_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vae on two classes, one of which is called by an emoji. The folder of its images stands beside it."""
    folder = tmp_path_factory.mktemp("emoji")
    data = class_folders(folder / "images", "🐱", "σ-réel")
    call_well("train", "vae", "--data", data, *SMALL, "--out", folder / "run")
    return folder / "run"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_command_ends_well_in_every_encoding(emoji_run: Path, here: Path, encoding: str) -> None:
    data, run = emoji_run.parent / "images", str(emoji_run)
    lines = {
        "--help": 0,
        "train vae --help": 0,
        "score --help": 0,
        f"info {data}": 0,
        f"info {data} --json": 0,
        f"info {run}": 0,
        f"train vae --data {data} {' '.join(SMALL)} --out new": 0,
        f"sample {run} -n 2 --out a.png": 0,
        f"score {run} --limit 10": 0,
        f"score {run} --limit 10 --json": 0,
        f"features --data {data} --epochs 1 --out learnt": 0,
        f"evaluate {run} --samples 30 --features learnt": 0,
        f"evaluate {run} --samples 30 --features learnt --json": 0,
        f"compare {run} new --out page": 0,
        f"compare {run} --out page --json": 0,
        "info 🐱σ": 2,
    }
    done = subprocess.run(
        [sys.executable, "-c", ALL_COMMANDS, json.dumps([line.split() for line in lines])],
        capture_output=True,
        env=environment() | {"PYTHONIOENCODING": encoding},
        check=True,
    )
    outs, errs = (text.decode(encoding).split("\n=== ") for text in (done.stdout, done.stderr))
    for k, (line, code) in enumerate(lines.items()):
        ended = int(outs[k + 1].splitlines()[0])
        assert ended == code, (line, errs[k])
        assert "Error" not in errs[k]
        if "--json" in line:
            found = json.loads(outs[k].partition("\n")[2] if k else outs[k])
            if line.startswith("info"):
                assert found["classes"] == ["σ-réel", "🐱"]
    shown = dict(zip(lines, outs, strict=False))
    known = json.loads(shown[f"score {run} --limit 10 --json"].partition("\n")[2])
    for value in (known["bits_per_dim"], known["stderr"]):
        assert f"{value:.4f}" in shown[f"score {run} --limit 10"]
    sampled = json.loads(shown[f"evaluate {run} --samples 30 --features learnt --json"].partition("\n")[2])
    for measure in sampled["quality"].values():
        assert f"{measure['value']:.6g}" in shown[f"evaluate {run} --samples 30 --features learnt"]
    classes = next(row for row in shown[f"info {data}"].splitlines() if row.startswith("classes"))
    expected = {
        "ascii": r"sigma-r\xe9el \U0001f431",
        "cp1252": r"sigma-réel \U0001f431",
    }
    assert classes.split(maxsplit=1)[1] == expected[encoding]


def test_signs_have_readable_stand_ins_and_numbers_stay() -> None:
    codecs.register_error(READABLE, readable)

    def ascii_of(text: str) -> str:
        return text.encode("ascii", READABLE).decode()

    assert ascii_of("8.40 ± 0.13") == "8.40 +- 0.13"
    assert ascii_of("−0.02 – 3×12×12 → x") == "-0.02 - 3x12x12 -> x"
    assert ascii_of("10⁻⁴, x₁₂, ≤ ½") == "10^-^4, x_1_2, <= 1/2"
    assert ascii_of("Σγ Ωε") == "Sigmagamma Omegaepsilon"
    assert ascii_of("┏━┓│⠋") == "+-+|*"
    assert ascii_of("é🐱") == r"\xe9\U0001f431"
    for encoding in ("ascii", "utf-8", "cp1252"):
        assert "caf\udce9.png".encode(encoding, READABLE) == b"caf\xe9.png", "a name leads to its file"
    assert "\udce9".encode("utf-16-le", READABLE).decode("utf-16-le") == r"\udce9"
    assert (as_text("caf\udce9"), as_text("🐱"), as_text("\udcc3\udca9")) == (r"caf\xe9", "🐱", "é")


def test_a_narrow_terminal_cuts_no_number_off(emoji_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = json.loads(call_well("score", emoji_run, "--limit", "12", "--json").out)
    monkeypatch.setenv("COLUMNS", "24")
    shown = call_well("score", emoji_run, "--limit", "12").out
    for term in known["terms"].values():
        assert f"{term['bits_per_dim']:.4f}" in shown
    assert "…" not in shown


def command(*words: str | Path, **more: str) -> str:
    """A command line for a shell."""
    return " ".join(
        [f"{name}={value}" for name, value in more.items()] + [f"'{sys.executable}' -m nelbo", *map(str, words)]
    )


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-c", line], capture_output=True, env=environment(), check=False)


def test_a_reader_that_goes_away_ends_nothing(emoji_run: Path, here: Path) -> None:
    """A closed stdout is no error; with a closed stderr, training goes on and its run is whole."""
    data = emoji_run.parent / "images"
    done = shell(f"{command('info', data)} | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == (b"0\n", b"")
    steps = (*SMALL[:-1], "25")
    done = shell(f"{command('train', 'vae', '--data', data, *steps, '--out', 'r')} 2> >(true); echo $?")
    assert done.stdout == b"r\n0\n"
    assert Run("r").step == 25
    done = shell(f"{command('score', emoji_run, '--limit', '10', '--json')} 2>&-")
    assert json.loads(done.stdout)["n"] == 10
    done = shell(f"{command('info', 'nowhere')} 2>&-; echo $?; {command('info', data)} >&-; echo $?")
    assert done.stdout == b"2\n0\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_a_full_disk_behind_stdout_is_said(emoji_run: Path) -> None:
    done = shell(f"{command('info', emoji_run)} > /dev/full; echo $? >&2")
    assert done.stderr.splitlines()[-1] == b"1"
    assert done.stderr.startswith(b"nelbo: ")
    assert shell(f"{command('info', 'nowhere')} 2> /dev/full").returncode == 2


def test_a_dumb_terminal_gets_no_escapes(emoji_run: Path, here: Path) -> None:
    """On a pseudo-terminal with TERM=dumb: neither colours nor the moves of a bar."""
    pty = pytest.importorskip("pty")
    main, other = pty.openpty()
    words = [sys.executable, "-m", "nelbo", "score", str(emoji_run), "--limit", "9"]
    with subprocess.Popen(words, stdout=other, stderr=other, env=environment() | {"TERM": "dumb"}) as process:
        os.close(other)
        said = b""
        while True:
            try:
                part = os.read(main, 65536)
            except OSError:  # Linux says so that the other side is closed
                break
            if not part:
                break
            said += part
    os.close(main)
    assert process.returncode == 0
    assert b"\x1b" not in said
    assert re.search(rb"total \(bound\) +\S+ +\d\.\d{4}", said)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file name is always text")
def test_names_that_are_no_text(here: Path) -> None:
    """A class folder in Latin-1 is listed and recorded; a data set of such a name is refused, and nothing written."""
    strange = b"caf\xe9".decode("utf-8", "surrogateescape")
    data = class_folders(here / "images", strange, "x")
    call_well("train", "vae", "--data", data, *SMALL, "--out", "r")
    assert Run("r").config.images.classes == (r"caf\xe9", "x")
    done = shell(f"{command('info', data)}; {command('train', 'vae', '--data', data, *SMALL, '--out')} $'o\\xe9'")
    assert b"o\xe9\n" in done.stdout, "the run's name is written as it is"
    call_well("compare", here / "o\udce9", "--out", "page")
    assert r'<td data-label="run">o\xe9<br>' in Path("page/index.html").read_text(encoding="utf-8")
    answer = call("train", "vae", "--data", data / strange, *SMALL, "--out", "s")
    assert answer.code == 2
    assert "not valid UTF-8" in answer.err
    assert not Path("s").exists()


def test_streams_that_are_no_files_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's, for one."""
    stream = type("Stream", (), {})()
    monkeypatch.setattr(sys, "stdout", stream)
    accept_any_text()
    assert sys.stdout is stream
