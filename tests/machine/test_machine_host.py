"""A training step only sends work to its device: the host reads nothing back, and copies nothing but the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nelbo import Diffusion
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.options import TrainingOptions
from nelbo.training import Trainer

SHAPE, LEVELS, BATCH = (1, 4, 4), 17, 32
META = torch.device("meta")
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
TO_NUMBERS = (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__, torch.Tensor.__float__, torch.Tensor.cpu)


class WaitError(Exception):
    """The host would wait for the device."""


class NoNumbers(TorchFunctionMode):
    """While it is entered, no numbers become a tensor on the device, and no tensor there becomes numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = any(isinstance(arg, Tensor) and arg.device == META for arg in args)
        if func in TO_NUMBERS and there:
            raise WaitError(f"{func.__name__} of {tuple(args[0].shape)}")
        if func in FROM_NUMBERS and (there or torch.device(kwargs.get("device") or "cpu") == META):
            raise WaitError(f"{func.__name__} of {args[-1]}")
        if func is torch.Tensor.__getitem__ and there and holds_list(args[1]):
            raise WaitError("an index of host numbers")
        return func(*args, **kwargs)


class NoCopies(TorchDispatchMode):
    """While it is entered, only the batch moves from the host to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        moved = isinstance(found, Tensor) and found.device == META
        host = [
            arg for arg in args if isinstance(arg, Tensor) and arg.device.type == "cpu" and arg.dtype != torch.uint8
        ]
        if moved and func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default) and host:
            raise WaitError(f"a copy of {tuple(host[0].shape)}")
        return found


def holds_list(index: Any) -> bool:
    """Whether an index has a list of integers in it."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, list) for part in parts)


class Pointwise(nn.Module):
    """A convolution that ignores γ."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, outputs, 1)

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        out: Tensor = self.layer(z)
        return out


def own(outputs: int = 1, **given: Any) -> Diffusion:
    return Diffusion(network=Pointwise(outputs), shape=SHAPE, levels=LEVELS, **given)


def family(make: Any, options: Any) -> Diffusion:
    model: Diffusion = make.from_options(options(widths=(8, 8), blocks=1).resolved(SHAPE), SHAPE, LEVELS)
    return model


MODELS = {
    "ddpm": lambda: family(DDPM, DDPMOptions),
    "vdm": lambda: family(VDM, VDMOptions),
    "mean of a step": lambda: own(predict="mean", decoder="gaussian", timesteps=30),
    "levels in steps": lambda: own(8, predict="levels", decoder="categorical", timesteps=30),
    "learned variance": lambda: own(2, predict="v", decoder="gaussian", timesteps=30, reverse_variance="learned"),
    "learned γ": lambda: own(predict="v", decoder="gaussian", schedule="learned"),
    "weighted": lambda: own(predict="eps", decoder="gaussian", timesteps=30, objective="min_snr"),
    "learned decoder": lambda: own(2, predict="v", decoder="learned_gaussian", timesteps=30, objective="simple"),
    "sigmoid schedule": lambda: own(predict="v", decoder="gaussian", schedule="sigmoid"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("augment", ["none", "flip"])
def test_a_step_never_waits(name: str, augment: str) -> None:
    """The meta device has no numbers: what the host needs to know, it cannot ask. The first step may copy grids."""
    images = torch.randint(0, LEVELS, (3 * BATCH, *SHAPE), dtype=torch.uint8)
    recipe = TrainingOptions(steps=1000, batch_size=BATCH, precision="fp32", augment=augment)
    trainer = Trainer(MODELS[name]().to(META), images, recipe, Path("unused"))
    trainer.model.train()
    for optimizer in trainer.optimizers:  # the meta device has no fused kernels
        for group in [optimizer.defaults, *optimizer.param_groups]:
            group.update(fused=False, foreach=True)
    trainer.advance()
    with NoCopies(), NoNumbers():
        trainer.advance()


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x + torch.ones(3).to(x.device),
        lambda x: x[[0, 2]],
        lambda x: bool(x.sum() > 0),
    ],
)
def test_the_check_finds_what_waits(work: Any) -> None:
    with NoCopies(), NoNumbers(), pytest.raises(WaitError):
        work(torch.ones(3, device=META))
