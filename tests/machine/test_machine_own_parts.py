"""AE, HVAE and GAN with networks from Python: trained, interrupted, resumed, loaded, scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from machine_helpers import call
from torch import Tensor, nn

import nelbo
from nelbo.config.families import family_module
from nelbo.errors import InputError
from nelbo.models.base import GenerativeModel

SHAPE, LEVELS = (1, 4, 4), 5
IMAGES = np.random.default_rng(0).integers(0, LEVELS, (60, *SHAPE)).astype(np.uint8)


class ToCode(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 3))


class ToImage(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 16), nn.Unflatten(1, SHAPE))


class ToLogit(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))


class Upwards(nn.Module):
    """q(z_1|x) and q(z_2|z_1)."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([nn.Linear(16, 6), nn.Linear(3, 4)])

    def forward(self, z: Tensor, t: int) -> Tensor:
        law: Tensor = self.steps[t - 1](z.flatten(1))
        return law


class Ladder(nn.Module):
    """p(z_1|z_2) and p(x|z_1)."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = [(3,), (2,)]
        self.down, self.out = nn.Linear(2, 6), nn.Linear(3, 32)

    def below(self, z: Tensor, t: int, above: Tensor | None) -> Tensor:
        return z

    def law(self, features: Tensor, t: int) -> Tensor:
        law: Tensor = self.down(features)
        return law

    def image(self, features: Tensor) -> Tensor:
        law: Tensor = self.out(features)
        return law.reshape(-1, 2, 4, 4)


Make = Callable[..., GenerativeModel]
MODELS: dict[str, tuple[Make, dict[str, type[nn.Module]]]] = {
    "ae": (
        lambda **parts: nelbo.AE(shape=SHAPE, levels=LEVELS, latent=3, **parts),
        {"encoder": ToCode, "decoder": ToImage},
    ),
    "gan": (
        lambda **parts: nelbo.GAN(shape=SHAPE, levels=LEVELS, latent=3, loss="hinge", critic_lr=2.0, **parts),
        {"generator": ToImage, "critic": ToLogit},
    ),
    "hvae": (
        lambda **parts: nelbo.HVAE(
            shape=SHAPE, levels=LEVELS, inference="bottom-up", likelihood="normal", kl_warmup=3, **parts
        ),
        {"encoder": Upwards, "ladder": Ladder},
    ),
}


@pytest.mark.parametrize("family", MODELS)
def test_a_run_of_own_networks_is_a_run_like_any_other(family: str, here: Path) -> None:
    """What is stopped and gone on with ends where the other does; loaded, it draws the same; it says its parts."""
    make, kinds = MODELS[family]

    def fit(out: str, steps: int, resume: bool = False) -> tuple[GenerativeModel, nelbo.Run]:
        torch.manual_seed(0)
        model = make(**{name: kind() for name, kind in kinds.items()})
        return model, nelbo.fit(model, IMAGES, steps=steps, out=out, resume=resume, decay=0.0, device="cpu")

    model, run = fit("straight", 6)
    fit("stopped", 3)
    resumed, _ = fit("stopped", 6, resume=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert run.config.parts == {name: f"{kind.__module__}.{kind.__qualname__}" for name, kind in kinds.items()}
    loaded = nelbo.load("straight", weights="raw", device="cpu", **{name: kind() for name, kind in kinds.items()})
    assert torch.equal(loaded.sample(3), model.eval().sample(3))
    assert run.score(limit=5).n == 5
    first = next(iter(kinds.values()))
    answer = call("sample", "straight")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert f"{next(iter(kinds))}={first.__qualname__}()" in answer.err
    with pytest.raises(InputError, match=first.__qualname__):
        nelbo.load("straight")


@pytest.mark.parametrize("family", MODELS)
def test_one_network_of_ones_own_beside_one_of_nelbos(family: str) -> None:
    """``from_options`` makes the parts that are not given, and only these."""
    module, (name, own) = family_module(family), list(MODELS[family][1].items())[-1]
    options, part = module.OPTIONS(widths=(8,)).resolved(SHAPE), own()
    model = module.MODEL.from_options(options, SHAPE, LEVELS, **{name: part})
    assert getattr(model, name) is part
    assert model.recipe.parts == {name: f"{own.__module__}.{own.__qualname__}"}
    assert model.recipe.options == options
