"""The wheel in a fresh environment, with its dependencies and nothing else."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import nelbo
from nelbo import data as nelbo_data

ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
TRAINING = ("--data", "digits", "--steps", "20", "--widths", "8", "8", "--device", "cpu")


class Installed(NamedTuple):
    """A fresh environment that holds the wheel.

    Attributes:
        program: its ``nelbo``.
        python: its interpreter.
        folder: an empty folder outside the checkout to work in.
    """

    program: Path
    python: Path
    folder: Path

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run ``nelbo`` with these words; it has to end with this code."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run([self.program, *words], cwd=self.folder, env=clean, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, built from the checkout and installed with the versions of constraints.txt."""
    place = tmp_path_factory.mktemp("wheel")
    copy = place / "checkout"  # a build leaves folders beside its sources
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run([sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", place, copy], check=True)
    (wheel,) = place.glob("nelbo-*.whl")
    assert wheel.name.startswith(f"nelbo-{nelbo.__version__}-")
    subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True)
    python = place / "venv" / "bin" / "python"
    words = ("--no-compile", "--constraint", ROOT / "constraints.txt")  # torch alone has thousands of modules
    subprocess.run([python, *PIP, "install", *words, wheel], check=True)
    (place / "work").mkdir()
    return Installed(place / "venv" / "bin" / "nelbo", python, place / "work")


def test_the_wheel_trains_samples_and_scores_outside_the_checkout(installed: Installed) -> None:
    run = installed.run("train", "ddpm", *TRAINING, "--out", "run").stdout.strip()
    picture = installed.run("sample", run, "-n", "4", "--steps", "5").stdout.strip()
    assert (installed.folder / picture).read_bytes().startswith(b"\x89PNG")
    score = json.loads(installed.run("score", run, "--limit", "8", "--json").stdout)
    assert 0 < score["bits_per_dim"] < 100
    assert score["bits_per_dim"] == pytest.approx(sum(term["bits_per_dim"] for term in score["terms"].values()))
    page = installed.run("compare", run, "--out", "report").stdout.strip()  # its template is a file of the package
    assert "<html" in (installed.folder / page).read_text(encoding="utf-8")


def test_nothing_but_its_dependencies_came_with_it(installed: Installed) -> None:
    others = ("pytest", "diffusers", "torchvision", "datasets")
    code = f"import importlib.util as u; print([name for name in {others} if u.find_spec(name)])"
    words = [installed.python, "-c", code]
    done = subprocess.run(words, cwd=installed.folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_links_and_pictures_of_the_readme_work_on_a_package_index(installed: Installed) -> None:
    code = "from importlib.metadata import metadata; print(metadata('nelbo').json['description'])"
    done = subprocess.run(
        [installed.python, "-c", code], cwd=installed.folder, capture_output=True, text=True, check=True
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    source = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]
    theirs, ours = (re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", text) for text in (done.stdout, readme))
    assert len(ours) > 20
    for (picture, target), (_, path) in zip(theirs, ours, strict=True):
        assert (ROOT / path).exists(), f"README.md links to {path}"
        assert target == f"{source}/{'raw' if picture else 'blob'}/main/{path}"


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("train", "ddpm", *TRAINING, "--tensorboard", "--out", "board"), "nelbo[tensorboard]"),
        (("train", "ddpm", "--data", "hf:name", "--steps", "1", "--out", "hub"), "nelbo[hub]"),
    ],
)
def test_an_extra_that_is_not_there_is_one_line(installed: Installed, words: tuple[str, ...], extra: str) -> None:
    error = installed.run(*words, code=2).stderr
    assert error.count("\n") == 1
    assert f"pip install '{extra}'" in error
    assert not (installed.folder / words[-1]).exists()


@pytest.fixture(scope="module")
def extended(installed: Installed) -> Installed:
    """The same environment with a family that a package of its own registers."""
    example = installed.folder.parent / "example"
    shutil.copytree(ROOT / "examples" / "nelbo-independent", example, ignore=shutil.ignore_patterns("*.egg-info"))
    subprocess.run([installed.python, *PIP, "install", "--no-deps", example], check=True)
    return installed


def test_a_family_of_another_package_trains_samples_and_scores(extended: Installed) -> None:
    assert "Independent pixels" in extended.run("train", "--help").stdout
    assert "--smoothing" in extended.run("train", "independent", "--help").stdout
    recipe = ("--steps", "300", "--batch-size", "256", "--lr", "0.1", "--weight-decay", "0", "--smoothing", "0")
    run = extended.run("train", "independent", *recipe, "--device", "cpu", "--out", "theirs").stdout.strip()
    extended.run("sample", run, "-n", "4", "--out", "theirs.png")
    score = json.loads(extended.run("score", run, "--split", "train", "--json").stdout)
    # The best that a law of independent pixels can do is the sum of their entropies.
    x = nelbo_data.load("digits").split("train").flatten(1)
    shares = torch.nn.functional.one_hot(x.long(), 17).double().mean(0)
    entropy = -torch.special.xlogy(shares, shares).sum() / math.log(2) / x.shape[1]
    assert 0 <= score["bits_per_dim"] - float(entropy) < 0.02


def test_a_run_of_a_family_that_is_not_installed_names_the_package(extended: Installed) -> None:
    run = extended.run("train", "independent", "--steps", "2", "--device", "cpu", "--out", "orphan").stdout.strip()
    subprocess.run([extended.python, *PIP, "uninstall", "--yes", "nelbo-independent"], check=True)
    error = extended.run("info", run, code=2).stderr
    assert error.count("\n") == 1
    assert "pip install nelbo-independent==0.1.0" in error
