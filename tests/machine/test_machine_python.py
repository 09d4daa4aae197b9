"""nelbo from Python: the public names, and their calls."""

from __future__ import annotations

import builtins
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from machine_helpers import TINY, call_well

import nelbo
from nelbo.models.sampling import SampleSettings
from nelbo.report.progress import bar, console


def test_settings_are_keyword_arguments(digits_run: Path) -> None:
    """Each gives the images that ``settings`` gives, and wins over it; what a family has no use for is refused."""
    model = nelbo.load(digits_run)
    for chosen in ({"steps": 5}, {"sampler": "ancestral", "steps": 7}, {"eta": 0.0}, {"clip": False, "steps": 6}):
        expected = model.sample(3, settings=SampleSettings(**chosen))  # type: ignore[arg-type]
        assert torch.equal(model.sample(3, **chosen), expected)  # type: ignore[arg-type]
    both = model.sample(3, settings=SampleSettings("ancestral", 9), steps=7)
    assert torch.equal(both, model.sample(3, sampler="ancestral", steps=7))
    with pytest.raises(nelbo.InputError, match="temperature"):
        model.sample(1, temperature=0.5)
    with pytest.raises(TypeError, match="stpes"):
        model.sample(1, stpes=5)  # type: ignore[call-arg]


def test_sample_is_what_the_command_draws(digits_run: Path, here: Path) -> None:
    call_well("sample", digits_run, "-n", "3", "--steps", "4", "--seed", "2", "--out", "a.npz")
    expected = np.load("a.npz")["images"].transpose(0, 3, 1, 2)
    for run in (digits_run, str(digits_run), nelbo.Run(digits_run)):
        assert np.array_equal(nelbo.sample(run, 3, steps=4, seed=2).numpy(), expected)
    raw = nelbo.sample(digits_run, 3, weights="raw", settings=SampleSettings(steps=4))
    assert torch.equal(raw, nelbo.load(digits_run, weights="raw").sample(3, steps=4))


def test_dir_lists_what_is_public() -> None:
    assert dir(nelbo) == sorted([*nelbo.__all__, "__version__"])
    assert {"train", "load", "sample", "score", "compare", "Run", "InputError"} <= set(dir(nelbo))


def test_a_run_says_what_it_is(digits_run: Path, own_run: Path) -> None:
    assert repr(nelbo.Run(digits_run)) == f"<nelbo run {str(digits_run)!r}: ddpm on digits, step 12>"
    for part in sorted((own_run / "checkpoints").rglob("*"), reverse=True):
        part.rmdir() if part.is_dir() else part.unlink()
    assert repr(nelbo.Run("run")) == "<nelbo run 'run': ddpm on digits, no checkpoint yet>"


GREY = np.random.default_rng(0).integers(0, 17, (40, 8, 8)).astype(np.uint8)


@pytest.mark.parametrize("images", [GREY, torch.from_numpy(GREY)[:, None]])
def test_an_array_is_told_how_to_become_data(digits_run: Path, here: Path, images: object) -> None:
    """A run is self-describing, so it takes data that are somewhere; the line that says so works as it stands."""
    for call in (
        lambda: nelbo.train("vae", images, out="r"),  # type: ignore[arg-type]
        lambda: nelbo.score(digits_run, data=images),  # type: ignore[arg-type]
    ):
        with pytest.raises(nelbo.InputError, match=r"^data: .*np\.save\(.images\.npy., images\)"):
            call()
    assert not Path("r").exists()
    np.save("images.npy", np.asarray(images).reshape(40, 8, 8))
    run = nelbo.train("vae", Path("images.npy"), levels=17, steps=1, widths=(8, 8), device="cpu", out="r")
    assert run.config.images.shape == (1, 8, 8)


def test_score_takes_a_spec(own_run: Path) -> None:
    own = nelbo.score(own_run, limit=5)
    assert nelbo.score(own_run, data="digits", limit=5).bits_per_dim == own.bits_per_dim


class ZMQInteractiveShell:
    """What ``get_ipython()`` gives in a notebook, by which rich knows one."""


@pytest.mark.parametrize("widgets", [False, True])
def test_progress_in_a_notebook(monkeypatch: pytest.MonkeyPatch, widgets: bool) -> None:
    """A bar where ipywidgets can draw it, else lines; no warning, which here would be an error, either way."""
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    for name in ("IPython", "IPython.display"):  # without a kernel, IPython would print what it is to show
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if widgets else None)
    assert console().is_jupyter
    assert console().shows_bars is widgets
    if not widgets:
        with bar("counting", 3) as progress:
            progress.advance(progress.task_ids[0])
            console().print("said in between")
        assert call_well("train", "ddpm", *TINY, "--steps", "1", "--out", "r").out == "r\n"
