"""The U-Net: any size, gradients everywhere, and no randomness in evaluation."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from nelbo.errors import InputError
from nelbo.nn import UNet, UNetOptions, default_widths
from nelbo.nn.blocks import ChannelNorm

SIZES = [(5, 7), (28, 28), (3, 2), (1, 1), (8, 8), (1, 9), (16, 6)]


def perturbed(network: nn.Module, seed: int = 0, size: float = 0.1) -> nn.Module:
    """Every parameter moved: branches that start at zero would hide what is behind them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return network


def unet(channels: int = 1, out: int | None = None, **settings) -> UNet:
    torch.manual_seed(0)
    chosen = {"widths": (8, 16), "blocks": 1, "attention": (1,), "dropout": 0.0} | settings
    return perturbed(UNet(channels, channels if out is None else out, **chosen))


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 8, 8)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_any_size_comes_back_at_its_size(height: int, width: int, widths: tuple[int, ...], blocks: int) -> None:
    network = unet(widths=widths, blocks=blocks, attention=(len(widths) - 1,)).eval()
    y = network(image(2, 1, height, width), torch.tensor([0.1, 0.9]))
    assert y.shape == (2, 1, height, width)
    assert bool(y.isfinite().all())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_in_and_out(channels: int) -> None:
    y = unet(channels, 2 * channels)(image(2, channels, 5, 7), torch.tensor([0.1, 0.9]))
    assert y.shape == (2, 2 * channels, 5, 7)


def test_padding_is_zeros_inside() -> None:
    """An odd image is the same as the even one whose last row and column are zero, cropped."""
    network = unet(widths=(8, 8, 8), attention=()).eval()
    x = image(2, 1, 5, 7)
    padded = torch.zeros(2, 1, 8, 8)
    padded[..., :5, :7] = x
    time = torch.tensor([0.2, 0.7])
    torch.testing.assert_close(network(x, time), network(padded, time)[..., :5, :7])


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("attention", [(), (0, 1), (1,)])
def test_a_gradient_reaches_every_parameter(blocks: int, attention: tuple[int, ...]) -> None:
    """Every one but the keys' bias: it adds the same number to all of a row's logits, which softmax does not see."""
    network = unet(2, blocks=blocks, attention=attention)
    y = network(image(3, 2, 8, 8), torch.tensor([0.1, 0.5, 0.9]))
    (y * image(*y.shape, seed=1)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        grad = parameter.grad
        if name.endswith("qkv.bias"):
            channels = len(grad) // 3
            grad = torch.cat([grad[:channels], grad[2 * channels :]])
        assert bool((grad != 0).all()), name


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_is_that_of_finite_differences(seed: int) -> None:
    """Along a random direction in all parameters at once, in float64."""
    network = unet(1, attention=(0, 1)).double()
    x, time = image(2, 1, 5, 7).double(), torch.tensor([0.1, 0.8]).double()
    probe = image(2, 1, 5, 7, seed=2).double()
    (network(x, time) * probe).sum().backward()
    parameters = list(network.parameters())
    directions = [image(*p.shape, seed=seed + 10).double() for p in parameters]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True))
    values, h = [], 1e-6
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += sign * h * d
            values.append(float((network(x, time) * probe).sum()))
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(slope, rel=1e-6)


def test_it_starts_at_zero() -> None:
    """The last convolution starts at zero: an untrained network says nothing."""
    network = UNet(1, 2, widths=(8, 16), blocks=1, attention=(1,), dropout=0.0)
    assert bool((network(image(2, 1, 8, 8), torch.tensor([0.1, 0.9])) == 0).all())


def test_evaluation_is_deterministic_and_dropout_is_not_for_it() -> None:
    network = unet(dropout=0.5)
    x, time = image(2, 1, 8, 8), torch.tensor([0.1, 0.9])
    torch.manual_seed(1)
    first, second = network.train()(x, time), network(x, time)
    assert not torch.equal(first, second)
    first, second = network.eval()(x, time), network(x, time)
    assert torch.equal(first, second)


def test_examples_do_not_see_each_other() -> None:
    """Each image by itself, in any company: to float32 round-off of another order of summation."""
    network = unet().eval()
    x, time = image(5, 1, 8, 8), torch.linspace(0, 1, 5)
    whole = network(x, time)
    for i in range(5):
        torch.testing.assert_close(network(x[i : i + 1], time[i : i + 1])[0], whole[i], rtol=1e-4, atol=1e-5)


def test_time_is_heard_even_where_steps_are_close() -> None:
    """1/1000 apart, as two neighbouring t are."""
    network = unet().eval()
    x = image(1, 1, 8, 8).expand(3, -1, -1, -1)
    a, b, c = network(x, torch.tensor([0.5, 0.501, 0.9])).detach()
    assert float((a - b).abs().max()) > 1e-4
    assert float((a - c).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("where", "settings"),
    [
        ("widths", {"widths": (), "attention": ()}),
        ("widths", {"widths": (8, 0), "attention": ()}),
        ("widths", {"widths": (-8,), "attention": ()}),
        ("blocks, fine_blocks", {"blocks": 0}),
        ("blocks, fine_blocks", {"fine_blocks": 0}),
        ("attention", {"attention": (2,)}),
        ("attention", {"attention": (-1,)}),
    ],
)
def test_what_cannot_be_built_is_named(where: str, settings: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(InputError) as refused:
        unet(**settings)
    assert refused.value.where == where


@pytest.mark.parametrize("widths", [(1,), (3, 5), (12, 20), (33, 64), (40, 72)])
def test_any_widths_can_be_built(widths: tuple[int, ...]) -> None:
    """Group norm and heads must divide whatever the user asks for."""
    y = unet(widths=widths, attention=tuple(range(len(widths))))(image(2, 1, 6, 6), torch.tensor([0.1, 0.9]))
    assert y.shape == (2, 1, 6, 6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (8, 8), (28, 28), (32, 32), (64, 48), (256, 256)])
def test_default_widths_halve_the_size_at_most_to_something(height: int, width: int) -> None:
    widths = default_widths(height, width)
    assert all(a <= b for a, b in pairwise(widths))
    assert 2 ** (len(widths) - 1) <= max(1, min(height, width))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channel_norm_is_its_definition(layout: torch.memory_format) -> None:
    """(x − mean over channels)/√(var + 1e-5) · scale + shift, pixel by pixel, whatever the layout in memory."""
    norm = ChannelNorm(6)
    with torch.no_grad():
        norm.weight.copy_(image(6, seed=1))
        norm.bias.copy_(image(6, seed=2))
    x = (3 * image(2, 6, 4, 5) + 1).to(memory_format=layout)
    centred = x.double() - x.double().mean(1, keepdim=True)
    scale, shift = (p.double()[:, None, None] for p in (norm.weight, norm.bias))
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * scale + shift
    torch.testing.assert_close(norm(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_finest_resolution_has_blocks_of_its_own() -> None:
    """So many on the way down and up; the others, and the coarsest with its one more, as told."""
    network = UNet(1, 1, widths=(8, 8, 8), blocks=2, fine_blocks=1, attention=(), dropout=0.0)
    counts = [[len(stage.blocks) for stage in stages] for stages in (network.down, network.up)]
    assert counts == [[1, 2, 2], [1, 2, 3]]


@pytest.mark.parametrize(
    ("shape", "blocks"), [((1, 28, 28), 1), ((3, 32, 63), 1), ((1, 8, 8), 2), ((1, 15, 40), 2), ((3, 64, 64), 2)]
)
def test_images_of_middling_size_have_their_blocks_at_the_pixels(shape: tuple[int, int, int], blocks: int) -> None:
    options = UNetOptions().resolved(shape)
    assert (options.blocks, options.fine_blocks) == (blocks, 2)
    told = UNetOptions(blocks=3).resolved(shape)
    assert (told.blocks, told.fine_blocks) == (3, 3)
    assert UNetOptions(blocks=3, fine_blocks=1).resolved(shape).fine_blocks == 1
