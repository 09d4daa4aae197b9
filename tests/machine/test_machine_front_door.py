"""Help texts and their examples, lazy imports, and the exit codes."""

from __future__ import annotations

import ast
import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from machine_helpers import TINY, app_for, call, call_well, environment

import nelbo
from nelbo.cli import run
from nelbo.cli.help import COMMANDS as HELP
from nelbo.models.ddpm import DDPMOptions
from nelbo.options import TrainingOptions

COMMANDS = [(), ("train",), ("train", "ddpm"), *((name,) for name in HELP)]


def examples() -> list[str]:
    """Every line of every --help that is a command line."""
    found = []
    for command in COMMANDS:
        shown = call_well(*command, "--help").out
        found += [line.strip(" │") for line in shown.splitlines() if line.strip(" │").startswith("nelbo ")]
    return sorted(set(found))


def test_every_command_shows_an_example() -> None:
    for command in COMMANDS:
        shown = call_well(*command, "--help").out
        assert any(line.strip(" │").startswith("nelbo ") for line in shown.splitlines()), command


def test_examples_in_help_are_command_lines() -> None:
    found = examples()
    assert len(found) >= 8
    for line in found:
        words = shlex.split(line)[1:]
        app = app_for(words)
        called, bound, unused, _ = app.parse_known_args(words)
        assert not unused, line
        assert "help" not in called.__name__, line
        assert bound.arguments or bound.kwargs or bound.args, line


def test_help_lists_every_option_with_its_default() -> None:
    shown = call_well("train", "ddpm", "--help").out
    for option in ("--minutes", "--steps", "--timesteps", "--widths", "--data", "--holdout", "--resume", "--init"):
        assert option in shown
    for kind, names in ((TrainingOptions, ("lr", "batch_size", "ema")), (DDPMOptions, ("timesteps", "schedule"))):
        for name in names:
            assert f"default: {kind.model_fields[name].default}" in shown


def test_help_is_text_that_people_understand() -> None:
    for command in COMMANDS:
        shown = call_well(*command, "--help").out
        for jargon in ("Annotated", "pydantic", "\\d", "^[", "exclude_unset", "None]"):
            assert jargon not in shown


def test_run_reads_what_it_is_given(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``run(argv)`` must not look at ``sys.argv``: nelbo is called from notebooks and tests too."""
    monkeypatch.setattr(sys, "argv", ["something", "else"])
    assert run(["train", "ddpm", *TINY, "--steps", "1", "--out", "r"]) == 0
    assert (here / "r" / "config.toml").is_file()


def test_version() -> None:
    assert call_well("--version").out.strip() == nelbo.__version__


def test_torch_is_not_imported_too_early() -> None:
    """One process for all: the commands' module, --help of every command that needs no family, and a wrong word."""
    code = (
        "import sys, io, contextlib\n"
        "import nelbo.cli.app\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    commands = ('', 'train', 'sample', 'score', 'evaluate', 'info')\n"
        "    for line in (*(f'{word} --help' for word in commands), 'trian'):\n"
        "        sys.argv = ['nelbo', *line.split()]\n"
        "        nelbo.cli.app.run(line.split())\n"
        "        assert 'torch' not in sys.modules, line\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_the_command_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nelbo", "train", "dppm"], capture_output=True, text=True, env=environment(), check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nelbo: ")
    assert "did you mean 'ddpm'" in done.stderr


def test_a_fault_of_ours_is_not_blamed_on_the_user(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(importlib.import_module("nelbo.jobs.sample"), "draw", broken)
    answer = call("sample", digits_run)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert "NELBO_TRACEBACK" in answer.err
    monkeypatch.setenv("NELBO_TRACEBACK", "1")
    with pytest.raises(KeyError):
        call("sample", digits_run)


def test_ctrl_c_anywhere_is_130(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("nelbo.jobs.sample"), "draw", interrupted)
    answer = call("sample", digits_run)
    assert answer.code == 130
    assert "Traceback" not in answer.err


def test_the_public_names_are_there() -> None:
    for name in nelbo.__all__:
        assert getattr(nelbo, name) is not None
    with pytest.raises(AttributeError):
        _ = nelbo.nonsense
    tree = ast.parse(Path(str(nelbo.__file__)).read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
