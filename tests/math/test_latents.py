"""Sampling of families with latents: the temperature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nelbo.config.families import family_module
from nelbo.errors import InputError
from nelbo.models.base import GenerativeModel
from nelbo.models.sampling import SampleSettings

SHAPE = (1, 8, 8)
SETTINGS = {
    "ae": {"latent": 5},
    "vae": {"latent": 5},
    "hvae": {"depth": 2},
    "gan": {"latent": 5, "clusters": 0},
}


def model_of(family: str) -> GenerativeModel:
    torch.manual_seed(0)
    module = family_module(family)
    options = module.OPTIONS.model_validate({"widths": (8, 8)} | SETTINGS.get(family, {})).resolved(SHAPE)
    return module.MODEL.from_options(options, SHAPE, 17).eval()


def seen_by(network: nn.Module, model: GenerativeModel, settings: SampleSettings) -> Tensor:
    """What reaches a network while eight images are drawn."""
    inputs: list[Tensor] = []
    hook = network.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
    with torch.no_grad():
        list(model.frames(range(8), 3, settings))
    hook.remove()
    return torch.cat([part.flatten(1) for part in inputs], 1)


@pytest.mark.parametrize(("family", "network"), [("ae", "decoder"), ("vae", "decoder"), ("gan", "generator")])
def test_the_decoder_sees_the_same_noise_times_the_temperature(family: str, network: str) -> None:
    """Exactly half at a half, as that is a power of two; all images are one at 0."""
    model = model_of(family)
    of = getattr(model, network)
    plain = seen_by(of, model, SampleSettings())
    assert float(plain.std()) > 0.5
    torch.testing.assert_close(seen_by(of, model, SampleSettings(temperature=0.5)), 0.5 * plain, rtol=1e-6, atol=0)
    assert not seen_by(of, model, SampleSettings(temperature=0.0)).any()
    assert "at temperature 0.5" in model.inspector.describe_sampling(SampleSettings(temperature=0.5))
    assert "temperature" not in model.inspector.describe_sampling(SampleSettings())


def test_every_level_of_a_hierarchy_has_the_temperature() -> None:
    """At 0 all images are one, as no level adds noise; at 1 they are those of the prior; between, they differ less."""
    model = model_of("hvae")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    drawn = {}
    for temperature in (None, 1.0, 0.3, 0.0):
        *_, frame = model.frames(range(8), 3, SampleSettings(temperature=temperature))
        drawn[temperature] = frame.x.detach()
    torch.testing.assert_close(drawn[1.0], drawn[None])
    spread = {key: float(x.var(0).mean()) for key, x in drawn.items()}
    assert spread[0.0] < 1e-12 < spread[0.3] < spread[1.0]


@pytest.mark.parametrize("family", ["ae", "vae", "hvae", "gan", "ddpm", "vdm"])
def test_a_temperature_without_a_meaning_is_refused(family: str) -> None:
    """Below 0 everywhere; at all where there are no latents with a prior, or a chain that needs them as they are."""
    model = model_of(family)
    for value in (-1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="temperature"):
            model.inspector.describe_sampling(SampleSettings(temperature=value))
    if family in ("ddpm", "vdm"):
        with pytest.raises(InputError, match="does not have"):
            model.inspector.describe_sampling(SampleSettings(temperature=0.5))
    if family == "gan":
        with pytest.raises(InputError, match="chain"):
            model.inspector.describe_sampling(SampleSettings(steps=4, temperature=0.5))
