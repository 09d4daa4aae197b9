"""Every public Python function refuses wrong images and numbers in a line that names the field."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from nelbo.errors import InputError
from nelbo.metrics import score_likelihood, score_profile
from nelbo.models.ae import AE, AEOptions
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.diffusion import Diffusion
from nelbo.models.gan import GAN, GANOptions
from nelbo.models.hvae import HVAE, HVAEOptions
from nelbo.models.inspector import Inspector
from nelbo.models.sampling import SampleSettings
from nelbo.models.vae import VAE, VAEOptions
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.rng import Draws
from nelbo.theory.likelihoods import to_unit

SHAPE, LEVELS = (1, 8, 8), 17
OPTIONS = {
    "ae": (AE, AEOptions(latent=2, widths=(8, 8))),
    "ddpm": (DDPM, DDPMOptions(timesteps=30, widths=(8, 8))),
    "gan": (GAN, GANOptions(latent=2, widths=(8, 8))),
    "hvae": (HVAE, HVAEOptions(latent=2, depth=2, widths=(8, 8))),
    "vae": (VAE, VAEOptions(latent=2, widths=(8, 8))),
    "vdm": (VDM, VDMOptions(widths=(8, 8))),
}


@cache
def model_of(family: str) -> GenerativeModel:
    torch.manual_seed(0)
    kind, options = OPTIONS[family]
    return kind.from_options(options.resolved(SHAPE), SHAPE, LEVELS).eval()


def entries(model: GenerativeModel) -> dict[str, Callable[[object], object]]:
    """What takes images, by name."""
    inspector = model.inspector
    names = [name for name in ("views", "measures", "diagnostics") if overrides(inspector, name)]
    found: dict[str, Callable[[object], object]] = {name: getattr(inspector, name) for name in names}
    if isinstance(model, LikelihoodModel):
        found |= {"bound": model.bound, "score_likelihood": lambda x: score_likelihood(model, x, timesteps=1)}
    if isinstance(model, Diffusion):
        found["score_profile"] = lambda x: score_profile(model, x, pieces=2)
    return found


def overrides(inspector: Inspector, name: str) -> bool:
    return getattr(type(inspector), name) is not getattr(Inspector, name)


CASES = [(family, entry) for family in OPTIONS for entry in entries(model_of(family))]
every_entry = pytest.mark.parametrize(("family", "entry"), CASES)


def images(n: int = 4) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, LEVELS, (n, *SHAPE), dtype=np.uint8))


def changed(level: int) -> Tensor:
    x = images().long()
    x[2, 0, 3, 4] = level
    return x


NOT_IMAGES = {
    "floats in [0, 1]": (
        images() / 16,
        "is float32 from 0 to 1, not integer levels 0 … 16; they are made by (images * 16)",
    ),
    "floats in [-1, 1]": (
        images().double() / 8 - 1,
        "is float64 from -1 to 1, not integer levels 0 … 16; they are made by ((images + 1) * 8)",
    ),
    "whole floats": (images().float(), "not integer levels 0 … 16; they are made by images.to(torch.uint8)"),
    "NaN": (torch.full((2, *SHAPE), torch.nan), "not all finite"),
    "NumPy floats": ((images() / 16).numpy(), "is float32 from 0 to 1"),
    "booleans": (images() > 8, "is boolean"),
    "complex": (images().to(torch.complex64), "is complex64, not integer levels"),
    "too high": (changed(255), "contains the level 255, but this"),
    "one too high": (changed(17).numpy().astype(np.uint16), "contains the level 17"),
    "negative": (changed(-1), "contains the level -1"),
    "one image": (images()[0], "has shape (1, 8, 8), but this"),
    "no channel": (images()[:, 0], "add the channel with images[:, None]"),
    "channels last": (images().permute(0, 2, 3, 1), "put the channels first"),
    "3 channels": (images().repeat(1, 3, 1, 1), "takes (n, 1, 8, 8)"),
    "another size": (images().repeat(1, 1, 2, 1), "has shape (4, 1, 16, 8)"),
    "none": (images(0), "it contains no image"),
    "a list": (images().tolist(), "is a list; pass a tensor or a NumPy array"),
    "strings": (np.array(["a"]), "is a ndarray of <U1"),
}


@every_entry
@pytest.mark.parametrize("wrong", list(NOT_IMAGES))
def test_what_is_no_image_is_refused(family: str, entry: str, wrong: str) -> None:
    given, message = NOT_IMAGES[wrong]
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        entries(model_of(family))[entry](given)
    assert refused.value.where == ("x" if entry == "bound" else "images")
    assert "\n" not in str(refused.value)


def plain(found: object) -> object:
    """What an entry gave, as something to compare."""
    if isinstance(found, Tensor):
        return found.detach().cpu().tolist()
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [plain(value) for value in found]
    return plain(vars(found)) if hasattr(found, "__dict__") else found


@every_entry
@pytest.mark.parametrize("kind", ["uint8", "int64", "big-endian", "int32 tensor", "strided"])
@torch.no_grad()
def test_whatever_holds_the_levels_is_welcome(family: str, entry: str, kind: str) -> None:
    """To the last bit the answer that the uint8 tensor has."""
    x = images()
    same = {
        "uint8": x.numpy(),
        "int64": x.numpy().astype(np.int64),
        "big-endian": x.numpy().astype(">i4"),
        "int32 tensor": x.int(),
        "strided": x.numpy()[::-1][::-1],
    }[kind]
    ask = entries(model_of(family))[entry]
    assert plain(ask(same)) == plain(ask(x))


@pytest.mark.parametrize("family", list(OPTIONS))
def test_a_loss_of_floats_is_refused(family: str) -> None:
    """Also where training hands batches over unchecked; see to_unit."""
    with pytest.raises(InputError, match="not integer levels"):
        model_of(family).loss(images() / 16, Draws(0, 0, range(4), 4, torch.device("cpu")))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", -1, "seed: -1 is not between 0 and 9223372036854775807"),
        ("seed", 0.5, "seed: 0.5 is not a whole number"),
        ("replicates", 0, "replicates: 0 is less than 1"),
        ("timesteps", 0, "timesteps: 0 is not between 1 and 29"),
        ("timesteps", 30, "timesteps: 30 is not between 1 and 29"),
        ("form", "denoise", "did you mean 'denoising'?"),
    ],
)
def test_numbers_of_a_bound_are_checked(name: str, value: object, message: str) -> None:
    model = model_of("ddpm")
    assert isinstance(model, LikelihoodModel)
    with pytest.raises(InputError, match=re.escape(message)):
        model.bound(images(), **{name: value})
    if name != "replicates":
        with pytest.raises(InputError, match=re.escape(message)):
            score_likelihood(model, images(), **{name: value})


def test_k_is_checked() -> None:
    with pytest.raises(InputError, match="k: 0 is less than 1"):
        model_of("vae").bound(images(), form="iw", k=0)


@pytest.mark.parametrize("family", list(OPTIONS))
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": -1}, "n: -1 is less than 0"),
        ({"n": 2.5}, "n: 2.5 is not a whole number"),
        ({"n": True}, "n: True is not a whole number"),
        ({"n": 1, "batch": 0}, "batch: 0 is less than 1"),
        ({"n": 1, "start": -4}, "start: -4 is less than 0"),
        ({"n": 1, "seed": 2**63}, "seed: 9223372036854775808 is not between"),
        ({"n": 1, "settings": SampleSettings(steps=0)}, "steps: 0 is less than 1"),
        ({"n": 1, "settings": SampleSettings(steps=2.0)}, "steps: 2.0 is not a whole number"),
    ],
)
def test_numbers_of_samples_are_checked(family: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        model_of(family).sample(**given)


def test_numpys_integers_are_whole_numbers() -> None:
    model = model_of("vae")
    assert torch.equal(model.sample(np.int64(2), seed=np.uint8(3)), model.sample(2, seed=3))


def test_floats_are_no_levels() -> None:
    with pytest.raises(InputError, match="not integer levels 0 … 255"):
        to_unit(torch.rand(2, 3), 256)
