"""Batches in parts, activations computed again, mirrored images: the steps are those of a run without."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from machine_helpers import call, call_well
from scipy import stats
from torch import Tensor, nn

import nelbo
from nelbo.data.symmetry import asymmetry, mirror_note
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.vae import VAE, VAEOptions
from nelbo.options import TrainingOptions
from nelbo.processes import Team
from nelbo.rng import Draws
from nelbo.torch_settings import default_dtype
from nelbo.training import Trainer
from nelbo.training.activations import blocks_of
from nelbo.training.batches import Batches
from nelbo.training.gradients import parts_of, places_of

SHAPE, LEVELS = (1, 8, 8), 17


def ddpm(**options: Any) -> DDPM:
    torch.manual_seed(0)
    chosen = DDPMOptions(widths=(8, 8), blocks=1, timesteps=20, **options).resolved(SHAPE)
    return DDPM.from_options(chosen, SHAPE, LEVELS)


def vae() -> VAE:
    torch.manual_seed(0)
    return VAE.from_options(VAEOptions(widths=(8,), latent=2).resolved(SHAPE), SHAPE, LEVELS)


def gradients(model: Any, folder: Path, **options: Any) -> dict[str, Tensor]:
    """The gradients of one step in float64, before they are clipped."""
    images = torch.randint(0, LEVELS, (40, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    recipe = TrainingOptions(steps=5, batch_size=11, precision="fp64", clip=1e9, device="cpu", **options)
    trainer = Trainer(model.double(), images, recipe, folder)
    trainer.zero_grad = lambda: None  # type: ignore[method-assign]
    with default_dtype(torch.float64):
        trainer.model.train()
        trainer.advance()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", [functools.partial(ddpm, objective="simple"), vae])
@pytest.mark.parametrize("accumulate", [2, 3, 11])
def test_the_gradient_of_a_batch_in_parts_is_that_of_the_batch(
    make: Callable[[], Any], accumulate: int, tmp_path: Path
) -> None:
    """Equal in float64 to the order of addition. Both losses are means over images that do not see each other."""
    whole, parts = (gradients(make(), tmp_path, accumulate=n) for n in (1, accumulate))
    assert whole.keys() == parts.keys()
    for name, grad in whole.items():
        torch.testing.assert_close(parts[name], grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activations_that_are_computed_again_give_the_same_gradient(dropout: float, tmp_path: Path) -> None:
    """To the bit, with dropout too: the mask is drawn again from the same state."""
    stored, again = (gradients(ddpm(dropout=dropout), tmp_path, checkpoint_activations=on) for on in (False, True))
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[name], again[name]) for name in stored)


def saved_bytes(trainer: Trainer) -> int:
    """Bytes of all tensors that a step stores for its backward pass, each memory once."""
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        trainer.losses(trainer.batch(), Draws(0, 0, range(16), 16, torch.device("cpu")))
    return sum(seen.values())


def test_they_take_less_memory(tmp_path: Path) -> None:
    """A residual block stores its input and four more activations of that size; checkpointed, its input alone."""
    sizes = []
    for on in (False, True):
        images = torch.zeros(16, *SHAPE, dtype=torch.uint8)
        recipe = TrainingOptions(steps=5, batch_size=16, precision="fp32", device="cpu", checkpoint_activations=on)
        sizes.append(saved_bytes(Trainer(ddpm(), images, recipe, tmp_path)))
    assert sizes[1] < 0.6 * sizes[0]


def test_parts_cover_each_place_once() -> None:
    for size, accumulate, count in ((11, 3, 2), (32, 4, 1), (7, 7, 1), (9, 2, 4)):
        shares = [parts_of(size, accumulate, Team(rank, count)) for rank in range(count)]
        places = [place for parts in zip(*shares, strict=True) for part in parts for place in part.places]
        assert places == list(range(size))
        assert sum(part.total for part in shares[0]) == size
        assert all(list(places_of(own)) == [place for part in own for place in part.places] for own in shares)
    assert isinstance(places_of(parts_of(32, 4, Team(0, 1))), range)


class Blocks(nn.Module):
    """A network of one's own with blocks in a list, and one without."""

    def __init__(self, listed: bool) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)]
        self.layers = nn.ModuleList(layers) if listed else nn.Conv2d(1, 1, 1)
        self.listed = listed

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        for layer in self.layers if isinstance(self.layers, nn.ModuleList) else [self.layers]:
            z = layer(z)
        return z


def test_blocks_of_ones_own_network_are_those_of_a_module_list(here: Path) -> None:
    images = np.random.default_rng(0).integers(0, 4, (60, 1, 8, 8), dtype=np.uint8)
    for listed in (True, False):
        model = nelbo.Diffusion(network=Blocks(listed), shape=SHAPE, levels=4, decoder="gaussian", timesteps=10)
        assert len(blocks_of(model)) == 3 * listed
        how = {"steps": 2, "batch_size": 8, "checkpoint_activations": True, "device": "cpu", "out": here / f"{listed}"}
        if listed:
            nelbo.fit(model, images, **how)
        else:
            with pytest.raises(nelbo.InputError, match="checkpoint_activations"):
                nelbo.fit(model, images, **how)
            assert not (here / "False").exists()


def test_more_parts_than_images_are_refused(here: Path) -> None:
    answer = call("train", "ddpm", "--batch-size", "4", "--accumulate", "5", "--steps", "1", "--out", "run")
    assert (answer.code, answer.err) == (2, "nelbo: --accumulate: splits 4 images too often; give at most 4\n")
    assert not (here / "run").exists()


def test_half_of_all_images_are_mirrored() -> None:
    """Each image of each step is itself or its mirror image; the share is ½ within 4 standard errors of n = 2,000."""
    images = torch.arange(8, dtype=torch.uint8).reshape(1, 1, 1, 8).expand(50, 1, 1, 8).contiguous()
    batches = Batches(images, 20, seed=3, flip=True)
    mirrored = 0
    for step in range(100):
        found = batches.augment(batches.gather(step, range(20)), step, range(20))
        ascending = (found.diff(dim=-1).int() == 1).flatten(1).all(1)
        descending = torch.equal(found[~ascending], images[: int((~ascending).sum())].flip(-1))
        assert descending
        mirrored += int((~ascending).sum())
    assert abs(mirrored / 2000 - 0.5) < 4 * 0.5 / 2000**0.5
    again = batches.augment(batches.gather(7, range(5, 9)), 7, range(5, 9))
    assert torch.equal(again, batches.augment(batches.gather(7, range(20)), 7, range(20))[5:9])


def test_mirrored_digits_are_said_to_be_other_data(here: Path) -> None:
    said = call_well("train", "ddpm", "--augment", "flip", "--steps", "1", "--device", "cpu", "--out", "run").err
    assert "the images are not mirror-symmetric" in said
    assert "up to 1 bit per image (0.016 bits/dim)" in said


def test_images_that_are_symmetric_in_law_are_not() -> None:
    """Of noise, and of pictures with a copy of each in the mirror; of one column, there is no other side."""
    noise = torch.randint(0, 256, (500, 3, 8, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    leaning = (noise.float() * torch.linspace(0, 1, 7)).to(torch.uint8)
    assert mirror_note(noise) is None
    assert mirror_note(torch.cat([leaning, leaning.flip(-1)])) is None
    assert mirror_note(leaning) is not None
    assert mirror_note(leaning[..., :1]) is None
    assert mirror_note(leaning[:1]) is None


def test_the_asymmetry_is_the_largest_of_paired_t_statistics() -> None:
    """scipy's paired t-test of each pixel and its mirror image."""
    images = torch.randint(0, 50, (300, 2, 3, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    values = images.double().numpy()
    t = stats.ttest_rel(values[..., :2], values[..., :-3:-1], axis=0).statistic
    assert asymmetry(images) == pytest.approx(abs(t).max(), rel=1e-12)
