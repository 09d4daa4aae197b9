"""The numbers of a device are those of the CPU. ``NELBO_TEST_DEVICE=cuda`` is what ``make gpu`` sets; else the CPU.

On the CPU these tests show that their code runs, and that two ways to the same number agree there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_helpers import RUNS, numbers, recorded

from nelbo import rng
from nelbo.models.ae import AE, AEOptions
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.gan import GAN, GANOptions
from nelbo.models.hvae import HVAE, HVAEOptions
from nelbo.models.vae import VAE, VAEOptions
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.options import TrainingOptions
from nelbo.rng import Stream, normal, uniform, words
from nelbo.torch_settings import default_dtype
from nelbo.training import Trainer

DEVICE = torch.device(os.environ.get("NELBO_TEST_DEVICE", "cpu"))
SHAPE, LEVELS = (1, 8, 8), 17
FAMILIES: dict[str, tuple[Any, Any]] = {
    "ddpm": (DDPM, lambda: DDPMOptions(widths=(8, 8), blocks=1, timesteps=20)),
    "vdm": (VDM, lambda: VDMOptions(widths=(8, 8), blocks=1)),
    "vae": (VAE, lambda: VAEOptions(widths=(8,), latent=2)),
    "hvae": (HVAE, lambda: HVAEOptions(widths=(8,), latent=2)),
    "gan": (GAN, lambda: GANOptions(widths=(8,), latent=2)),
    "ae": (AE, lambda: AEOptions(widths=(8,), latent=2)),
}
PATHS = sorted(file.parent for file in RUNS.glob("format-*/*/config.toml"))
if DEVICE.type == "cpu":  # where tests/golden compares every run
    PATHS = PATHS[:1]


@pytest.fixture(params=[False, True], ids=["operations", "compiled"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Noise by operations, and by one compiled kernel."""
    if request.param:
        rng.FUSED.add(DEVICE.type)
    yield
    rng.FUSED.discard(DEVICE.type)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("kernels")
def test_random_numbers_are_those_of_the_cpu(dtype: torch.dtype) -> None:
    """Integers to the bit; floats to 1e-6, for another device rounds logarithms and cosines otherwise."""
    where = (2**40 + 3, Stream.SCORE_NOISE, 2**33 + 1, [0, 5, 2**34])
    shape = (3, 7, 5)
    there = words(*where, shape, DEVICE).cpu(), uniform(*where, shape, dtype, DEVICE).cpu()
    noise = normal(*where, shape, dtype, DEVICE).cpu()
    rng.FUSED.clear()
    assert torch.equal(there[0], words(*where, shape))
    torch.testing.assert_close(there[1], uniform(*where, shape, dtype), rtol=1e-6, atol=0)
    torch.testing.assert_close(noise, normal(*where, shape, dtype), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_golden_run_gives_the_numbers_of_the_cpu(path: Path) -> None:
    """In float64, to 1e-5 nats or of the range of pixels."""
    expected, _ = recorded(path)
    for name, value in numbers(path, str(DEVICE)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def trained(family: str, device: torch.device, folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of three steps in float64, and the weights."""
    kind, options = FAMILIES[family]
    with default_dtype(torch.float64):
        torch.manual_seed(0)
        model = kind.from_options(options().resolved(SHAPE), SHAPE, LEVELS).to(device)
        images = torch.randint(0, LEVELS, (40, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        recipe = TrainingOptions(steps=100, batch_size=8, precision="fp64", device=str(device), augment="flip")
        model.recipe.prepare(images, LEVELS, 0)
        trainer = Trainer(model, images, recipe, folder)
        model.train()
        losses = [float(trainer.advance()[0]) for _ in range(3)]
        return losses, {name: value.detach().cpu() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_those_of_the_cpu(family: str, tmp_path: Path) -> None:
    """Three steps in float64, with images mirrored on the device; another order of sums gives far less than 1e-6."""
    (here, weights), (there, others) = (trained(family, device, tmp_path) for device in (torch.device("cpu"), DEVICE))
    assert there == pytest.approx(here, rel=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only CUDA can tell; test_machine_host.py is for other devices")
@pytest.mark.parametrize("family", ["ddpm", "vdm"])
def test_a_step_does_not_wait_for_the_device(family: str, tmp_path: Path) -> None:
    """CUDA itself raises where the host waits; from the second step on."""
    kind, options = FAMILIES[family]
    model = kind.from_options(options().resolved(SHAPE), SHAPE, LEVELS).to(DEVICE)
    images = torch.zeros(40, *SHAPE, dtype=torch.uint8)
    trainer = Trainer(model, images, TrainingOptions(steps=100, batch_size=8, device=str(DEVICE)), tmp_path)
    trainer.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
