"""The U-Net: down through halved resolutions and up again, with skip connections (DDPM, appendix B)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.errors import InputError
from nelbo.nn.blocks import LARGE, SMALL, ChannelNorm, SelfAttention, Stage, TimeEmbedding, zeroed
from nelbo.nn.labels import LabelledNetwork
from nelbo.options import IN_FILES, LabelOptions, NetworkOptions

CLUSTERS = 1000
"""The default of the largest number of clusters."""


def default_widths(height: int, width: int) -> tuple[int, ...]:
    """Channels at each resolution for images of this size: halved until the short side is below 8, at most 4 times.

    Small images get narrow coarse resolutions, because their information is in the pixels.

    >>> default_widths(28, 28)
    (32, 64, 64)
    """
    side = min(height, width)
    widths, most = [64] if side < SMALL else [32], 64 if side < LARGE else 256
    while side >= 8 and len(widths) < 5:
        side = (side + 1) // 2
        widths.append(min(2 * widths[-1], most))
    return tuple(widths[:3]) if min(height, width) < LARGE else tuple(widths)


class UNetOptions(LabelOptions, NetworkOptions):
    """The settings of a U-Net; a family adds its own."""

    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=16)] = ()
    "Channels at each resolution, finest first; default: chosen for the data."
    blocks: Annotated[int, Field(ge=1, le=16)] | None = None
    "Residual blocks at each resolution, down and up; default 2, or 1 on images with a side of 16 to 63."
    fine_blocks: Annotated[int, Field(ge=1, le=16)] | None = None
    "Residual blocks at the finest resolution, where most of the bound is; default as `blocks`, or 2."
    attention: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    "Resolutions with self-attention, as indices into widths; default: the coarsest."
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    "Fraction of activations dropped in residual blocks while training."
    fourier: tuple[Annotated[int, Field(ge=0, le=12)], ...] = (2, 3)
    "Powers n of the Fourier features sin(2ⁿ π x) and cos(2ⁿ π x) of the input; VDM's paper has 7 and 8."
    revision: Annotated[Literal[1, 2], IN_FILES] = 2
    "Revision of the architecture: 2 has clusters by default. Weights only fit their own revision."
    clusters: Annotated[int, Field(ge=0, le=65_536)] | None = None
    "Largest number of clusters of training images; the network sees the mean of the image's. Default 1000; 0: none."

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """The settings with every value that depends on the data."""
        widths = self.widths or default_widths(*shape[1:])
        attention = (len(widths) - 1,) if self.attention is None else self.attention
        blocks = self.blocks or (1 if SMALL <= min(shape[1:]) < LARGE else 2)
        fine = self.fine_blocks or self.blocks or 2
        clusters = (CLUSTERS if self.revision > 1 else 0) if self.clusters is None else self.clusters
        chosen = {"widths": widths, "attention": attention, "blocks": blocks, "fine_blocks": fine, "clusters": clusters}
        return super().resolved(shape).model_copy(update=chosen)

    def network(self, in_channels: int, out_channels: int, fading: bool = False) -> UNet:
        """The network for these resolved settings."""
        return UNet(
            in_channels,
            out_channels,
            widths=self.widths,
            blocks=self.blocks or 1,
            fine_blocks=self.fine_blocks,
            attention=self.attention or (),
            dropout=self.dropout,
            fourier=self.fourier,
            fading=fading,
            picture_channels=in_channels if self.clusters else 0,
            classes=len(self.classes),
        )


class Waves(nn.Module):
    """Fourier features sin(2ⁿ π x) and cos(2ⁿ π x), which amplify small differences (Kingma et al. 2021, appendix C).

    If they fade, they are the means for z at γ over the x that it may come from, N(z/√ᾱ, 1/SNR): the features of z/√ᾱ
    times exp(−½ (2ⁿ π)²/SNR), as for the cones of Barron et al. 2021. So a feature vanishes where noise would randomise
    it, and high frequencies do no harm.

    Args:
        powers: n.
        fading: whether they fade. The frequencies are then saved with the weights, so that weights trained without
            fading are refused.
    """

    frequencies: Tensor

    def __init__(self, powers: tuple[int, ...], fading: bool) -> None:
        super().__init__()
        self.fading = fading
        frequencies = torch.pi * 2.0 ** torch.tensor(powers, dtype=torch.float64)
        self.register_buffer("frequencies", frequencies, persistent=fading)

    def forward(self, x: Tensor, gamma: Tensor | None) -> list[Tensor]:
        """Two features of each power, each of x's shape (B, C, H, W); γ = −ln SNR, shape (B,), is used if they fade."""
        if not self.fading or gamma is None:
            return [wave(frequency * x) for frequency in self.frequencies for wave in (torch.sin, torch.cos)]
        var = gamma.double().exp().reshape(-1, 1, 1, 1)
        y = x * torch.sqrt(1 + var).to(x.dtype)  # 1/ᾱ = 1 + 1/SNR
        found = []
        for frequency in self.frequencies:
            size = torch.exp(-0.5 * frequency.square() * var).to(x.dtype)
            found += [size * torch.sin(frequency * y), size * torch.cos(frequency * y)]
        return found


class UNet(LabelledNetwork):
    """x_t and a time in [0, 1] → an output of the same height and width.

    Blocks keep their width; a convolution between resolutions changes it. The upward path adds the skip connections,
    because concatenation would triple the cost of the finest resolution.

    Any height and width is possible: sides that cannot be halved often enough are padded with zeros inside and cropped.

    Args:
        in_channels, out_channels: channels in and out.
        widths: channels at each resolution, finest first; each resolution is half of the previous one.
        blocks: residual blocks at each resolution, on the way down and on the way up.
        fine_blocks: residual blocks at the finest resolution; None for ``blocks``.
        attention: resolutions with self-attention, as indices into ``widths``.
        dropout: in [0, 1).
        fourier: powers n of the Fourier features of the input, :class:`Waves`.
        fading: whether these fade with the noise.
        picture_channels: channels of a picture that comes with x, as that of its cluster; 0 for none.
        classes: K, the number of classes of labels; 0 for none. The vector of a class is added to the time embedding;
            it starts at zero.

    Raises:
        InputError: a width or a number of blocks below 1, or an attention index outside ``widths``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        dropout: float,
        fourier: tuple[int, ...] = (),
        fading: bool = False,
        fine_blocks: int | None = None,
        picture_channels: int = 0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise InputError("widths", f"{widths} must name at least one width, each at least 1")
        fine_blocks = blocks if fine_blocks is None else fine_blocks
        if min(blocks, fine_blocks) < 1:
            raise InputError("blocks, fine_blocks", f"{blocks} and {fine_blocks} must each be at least 1")
        if any(not 0 <= level < len(widths) for level in attention):
            raise InputError("attention", f"{attention} must be among the resolutions 0 … {len(widths) - 1}")
        finest, embedding = widths[0], 4 * widths[0]
        self.halvings = len(widths) - 1
        self.embedding = TimeEmbedding(embedding)
        self.learn_labels(classes, embedding)
        self.waves = Waves(fourier, fading)
        self.picture_channels = picture_channels
        self.stem = nn.Conv2d(in_channels * (1 + 2 * len(fourier)) + picture_channels, finest, 3, padding=1)

        def stages(extra: int = 0) -> nn.ModuleList:
            return nn.ModuleList(
                Stage(width, embedding, dropout, (blocks if level else fine_blocks) + extra * (level == self.halvings))
                for level, width in enumerate(widths)
            )

        self.down, self.up = stages(), stages(extra=1)
        self.attention = nn.ModuleList(
            SelfAttention(width) if level in attention else nn.Identity() for level, width in enumerate(widths)
        )
        self.coarsen = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.refine = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.head = nn.Sequential(ChannelNorm(finest), nn.SiLU(), zeroed(nn.Conv2d(finest, out_channels, 3, padding=1)))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        gamma: Tensor | None = None,
        picture: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """x and what is known of it → the output, shape (B, out_channels, H, W).

        Args:
            x: shape (B, C, H, W).
            time: in [0, 1], shape (B,).
            gamma: γ for the Fourier features, shape (B,).
            picture: a picture that comes with x, shape (B, picture_channels, H, W); None for zeros, an unknown picture.
            label: the class of each image, 1 … K, 0 if unknown, int64, shape (B,); None if all are unknown.
        """
        height, width = x.shape[-2:]
        parts = [x, *self.waves(x, gamma)]
        if self.picture_channels:
            unknown = x.new_zeros(len(x), self.picture_channels, height, width)
            parts.append(unknown if picture is None else picture.to(x.dtype))
        x = torch.cat(parts, dim=1)
        multiple = 2**self.halvings
        embedding = self.plus_label(self.embedding(time), label)
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
        h = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for level, (stage, attend) in enumerate(zip(self.down, self.attention, strict=True)):
            h = attend(stage(h, embedding))
            if level < self.halvings:
                skips.append(h)
                h = self.coarsen[level](h)
        for level in reversed(range(self.halvings + 1)):
            if level < self.halvings:
                h = skips.pop() + F.interpolate(self.refine[level](h), scale_factor=2.0, mode="nearest")
            h = self.up[level](h, embedding)
        return self.head(h)[..., :height, :width]
