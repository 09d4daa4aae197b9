"""The network of diffusers' UNet2DModel: outputs and gradients against diffusers', over its options."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from nelbo.errors import InputError
from nelbo.nn.unet2d import UNet2D, UNet2DOptions

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import UNet2DModel

SMALL: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32, 32),
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one channel": {"in_channels": 1, "out_channels": 1},
    "learned variance": {"out_channels": 6},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "scale and shift, groups": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "padding on two sides": {"downsample_padding": 0},
    "resnets that halve and double": {"downsample_type": "resnet", "upsample_type": "resnet"},
    "blocks that halve and double": {
        "down_block_types": ("ResnetDownsampleBlock2D",) * 3,
        "up_block_types": ("ResnetUpsampleBlock2D",) * 3,
    },
    "fourier": {"time_embedding_type": "fourier"},
    "learned": {"time_embedding_type": "learned", "num_train_timesteps": 50},
    "embedding": {"time_embedding_dim": 40},
    "sines first": {"freq_shift": 1, "flip_sin_to_cos": False},
    "centred": {"center_input_sample": True},
    "gelu": {"act_fn": "gelu"},
    "mish": {"act_fn": "mish"},
    "relu": {"act_fn": "relu"},
    "swish": {"act_fn": "swish"},
    "no attention between": {"add_attention": False},
    "nothing between": {"mid_block_type": None},
    "scaled between": {"mid_block_scale_factor": 1.414},
    "one head": {"attention_head_dim": None},
    "heads that do not divide": {"attention_head_dim": 12},
    "attention's groups": {"attn_norm_num_groups": 4},
    "one layer": {"layers_per_block": 1},
    "eps": {"norm_eps": 1e-3},
    "table of classes": {"num_class_embeds": 10},
    "class as a time": {"class_embed_type": "timestep"},
    "class as features": {"class_embed_type": "identity"},
    "one resolution": {
        "block_out_channels": (16,),
        "down_block_types": ("AttnDownBlock2D",),
        "up_block_types": ("AttnUpBlock2D",),
    },
}


def both(**settings: Any) -> tuple[UNet2DModel, UNet2D]:
    """diffusers' network with every weight random, and this one with the same weights."""
    torch.manual_seed(0)
    theirs = UNet2DModel(**{**SMALL, **settings}).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    config = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    ours = UNet2D(UNet2DOptions.model_validate(config)).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def label_for(settings: dict[str, Any]) -> Tensor | None:
    if settings.get("class_embed_type") == "identity":
        return torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    conditional = "num_class_embeds" in settings or "class_embed_type" in settings
    return torch.tensor([1, 2, 3, 4]) if conditional else None


@pytest.mark.parametrize("name", OPTIONS)
def test_outputs_and_gradients_are_those_of_diffusers(name: str) -> None:
    """Outputs to 1e-5 in float32, and every gradient to 1e-4 of the largest: sums run in another order."""
    theirs, ours = both(**OPTIONS[name])
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(4, ours.options.in_channels, 16, 16, generator=draw)
    time, label = torch.tensor([3, 7, 20, 40]), label_for(OPTIONS[name])
    expected, found = theirs(x, time, label).sample, ours(x, time, label)
    assert float(expected.detach().std()) > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    weight = torch.randn(expected.shape, generator=draw)
    gradients = []
    for output, network in ((expected, theirs), (found, ours)):
        (output * weight).sum().backward()
        gradients.append({key: p.grad for key, p in network.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    largest = max(float(g.abs().max()) for g in gradients[0].values() if g is not None)
    for key, gradient in gradients[0].items():
        if gradient is None:
            assert gradients[1][key] is None, key
        else:
            torch.testing.assert_close(gradients[1][key], gradient, rtol=0, atol=1e-4 * largest, msg=key)


@torch.no_grad()
def test_the_class_can_be_set_once() -> None:
    _, ours = both(num_class_embeds=10)
    ours.label = 3
    x, time = torch.randn(2, 3, 16, 16), torch.tensor([1, 2])
    torch.testing.assert_close(ours(x, time), ours(x, time, torch.tensor([3, 3])))
    assert not torch.allclose(ours(x, time), ours(x, time, torch.tensor([4, 4])))


@torch.no_grad()
@pytest.mark.parametrize("size", [(7, 5), (16, 9), (1, 1)])
def test_any_height_and_width(size: tuple[int, int]) -> None:
    """Padding with zeros to the next size that can be halved, by hand, and cropping."""
    theirs, ours = both()
    x, time = torch.randn(2, 3, *size), torch.tensor([1, 2])
    padded = torch.zeros(2, 3, -(-size[0] // 4) * 4, -(-size[1] // 4) * 4)
    padded[..., : size[0], : size[1]] = x
    expected = theirs(padded, time).sample[..., : size[0], : size[1]]
    torch.testing.assert_close(ours(x, time), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"down_block_types": ("DownBlock2D",)}, "down_block_types"),
        ({"norm_num_groups": 7}, "norm_num_groups"),
        ({"attention_head_dim": 64}, "attention_head_dim"),
        ({"time_embedding_type": "learned"}, "num_train_timesteps"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        UNet2D(UNet2DOptions.model_validate({**SMALL, **settings}))
