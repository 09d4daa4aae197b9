"""A convolutional encoder from images to a vector, and a decoder back, through halved resolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.nn.blocks import SMALL, ChannelNorm, zeroed
from nelbo.nn.labels import LabelledNetwork
from nelbo.options import NetworkOptions


def pyramid_widths(height: int, width: int) -> tuple[int, ...]:
    """Channels at each resolution for images of this size: halved until the short side is at most 4, at most 5 times.

    Coarse resolutions are cheap: 64 channels if the side is below 8, and on small images; else 32.

    >>> pyramid_widths(28, 28), pyramid_widths(8, 8)
    ((32, 32, 64, 64), (64, 64))
    """
    side = min(height, width)
    widths = [64 if side < SMALL else 32]
    while side > 4 and len(widths) < 6:
        side = (side + 1) // 2
        widths.append(64 if side < 8 else 32)
    return tuple(widths)


class PyramidOptions(NetworkOptions):
    """The settings of networks over halved resolutions; a family adds its own."""

    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=16)] = ()
    "Channels at each resolution, finest first; default: chosen for the data."
    blocks: Annotated[int, Field(ge=1, le=16)] = 1
    "Residual blocks at each resolution but the finest, from images to z and back."
    fine_blocks: Annotated[int, Field(ge=0, le=16)] | None = None
    "Residual blocks at the finest resolution, where they cost most; default 0, or `blocks` on small images."

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """The settings with every value that depends on the data."""
        widths = self.widths or pyramid_widths(*shape[1:])
        fine = self.fine_blocks
        if fine is None:
            fine = self.blocks if min(shape[1:]) < SMALL or len(widths) == 1 else 0
        return self.model_copy(update={"widths": widths, "fine_blocks": fine})

    def counts(self) -> tuple[int, ...]:
        """Residual blocks at each resolution, finest first, for resolved settings.

        >>> PyramidOptions().resolved((1, 28, 28)).counts()
        (0, 1, 1, 1)
        >>> PyramidOptions().resolved((1, 8, 8)).counts()
        (1, 1)
        """
        assert self.fine_blocks is not None
        return (self.fine_blocks, *[self.blocks] * (len(self.widths) - 1))


class AutoencoderOptions(PyramidOptions):
    """The settings of an encoder and a decoder; a family adds its own."""

    latent: Annotated[int, Field(ge=1, le=65_536)] = 32
    "The size of z."


class PlainBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))).

    Args:
        channels: channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ChannelNorm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            ChannelNorm(channels),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def blocks_of(width: int, count: int) -> nn.Sequential:
    """``count`` blocks of one width."""
    return nn.Sequential(*(PlainBlock(width) for _ in range(count)))


class ToMap(nn.Unflatten):
    """A vector → a feature map in channels_last format, the layout for the following layers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous(memory_format=torch.channels_last)


def sides(shape: tuple[int, int, int], count: int) -> list[tuple[int, int]]:
    """Height and width at ``count`` resolutions, finest first; an odd side is halved upwards.

    >>> sides((1, 28, 28), 4)
    [(28, 28), (14, 14), (7, 7), (4, 4)]
    """
    return [(-(-shape[1] // 2**k), -(-shape[2] // 2**k)) for k in range(count)]


class Halve(nn.Conv2d):
    """A convolution of stride 2, from n pixels to ⌈n/2⌉; an odd side is padded with zeros at its end.

    Args:
        a, b: channels in and out.
        kernel: its side, even.
    """

    def __init__(self, a: int, b: int, kernel: int = 2) -> None:
        super().__init__(a, b, kernel, stride=2, padding=kernel // 2 - 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return super().forward(F.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x)


class Double(nn.Upsample):
    """Nearest-neighbour upsampling by 2, cropped to a size.

    Args:
        size: height and width, twice those of the input or one less.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(scale_factor=2.0, mode="nearest")
        self.cut = size

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.cut
        return super().forward(x)[..., :height, :width]


class Encoder(LabelledNetwork):
    """x, shape (B, C, H, W), and y if it is known, shape (B,) → a vector, shape (B, outputs).

    The vector e_y of the class is added to the first features, all pixels alike.

    Args:
        shape: (C, H, W).
        outputs: the size of the vector.
        widths: channels at each resolution, finest first.
        blocks: residual blocks at each.
        classes: the number of classes; 0 for a network without labels.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        classes: int = 0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(shape[0], widths[0], 3, padding=1), blocks_of(widths[0], blocks[0])]
        for (a, b), count in zip(pairwise(widths), blocks[1:], strict=True):
            layers += [Halve(a, b), blocks_of(b, count)]
        height, width = sides(shape, len(widths))[-1]
        layers += [ChannelNorm(widths[-1]), nn.SiLU(), nn.Flatten(), nn.Linear(widths[-1] * height * width, outputs)]
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        self.learn_labels(classes, widths[0])

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        first, *others = self.layers
        h = self.plus_label(first(x.contiguous(memory_format=torch.channels_last)), label)
        for layer in others:
            h = layer(h)
        return h


class Decoder(LabelledNetwork):
    """z, shape (B, latent), and y if it is known, shape (B,) → shape (B, outputs, H, W).

    The vector e_y of the class is added to the first layer, as if y were a part of z (Sohn et al. 2015).

    Args:
        shape: (C, H, W) of the images.
        latent: the size of z.
        outputs: channels out.
        widths: channels at each resolution, finest first.
        blocks: residual blocks at each.
        classes: the number of classes; 0 for a network without labels.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent: int,
        outputs: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        classes: int = 0,
    ) -> None:
        super().__init__()
        *finer, (height, width) = sides(shape, len(widths))
        layers: list[nn.Module] = [
            nn.Linear(latent, widths[-1] * height * width),
            ToMap(1, (widths[-1], height, width)),
            blocks_of(widths[-1], blocks[-1]),
        ]
        for (a, b), size, count in zip(pairwise(reversed(widths)), reversed(finer), blocks[-2::-1], strict=True):
            layers += [nn.Conv2d(a, b, 1), Double(size), blocks_of(b, count)]
        layers += [ChannelNorm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], outputs, 3, padding=1)]
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        self.learn_labels(classes, widths[-1] * height * width)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        first, *others = self.layers
        h = self.plus_label(first(z), label)
        for layer in others:
            h = layer(h)
        return h
