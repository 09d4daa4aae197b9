"""``nelbo distill``: a run whose student samples in a few steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from machine_helpers import call, call_well, listing

import nelbo
from nelbo.diffusion.samplers import DDIM
from nelbo.jobs.run import Run
from nelbo.models._distilled import Distilled
from nelbo.models._sampling import walk
from nelbo.models.diffusion import Diffusion
from nelbo.training import read_checkpoint
from nelbo.training.folders import all_checkpoints, step_of

SMALL = ["--widths", "16", "--blocks", "1", "--fine-blocks", "1", "--batch-size", "16", "--precision", "fp32"]


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "vdm"
    call_well(
        "train", "vdm", *SMALL, "--clusters", "0", "--device", "cpu", "--steps", "400", "--warmup", "20", "--out", out
    )
    return out


@pytest.fixture(scope="session")
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("student") / "vdm"
    call_well("distill", teacher, "--steps", "2", "--teacher-steps", "16", "--train-steps", "200", "--out", out)
    return out


def ends(path: Path, gammas: torch.Tensor) -> torch.Tensor:
    """Where 200 walks of the model's down these γ end, from the noise of one seed."""
    model = nelbo.load(path)
    walker = model.student if isinstance(model, Distilled) else model
    assert isinstance(walker, Diffusion)
    with torch.no_grad():
        *_, last = walk(walker, DDIM(), gammas, range(200), 0, True)
    return last.x


def test_its_few_steps_end_nearer_to_the_teacher_s_many_than_the_teacher_s_own_few(
    teacher: Path, student: Path
) -> None:
    model = nelbo.load(student)
    assert isinstance(model, Distilled)
    many = ends(teacher, model.teacher_gammas)
    own_few, learned = (float((ends(run, model.student_gammas) - many).square().mean()) for run in (teacher, student))
    assert learned < 0.7 * own_few  # 0.45 when this was written; without learning it is 1


def test_it_keeps_the_teacher_as_it_was(teacher: Path, student: Path) -> None:
    kept = nelbo.load(student)
    assert isinstance(kept, Distilled)
    for name, value in nelbo.load(teacher).state_dict().items():
        assert torch.equal(kept.teacher.state_dict()[name], value), name


def test_what_the_other_commands_say_of_it(student: Path) -> None:
    facts = json.loads(call_well("info", student, "--json").out)
    assert facts["distillation"]["steps"] == 2
    assert len(facts["gamma_of_its_steps"]) == 2
    score = json.loads(call_well("score", student, "--limit", "8", "--json").out)
    assert (score["kind"], score["bits_per_dim"]) == ("none", None)
    assert "noise to images" in score["why"]
    assert "2 steps" in call_well("sample", student, "-n", "2", "--out", "two.png").err
    assert call("sample", student, "--steps", "3").code == 2
    call_well("compare", student, "--out", "page")


def test_it_goes_on_from_its_own_checkpoint_without_the_teacher_s_run(teacher: Path, here: Path) -> None:
    Path(shutil.copytree(teacher, here / "teacher"))
    how = ["--steps", "2", "--teacher-steps", "8"]
    call_well("distill", "teacher", *how, "--train-steps", "3", "--out", "student")
    first = read_checkpoint(Run("student").checkpoint)
    shutil.rmtree(here / "teacher")
    call_well("distill", "teacher", *how, "--train-steps", "6", "--out", "student", "--resume")
    then = read_checkpoint(Run("student").checkpoint)
    assert (first.state["step"], then.state["step"]) == (3, 6)
    for name, value in first.tensors["model"].items():
        if name.startswith("teacher."):
            assert torch.equal(value, then.tensors["model"][name]), name
    answer = call("distill", "teacher", "--steps", "4", "--out", "student", "--resume")
    assert answer.code == 2
    assert "is distilled to 2" in answer.err


def test_killed_before_its_first_step_it_still_has_its_teacher(teacher: Path, here: Path) -> None:
    """Its first checkpoint is written with the run: resumed from there, it must not learn from random weights."""
    call_well("distill", teacher, "--steps", "2", "--teacher-steps", "8", "--train-steps", "2", "--out", "student")
    first, *later = all_checkpoints(here / "student")
    assert step_of(first) == 0
    for folder in later:
        shutil.rmtree(folder)
    (here / "student" / "checkpoints" / "latest").unlink()
    call_well("distill", "gone", "--steps", "2", "--train-steps", "2", "--out", "student", "--resume")
    kept = nelbo.load("student")
    assert isinstance(kept, Distilled)
    for name, value in nelbo.load(teacher).state_dict().items():
        assert torch.equal(kept.teacher.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--steps", "3", "--teacher-steps", "8"], "--teacher-steps"),
        (["--teacher-steps", "2000", "--steps", "1000"], "--teacher-steps"),
        (["--train-steps", "5", "--minutes", "1"], "--minutes, --train-steps"),
        (["--resume"], "--resume"),
        (["--device", "tpu"], "--device"),
        (["--lr", "0"], "--lr"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    words: list[str], named: str, teacher: Path, here: Path
) -> None:
    answer = call("distill", teacher, *words)
    assert answer.code == 2
    assert answer.err.startswith("nelbo: ")
    assert named in answer.err
    assert answer.err.count("\n") == 1
    assert not listing(here)


def test_what_was_distilled_is_not_distilled_again(student: Path) -> None:
    answer = call("distill", student, "--out", "again")
    assert answer.code == 2
    assert "is itself distilled" in answer.err


def test_a_family_that_walks_in_no_steps_is_refused(here: Path) -> None:
    call_well("train", "vae", "--steps", "2", "--out", "vae", "--device", "cpu")
    answer = call("distill", "vae", "--out", "student")
    assert answer.code == 2
    assert "only ddpm and vdm" in answer.err
    assert not (here / "student").exists()
