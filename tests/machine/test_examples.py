"""The examples run, and their bounds agree: parts from Python are trained, loaded and scored."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from machine_helpers import call

import nelbo
from nelbo.errors import InputError

EXAMPLES = Path(__file__).parents[2] / "examples"
LEVELS = 17


def module_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts_of(mine: ModuleType) -> dict[str, object]:
    return {"network": mine.MyNet(), "schedule": mine.my_schedule, "objective": mine.my_weight}


@pytest.mark.parametrize("name", ["own_diffusion", "own_vae"])
def test_an_example_is_forty_lines(name: str) -> None:
    lines = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 40


def test_a_diffusion_of_ones_own(here: Path) -> None:
    mine = module_of("own_diffusion")
    mine.main("mine", steps=200)
    forms = ("denoising", "consistency", "trajectory")
    first, *others = (nelbo.Run("mine", **parts_of(mine)).score(form=form) for form in forms)
    for other in others:
        off = abs(first.bits_per_dim - other.bits_per_dim)
        assert off <= 4 * (first.stderr_mc**2 + other.stderr_mc**2) ** 0.5
    one, two = (nelbo.load("mine", **parts_of(mine)) for _ in range(2))
    drawn = one.sample(2, sampler=mine.MySampler(), steps=5)
    assert torch.equal(drawn, two.sample(2, sampler="ancestral", steps=5))  # the sampler of the example is that


def test_a_run_of_ones_own_says_what_it_needs(here: Path) -> None:
    mine = module_of("own_diffusion")
    images = np.random.default_rng(0).integers(0, LEVELS, (60, 1, 8, 8)).astype(np.uint8)
    model = nelbo.Diffusion(shape=(1, 8, 8), levels=LEVELS, timesteps=10, **parts_of(mine))
    run = nelbo.fit(model, torch.from_numpy(images), steps=2, out="mine", labels=images[:, 0, 0, 0])
    assert run.config.parts == {
        "network": "own_diffusion.MyNet",
        "schedule": "own_diffusion.my_schedule",
        "objective": "own_diffusion.my_weight",
    }
    assert run.dataset.sha256 == run.config.images.sha256
    for command in ("sample", "score"):
        answer = call(command, "mine")
        assert answer.code == 2
        assert "own_diffusion." in answer.err
        assert answer.err.count("\n") == 1
    assert call("info", "mine").code == 0
    with pytest.raises(InputError, match="own_diffusion"):
        nelbo.load("mine", network=mine.MyNet())
    with pytest.raises(InputError, match="is not a part"):
        nelbo.load("mine", **parts_of(mine), encoder=mine.MyNet())
    with pytest.raises(InputError, match="does not fit"):
        nelbo.load("mine", **(parts_of(mine) | {"network": torch.nn.Conv2d(1, 1, 1)}))


def test_a_fit_that_is_resumed_is_one_that_never_stopped(here: Path) -> None:
    mine = module_of("own_diffusion")
    images = np.random.default_rng(0).integers(0, LEVELS, (60, 1, 8, 8)).astype(np.uint8)

    def fit(out: str, steps: int, resume: bool = False) -> nelbo.Run:
        torch.manual_seed(0)
        model = nelbo.Diffusion(shape=(1, 8, 8), levels=LEVELS, timesteps=10, **parts_of(mine))
        return nelbo.fit(model, images, steps=steps, out=out, resume=resume, decay=0.0, device="cpu")

    straight, stopped = fit("straight", 6), fit("stopped", 3)
    stopped = fit("stopped", 6, resume=True)
    one, two = (run.model("raw", "cpu").state_dict() for run in (straight, stopped))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((40, 1, 8, 8), np.float32), "integer levels"),
        (np.full((40, 1, 8, 8), 17, np.uint8), "levels from 17"),
        (np.arange(40 * 32).reshape(40, 1, 4, 8) % 17, "1×4×8"),
    ],
)
def test_images_that_do_not_fit_are_refused_and_nothing_is_written(images: np.ndarray, said: str, here: Path) -> None:
    mine = module_of("own_diffusion")
    model = nelbo.Diffusion(shape=(1, 8, 8), levels=LEVELS, timesteps=10, **parts_of(mine))
    with pytest.raises(InputError, match=said):
        nelbo.fit(model, images, steps=2, out="mine")
    assert not Path("mine").exists()


def test_a_vae_of_ones_own(here: Path) -> None:
    mine = module_of("own_vae")
    mine.main("mine", steps=200)
    run = nelbo.Run("mine", encoder=mine.Encoder(), decoder=mine.Decoder())
    analytic, sampled, iw = (run.score(form=form) for form in ("analytic", "sampled", "iw"))
    off = abs(analytic.bits_per_dim - sampled.bits_per_dim)
    assert off <= 4 * (analytic.stderr_mc**2 + sampled.stderr_mc**2) ** 0.5
    assert iw.bits_per_dim <= analytic.bits_per_dim + 4 * iw.stderr_mc


def test_what_is_not_the_trained_model_is_refused(here: Path) -> None:
    mine = module_of("own_diffusion")
    images = np.random.default_rng(0).integers(0, LEVELS, (60, 1, 8, 8)).astype(np.uint8)
    nelbo.fit(nelbo.Diffusion(shape=(1, 8, 8), levels=LEVELS, **parts_of(mine)), images, steps=2, out="mine")
    other = parts_of(mine) | {"schedule": lambda t: -5.0 + 9.0 * t}
    with pytest.raises(InputError, match=r"^schedule: runs from -5 to 4.* runs from -7 to 7"):
        nelbo.load("mine", **other)
    renamed = type("OtherNet", (mine.MyNet,), {})()
    model = nelbo.Diffusion(shape=(1, 8, 8), levels=LEVELS, **(parts_of(mine) | {"network": renamed}))
    with pytest.raises(InputError, match=r"^network: is .*OtherNet"):
        nelbo.fit(model, images, steps=4, out="mine", resume=True)


class TakesOne(torch.nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(1, 1, 3, padding=1)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"network": TakesOne}, "network: is the class TakesOne"),
        ({"network": TakesOne()}, "model: cannot compute its loss: TypeError"),
        ({"schedule": lambda t: -t}, "schedule: .* must increase"),
        ({"schedule": lambda t: float(t)}, "schedule: cannot be called"),
        ({"objective": lambda gamma: -gamma.exp()}, "objective: .* at least 0"),
    ],
)
def test_parts_that_cannot_be_used_are_said_before_anything_is_written(
    parts: dict[str, object], said: str, here: Path
) -> None:
    mine = module_of("own_diffusion")
    images = np.random.default_rng(0).integers(0, LEVELS, (60, 1, 8, 8)).astype(np.uint8)
    with pytest.raises(InputError, match=said):
        nelbo.fit(
            nelbo.Diffusion(shape=(1, 8, 8), levels=LEVELS, **(parts_of(mine) | parts)), images, steps=2, out="mine"
        )
    assert not Path("mine").exists()


def test_a_sampler_of_ones_own_may_compute_in_float64_and_has_to_give_a_law() -> None:
    mine = module_of("own_diffusion")
    model = nelbo.Diffusion(shape=(1, 8, 8), levels=LEVELS, **parts_of(mine))

    class InDouble(nelbo.samplers.DDIM):
        def step(self, z_t, denoised, gamma_t, gamma_s, before=None):
            return super().step(z_t.double(), denoised, gamma_t, gamma_s, before)

    class NoLaw(nelbo.samplers.DDIM):
        def step(self, z_t, denoised, gamma_t, gamma_s, before=None):
            return super().step(z_t, denoised, gamma_t, gamma_s, before).mean

    assert model.sample(2, sampler=InDouble(), steps=3).shape == (2, 1, 8, 8)
    with pytest.raises(InputError, match=r"NoLaw.step returns a Tensor; return Gaussian"):
        model.sample(2, sampler=NoLaw(), steps=3)
    with pytest.raises(InputError, match="pass a name or a Sampler instance"):
        model.sample(2, sampler=InDouble, steps=3)
    with pytest.raises(InputError, match=r"^eta: applies only to the name ddim"):
        model.sample(2, sampler=InDouble(), eta=0.5, steps=3)
