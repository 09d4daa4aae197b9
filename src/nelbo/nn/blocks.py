"""The building blocks of the U-Net."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.nn.attention import attention

HEAD_WIDTH = 32
SMALL, LARGE = 16, 64
"""Below the first side, the information of an image is in its pixels; from the second on, in its content."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel, shape (B, C, H, W).

    In channels_last format, the layout for convolutions, a pixel's channels fit one or two vector registers. Group
    norm, which also sums over pixels, was slower than the convolutions themselves.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with zero weights, so that a residual branch starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class TimeEmbedding(nn.Module):
    """A number in [0, 1] → features: sines and cosines of frequencies 1 … 10⁴ (DDPM, section 4), then two layers.

    Args:
        width: size of the features.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        frequencies = torch.exp(math.log(10_000.0) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, time: Tensor) -> Tensor:
        """time, shape (B,) → features, shape (B, width)."""
        angle = time[:, None].to(self.frequencies.dtype) * self.frequencies
        return self.layers(torch.cat([angle.sin(), angle.cos()], dim=1))


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(x))·(1 + scale) + shift)), scale and shift from the time embedding.

    It has no norm: the second convolution starts at zero, so that every block starts as the identity
    (Zhang et al. 2019), and the size of the optimiser's step does not depend on the gradient's.

    Args:
        channels: channels in and out.
        embedding: width of the time embedding.
        dropout: fraction of activations dropped before the second convolution while training.
    """

    def __init__(self, channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_1(F.silu(x))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, h, 1 + scale))
        return x + self.conv_2(self.dropout(h))


class SelfAttention(nn.Module):
    """Self-attention over all positions, in heads of about 32 channels, with a residual connection.

    Args:
        channels: channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_WIDTH)
        while channels % self.heads:
            self.heads -= 1
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 3, self.heads, C // self.heads, H * W)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        mixed = attention(q, k, v)
        return x + self.out(mixed.transpose(-1, -2).reshape(B, C, H, W))


class Stage(nn.Module):
    """A sequence of residual blocks of one width.

    Args:
        channels, embedding, dropout: as in :class:`ResidualBlock`.
        blocks: the number of blocks.
    """

    def __init__(self, channels: int, embedding: int, dropout: float, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, embedding, dropout) for _ in range(blocks))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedding)
        return x
