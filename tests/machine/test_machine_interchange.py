"""``nelbo import`` and ``export``: diffusers' own folders, outputs and loader."""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from machine_helpers import call, call_well
from safetensors.torch import load_file, save_file

import nelbo
from nelbo.diffusion.schedules import betas_of
from nelbo.errors import InputError
from nelbo.interchange import read_pipeline
from nelbo.jobs.interchange import export_run, import_folder
from nelbo.models._sampling import make_sampler
from nelbo.models.ddpm import DDPM
from nelbo.models.sampling import SampleSettings
from nelbo.rng import Stream, normal
from nelbo.theory.bound import Bound
from nelbo.training import Trainer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


def network(**settings: Any) -> UNet2DModel:
    torch.manual_seed(0)
    unet = UNet2DModel(**{**SMALL, **settings}).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return unet


def saved(folder: Path, unet: UNet2DModel, **scheduler: Any) -> Path:
    """A pipeline as diffusers saves it."""
    unet.save_pretrained(folder / "unet")
    DDPMScheduler(**{"num_train_timesteps": 50, **scheduler}).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("theirs") / "pipeline", network())


SCHEDULERS: dict[str, dict[str, Any]] = {
    "linear": {},
    "other ends": {"beta_start": 0.001, "beta_end": 0.3},
    "scaled linear": {"beta_schedule": "scaled_linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "given": {"trained_betas": np.linspace(0.01, 0.2, 50).tolist()},
}


@torch.no_grad()
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_schedule_is_theirs(name: str, tmp_path: Path) -> None:
    """β to a float32's round-off; ᾱ to that of their product, which is in float32 and here in float64."""
    folder = saved(tmp_path / "theirs", network(), **SCHEDULERS[name])
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    model = import_folder(folder, tmp_path / "run").model(device="cpu")
    assert isinstance(model, DDPM)
    gammas = model.timeline.chain()[1:]
    torch.testing.assert_close(betas_of(gammas).float(), scheduler.betas, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.sigmoid(-gammas).float(), scheduler.alphas_cumprod, rtol=2e-5, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("predict", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_a_reverse_step_is_theirs(predict: str, variance: str, tmp_path: Path) -> None:
    """x_{t−1} from the same x_t and the same noise, at the last step, in the middle, and next to the image."""
    unet = network(out_channels=2 if variance == "learned_range" else 1)
    folder = saved(tmp_path / "theirs", unet, prediction_type=predict, variance_type=variance, clip_sample=False)
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    model = import_folder(folder, tmp_path / "run").model(device="cpu")
    assert isinstance(model, DDPM)
    sampler, _ = make_sampler(model, SampleSettings(sampler="ancestral", clip=False))
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for t in (50, 20, 2):
        output = unet(x, t - 1).sample
        theirs = scheduler.step(output, t - 1, x, generator=torch.Generator().manual_seed(7)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
        now, then = (model.timeline.chain()[i].expand(3) for i in (t, t - 1))
        ours = sampler.step(x, model.denoiser(x, now), now, then).sample(noise)
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


@torch.no_grad()
def test_samples_are_those_of_their_ddim(pipeline: Path, tmp_path: Path) -> None:
    """From the same x_T, fifty steps without noise: to 1e-4 of the largest, what fifty float32 steps gather.

    Nothing is clipped: diffusers then keeps the ε̂ of the prediction before, and nelbo takes that of the clipped one.
    """
    run = import_folder(pipeline, tmp_path / "run")
    model = run.model(device="cpu")
    x = normal(3, Stream.SAMPLE, 0, range(4), model.shape)
    scheduler = DDIMScheduler(num_train_timesteps=50, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(50)
    unet = UNet2DModel.from_pretrained(pipeline / "unet")
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t).sample, t, x).prev_sample
    *_, frame = model.frames(range(4), 3, SampleSettings(sampler="ddim", steps=50, eta=0.0, clip=False))
    torch.testing.assert_close(frame.x, x, rtol=0, atol=1e-4 * float(x.abs().max()))


@torch.no_grad()
def test_a_run_goes_out_and_comes_in_as_it_was(pipeline: Path, tmp_path: Path) -> None:
    """diffusers loads what is exported, with the same weights and β; imported again, it is the same model."""
    run = import_folder(pipeline, tmp_path / "run")
    out = export_run(run.path, tmp_path / "out")
    loaded = DDPMPipeline.from_pretrained(out)
    before = UNet2DModel.from_pretrained(pipeline / "unet")
    for name, value in before.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], value), name
    ours = {key: value for key, value in loaded.unet.config.items() if not key.startswith("_")}
    theirs = {key: value for key, value in before.config.items() if not key.startswith("_")}
    assert ours == theirs
    assert torch.equal(loaded.scheduler.betas, DDPMScheduler(num_train_timesteps=50).betas)
    again = import_folder(out, tmp_path / "again").model(device="cpu")
    x = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    first, second = (m.bound(x, timesteps=4) for m in (run.model(device="cpu"), again))
    assert isinstance(first, Bound)
    assert torch.equal(first.total, second.total)


@torch.no_grad()
def test_attention_by_its_old_names_is_read(pipeline: Path, tmp_path: Path) -> None:
    """As files from before diffusers 0.15 have it, and as diffusers itself reads them."""
    old = shutil.copytree(pipeline, tmp_path / "old")
    place = old / "unet" / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, value in load_file(place).items():
        for new, older in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{older}.")
        renamed[name] = value
    assert any("proj_attn" in name for name in renamed)
    save_file(renamed, place, {"format": "pt"})
    ours = read_pipeline(old).tensors
    for name, value in UNet2DModel.from_pretrained(old / "unet").state_dict().items():
        assert torch.equal(ours[name], value), name


def test_a_class_has_to_be_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "theirs", network(num_class_embeds=10))
    code, _, error = call("import", folder, tmp_path / "run")
    assert code == 2
    assert "--label" in error
    assert not (tmp_path / "run").exists()
    assert call("import", folder, tmp_path / "run", "--label", 10)[0] == 2
    drawn = {}
    for label in (3, 4):
        path = tmp_path / f"run-{label}"
        call_well("import", folder, path, "--label", label)
        drawn[label] = nelbo.load(path, device="cpu").sample(2, settings=SampleSettings(steps=5))
    assert not torch.equal(drawn[3], drawn[4])


def test_an_imported_run_is_scored_and_trained_on(tmp_path: Path) -> None:
    """The bound of nelbo's own code on their weights; then two more steps, and a fresh run begun from the settings."""
    folder = saved(tmp_path / "theirs", network())
    data = tmp_path / "images.npy"
    np.save(data, np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    run = tmp_path / "run"
    call_well("import", folder, run, "--data", data)
    score = json.loads(call_well("score", run, "--json", "--timesteps", "4", "--device", "cpu").out)
    assert score["kind"] == "bound"
    call_well("train", "ddpm", "--out", run, "--resume", "--steps", "2", "--device", "cpu")
    assert json.loads(call_well("info", run, "--json").out)["step"] == 2
    call_well("export", run, tmp_path / "out")
    assert DDPMPipeline.from_pretrained(tmp_path / "out").unet.config.sample_size == 8
    fresh = tmp_path / "fresh"
    call_well(
        "train",
        "ddpm",
        "--config",
        run / "config.toml",
        "--init",
        run,
        "--steps",
        "1",
        "--out",
        fresh,
        "--device",
        "cpu",
    )
    call_well("export", fresh, tmp_path / "out-2")


def test_an_import_is_whole_or_not_there(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with settings and without weights would be begun anew by --resume."""

    def full(_: Trainer) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trainer, "save", full)
    code, _, error = call("import", pipeline, tmp_path / "run")
    assert code == 1
    assert f"{tmp_path / 'run'}: No space left" in error
    assert not list(tmp_path.glob("*run*"))


def test_large_images_are_not_made_to_be_imported(tmp_path: Path) -> None:
    """65,536² pixels are 4 GB a channel; the weights are small, and drawing is what would need room."""
    call_well("import", saved(tmp_path / "theirs", network(sample_size=65536)), tmp_path / "run")


def test_without_data_a_run_draws_and_says_what_it_lacks(pipeline: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    call_well("import", pipeline, run)
    call_well("sample", run, "-n", "2", "--steps", "3", "--device", "cpu")
    call_well("info", run)
    for words in (("score", run), ("train", "ddpm", "--out", run, "--resume")):
        code, _, error = call(*words)
        assert code == 2
        assert "--data" in error


def edited(path: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps({**config, **changes}))

    return change


def written(path: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_text(text) and None


def pickled(folder: Path) -> None:
    place = folder / "unet" / "diffusion_pytorch_model.safetensors"
    place.rename(place.with_suffix(".bin"))


UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no unet": (lambda folder: shutil.rmtree(folder / "unet"), "config.json"),
    "no scheduler": (lambda folder: shutil.rmtree(folder / "scheduler"), "scheduler_config.json"),
    "another class": (edited(UNET, _class_name="UNet2DConditionModel"), "_class_name"),
    "a setting that is not read": (edited(UNET, down_block_types=["SkipDownBlock2D"] * 2), "down_block_types"),
    "a setting that is unknown": (edited(UNET, colour=3), "colour"),
    "a setting of another type": (edited(UNET, layers_per_block="two"), "layers_per_block"),
    "a huge network": (edited(UNET, block_out_channels=[10**9, 10**9]), "block_out_channels"),
    "another width": (edited(UNET, block_out_channels=[8, 24]), "config.json"),
    "154 GB of weights": (edited(UNET, block_out_channels=[65536, 65536], norm_num_groups=4), "config.json"),
    "a million layers": (edited(UNET, layers_per_block=10**6), "layers_per_block"),
    "forty resolutions": (
        edited(
            UNET,
            block_out_channels=[8] * 40,
            down_block_types=["DownBlock2D"] * 40,
            up_block_types=["UpBlock2D"] * 40,
        ),
        "block_out_channels",
    ),
    "another size": (edited(UNET, out_channels=2), "out_channels"),
    "fourier": (edited(UNET, time_embedding_type="fourier"), "time_embedding_type"),
    "not JSON": (written(UNET, "{"), "not JSON"),
    "a list": (written(SCHEDULER, "[]"), "scheduler_config.json"),
    "deep": (written(SCHEDULER, "[" * 200_000), "scheduler_config.json"),
    "large": (written(SCHEDULER, " " * 4_000_001), "too large"),
    "zero SNR": (edited(SCHEDULER, rescale_betas_zero_snr=True), "rescale_betas_zero_snr"),
    "learned": (edited(SCHEDULER, variance_type="learned"), "variance_type"),
    "prediction": (edited(SCHEDULER, prediction_type="flow"), "prediction_type"),
    "prediction a list": (edited(SCHEDULER, prediction_type=["epsilon"]), "prediction_type"),
    "schedule": (edited(SCHEDULER, beta_schedule="laplace"), "beta_schedule"),
    "schedule a list": (edited(SCHEDULER, beta_schedule=[]), "beta_schedule"),
    "β above 1": (edited(SCHEDULER, beta_end=2.0), "β"),
    "β not a number": (edited(SCHEDULER, beta_end="x"), "beta_end"),
    "β given as text": (edited(SCHEDULER, trained_betas="x"), "trained_betas"),
    "β given as nan": (written(SCHEDULER, '{"trained_betas": [NaN]}'), "β"),
    "no steps": (edited(SCHEDULER, num_train_timesteps=0), "num_train_timesteps"),
    "10^12 steps": (edited(SCHEDULER, num_train_timesteps=10**12), "num_train_timesteps"),
    "pickled": (pickled, "pickled"),
    "cut weights": (written("unet/diffusion_pytorch_model.safetensors", "x" * 100), "damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named_and_nothing_is_written(name: str, pipeline: Path, tmp_path: Path) -> None:
    change, names = BAD[name]
    folder = shutil.copytree(pipeline, tmp_path / "theirs")
    change(folder)
    code, out, error = call("import", folder, tmp_path / "run")
    assert code == 2, error
    assert out == ""
    assert names in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_what_diffusers_has_no_class_for_is_not_exported(tmp_path: Path) -> None:
    run = tmp_path / "run"
    call_well("train", "ddpm", "--steps", "1", "--widths", "8", "8", "--out", run, "--device", "cpu")
    code, _, error = call("export", run, tmp_path / "out")
    assert code == 2
    assert "diffusers has no class" in error
    with pytest.raises(InputError, match="already exists"):
        export_run(run, tmp_path)
