"""The U-Net that diffusers calls ``UNet2DModel``: the same parameters with the same names, and the same outputs.

It is that of DDPM (appendix B) with choices: residual blocks at each resolution, with or without attention; the upward
path concatenates every state of the downward path. nelbo's own is in :mod:`nelbo.nn.unet`. Written by hand because
imported weights then run without diffusers, and faster (bench/RESULTS.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.errors import InputError
from nelbo.nn.attention import attention
from nelbo.options import Options

ACTIVATIONS = {"silu": nn.SiLU, "swish": nn.SiLU, "mish": nn.Mish, "gelu": nn.GELU, "relu": nn.ReLU}
FOURIER_SCALE = 16
NULLS = {"mid_block_type": "none", "attention_head_dim": 0}
"""What stands here for diffusers' null, which TOML has not."""
Count = Annotated[int, Field(ge=1, le=65_536)]
Down = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
Up = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]


class UNet2DOptions(Options):
    """The settings of the network, with diffusers' names and defaults."""

    sample_size: Count | tuple[Count, Count] | None = None
    "H and W of the images; not used by the network."
    in_channels: Count = 3
    "Channels of the images."
    out_channels: Count = 3
    "Channels of the output: those of the images, or twice as many with a learned variance."
    center_input_sample: bool = False
    "Whether images come on [0, 1], to be mapped to [−1, 1]."
    time_embedding_type: Literal["positional", "fourier", "learned"] = "positional"
    "Sines and cosines of t, of ln t at random frequencies, or a learned vector for every t."
    time_embedding_dim: Count | None = None
    "The width of the time features; default: four times the first width."
    freq_shift: float = 0
    "Subtracted from the number of frequencies when these are computed."
    flip_sin_to_cos: bool = True
    "Whether cosines precede sines."
    down_block_types: tuple[Down, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    "The block at each resolution on the way down, finest first."
    mid_block_type: Literal["UNetMidBlock2D", "none"] = "UNetMidBlock2D"
    "The block between the ways down and up; diffusers writes null for none."
    up_block_types: tuple[Up, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    "The block at each resolution on the way up, coarsest first."
    block_out_channels: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] = (224, 448, 672, 896)
    "Channels at each resolution, finest first."
    layers_per_block: Annotated[int, Field(ge=1, le=64)] = 2
    "Residual blocks at each resolution on the way down; one more on the way up."
    mid_block_scale_factor: float = 1
    "The divisor of the residual sums in the middle block."
    downsample_padding: Literal[0, 1] = 1
    "Padding of the downsampling with zeros; 0 pads two sides only."
    downsample_type: Literal["conv", "resnet"] = "conv"
    "How blocks with attention downsample."
    upsample_type: Literal["conv", "resnet"] = "conv"
    "How blocks with attention upsample."
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    "Fraction of activations dropped in residual blocks while training."
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    "The activation of residual blocks."
    attention_head_dim: Annotated[int, Field(ge=0)] = 8
    "Channels of a head; 0, for which diffusers writes null, for a single head."
    norm_num_groups: Count = 32
    "Groups of group norm."
    attn_norm_num_groups: Count | None = None
    "Groups of the norm before the middle attention, if different."
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    "Added to the variance in group norm."
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    "Whether the time shifts activations, or scales and shifts them."
    add_attention: bool = True
    "Whether the middle block has attention."
    class_embed_type: Literal["timestep", "identity"] | None = None
    "How a class is embedded without a table: like a time, or as given features."
    num_class_embeds: Count | None = None
    "The number of classes, for a table of embeddings."
    num_train_timesteps: Count | None = None
    "The number of t, for a learned time embedding."

    @field_validator(*NULLS, mode="before")
    @classmethod
    def null(cls, value: object, info: ValidationInfo) -> object:
        """Replace diffusers' null by a value that TOML can write."""
        return NULLS[info.field_name or ""] if value is None else value

    @property
    def conditional(self) -> bool:
        """Whether the network needs a class."""
        return self.class_embed_type is not None or self.num_class_embeds is not None

    def check(self) -> None:
        """Check that the settings fit together.

        Raises:
            InputError: they do not fit.
        """
        count = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types"):
            if len(getattr(self, name)) != count:
                raise InputError(name, f"has {len(getattr(self, name))} blocks, but block_out_channels has {count}")
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise InputError("norm_num_groups", f"{width} channels cannot form {self.norm_num_groups} equal groups")
        if self.time_embedding_type == "learned" and self.num_train_timesteps is None:
            raise InputError("num_train_timesteps", "is required by a learned time embedding")


class Frequencies(nn.Module):
    """sin(ω t) and cos(ω t), with ω from 1 down to about 10⁻⁴ (DDPM, section 4): shape (B,) → (B, width).

    Args:
        options: the network's settings.
        width: twice the number of frequencies, or one more.
    """

    omega: Tensor

    def __init__(self, options: UNet2DOptions, width: int) -> None:
        super().__init__()
        half = width // 2
        powers = torch.arange(half, dtype=torch.float32) / (half - options.freq_shift)
        self.register_buffer("omega", torch.exp(-math.log(10_000) * powers), persistent=False)
        self.cosine_first, self.odd = options.flip_sin_to_cos, width % 2

    def forward(self, time: Tensor) -> Tensor:
        angle = time[:, None].to(self.omega.dtype) * self.omega
        waves = [angle.cos(), angle.sin()] if self.cosine_first else [angle.sin(), angle.cos()]
        return F.pad(torch.cat(waves, 1), (0, self.odd))


class RandomFrequencies(nn.Module):
    """sin(2π w ln t) and cos(2π w ln t), w ~ N(0, 16²) (Song et al. 2021): shape (B,) → (B, 2 · count).

    Args:
        count: the number of frequencies.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(FOURIER_SCALE * torch.randn(count), requires_grad=False)

    def forward(self, time: Tensor) -> Tensor:
        angle = time.log()[:, None] * self.weight * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], 1)


class Features(nn.Module):
    """Two layers from a time's frequencies to the features for the blocks."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class GroupNorm(nn.GroupNorm):
    """Group norm in float32, also under autocast: on a CPU it takes a third of the time of bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()) if x.dtype == torch.bfloat16 else super().forward(x)


class ResnetBlock(nn.Module):
    """(x + conv(act(norm(conv(act(norm(x))) + e)))) / scale, with e from the time features.

    Args:
        options: the network's settings.
        a, b: channels in and out.
        features: width of the time features.
        scale: the divisor of the sum.
        resize: "up" or "down" to double or halve the resolution.
    """

    def __init__(
        self, options: UNet2DOptions, a: int, b: int, features: int, scale: float = 1.0, resize: str = ""
    ) -> None:
        super().__init__()
        groups, eps = options.norm_num_groups, options.norm_eps
        self.modulates = options.resnet_time_scale_shift == "scale_shift"
        self.norm1 = GroupNorm(groups, a, eps)
        self.conv1 = nn.Conv2d(a, b, 3, padding=1)
        self.time_emb_proj = nn.Linear(features, (1 + self.modulates) * b)
        self.norm2 = GroupNorm(groups, b, eps)
        self.dropout = nn.Dropout(options.dropout)
        self.conv2 = nn.Conv2d(b, b, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(a, b, 1) if a != b else None
        self.act = ACTIVATIONS[options.act_fn]()
        self.scale, self.resize = scale, RESIZE[resize]

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        h = self.resize(self.act(self.norm1(x)))
        x = self.resize(x)
        shift_and_scale = self.time_emb_proj(self.act(features))[:, :, None, None]
        h = self.conv1(h)
        if self.modulates:
            factor, shift = shift_and_scale.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + factor)
        else:
            h = self.norm2(h + shift_and_scale)
        h = self.conv2(self.dropout(self.act(h)))
        x = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return (x + h) / self.scale if self.scale != 1 else x + h


RESIZE: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "up": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "down": lambda x: F.avg_pool2d(x, 2),
}


class AttentionBlock(nn.Module):
    """Self-attention over all positions, with a residual connection.

    Args:
        options: the network's settings.
        channels: channels in and out.
        groups: groups of the norm before it; None for no norm.
        scale: the divisor of the sum.
    """

    def __init__(self, options: UNet2DOptions, channels: int, groups: int | None, scale: float = 1.0) -> None:
        super().__init__()
        head = options.attention_head_dim or channels
        self.heads = channels // head
        if not self.heads:
            raise InputError("attention_head_dim", f"{head} is larger than the {channels} channels of a block")
        inner = self.heads * head
        self.group_norm = GroupNorm(groups, channels, options.norm_eps) if groups else None
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        h = x if self.group_norm is None else self.group_norm(x)
        h = h.permute(0, 2, 3, 1).reshape(B, H * W, C)
        q, k, v = (
            part(h).reshape(B, H * W, self.heads, -1).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v)
        )
        mixed = attention(q, k, v).transpose(1, 2).reshape(B, H * W, -1)
        h = self.to_out[0](mixed).reshape(B, H, W, C).permute(0, 3, 1, 2)
        return (x + h) / self.scale if self.scale != 1 else x + h


class Resample(nn.Module):
    """Downsampling by a strided convolution, or upsampling followed by a convolution.

    Args:
        channels: channels in and out.
        padding: of the downsampling; None for upsampling.
    """

    def __init__(self, channels: int, padding: int | None) -> None:
        super().__init__()
        self.padding = padding
        stride = 1 if padding is None else 2
        self.conv = nn.Conv2d(channels, channels, 3, stride, 1 if padding is None else padding)

    def forward(self, x: Tensor, _: Tensor | None = None) -> Tensor:
        if self.padding is None:
            x = RESIZE["up"](x)
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x)


class Block(nn.Module):
    """The residual blocks of one resolution, each with attention if ``attends``, and the step to the next resolution.

    Args:
        options: the network's settings.
        inputs: channels into each residual block, on the way up including the concatenated state.
        width: channels out of each.
        features: width of the time features.
        attends: whether there is attention.
        resample: the name and the module of the step to the next resolution; None at the last.
    """

    def __init__(
        self,
        options: UNet2DOptions,
        inputs: list[int],
        width: int,
        features: int,
        attends: bool,
        resample: tuple[str, nn.Module] | None,
    ) -> None:
        super().__init__()
        if attends:
            groups = options.norm_num_groups
            self.attentions = nn.ModuleList(AttentionBlock(options, width, groups) for _ in inputs)
        self.resnets = nn.ModuleList(ResnetBlock(options, a, width, features) for a in inputs)
        self.attends, self.resampler = attends, None
        if resample is not None:
            name, module = resample
            self.resampler = name
            setattr(self, name, nn.ModuleList([module]))

    def layer(self, number: int, x: Tensor, features: Tensor) -> Tensor:
        """One residual block and its attention."""
        x = self.resnets[number](x, features)
        return self.attentions[number](x) if self.attends else x

    def leave(self, x: Tensor, features: Tensor) -> Tensor:
        """The step to the next resolution, if there is one."""
        return getattr(self, self.resampler)[0](x, features) if self.resampler else x


class DownBlock(Block):
    """One resolution on the way down; it stores every state."""

    def forward(self, x: Tensor, features: Tensor, states: list[Tensor]) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.layer(number, x, features)
            states.append(x)
        if self.resampler:
            x = self.leave(x, features)
            states.append(x)
        return x


class UpBlock(Block):
    """One resolution on the way up; each residual block uses a stored state, the last one first."""

    def forward(self, x: Tensor, features: Tensor, states: list[Tensor]) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.layer(number, torch.cat([x, states.pop()], 1), features)
        return self.leave(x, features)


class Middle(nn.Module):
    """The middle block: a residual block, attention, a residual block."""

    def __init__(self, options: UNet2DOptions, width: int, features: int) -> None:
        super().__init__()
        scale = options.mid_block_scale_factor
        own = options.norm_num_groups if options.resnet_time_scale_shift == "default" else None
        groups = options.attn_norm_num_groups or own
        attend = [AttentionBlock(options, width, groups, scale)] if options.add_attention else []
        self.attentions = nn.ModuleList(attend)
        self.resnets = nn.ModuleList(ResnetBlock(options, width, width, features, scale) for _ in range(2))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        x = self.resnets[0](x, features)
        for attend in self.attentions:
            x = attend(x)
        return self.resnets[1](x, features)


class UNet2D(nn.Module):
    """x_t, a time and, for a class-conditional network, a class → an output of the same height and width.

    Any height and width is possible: sides that cannot be halved often enough are padded with zeros inside and cropped.

    Args:
        options: the contents of diffusers' ``config.json``.
        label: the class if :meth:`forward` gets none.

    Raises:
        InputError: the settings do not fit together.
    """

    def __init__(self, options: UNet2DOptions, label: int | None = None) -> None:
        super().__init__()
        options.check()
        self.options, self.label = options, label
        widths = options.block_out_channels
        first = widths[0]
        features = options.time_embedding_dim or 4 * first
        self.conv_in = nn.Conv2d(options.in_channels, first, 3, padding=1)
        self.time_proj, sines = self.frequencies(first)
        self.time_embedding = Features(sines, features)
        self.class_embedding = self.classes(sines, features)
        self.down_blocks = nn.ModuleList(self.on_the_way_down(features))
        self.mid_block = Middle(options, widths[-1], features) if options.mid_block_type != "none" else None
        self.up_blocks = nn.ModuleList(self.on_the_way_up(features))
        self.conv_norm_out = GroupNorm(options.norm_num_groups, first, options.norm_eps)
        self.conv_out = nn.Conv2d(first, options.out_channels, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def frequencies(self, first: int) -> tuple[nn.Module, int]:
        """The first embedding of a time, and its width."""
        kind = self.options.time_embedding_type
        if kind == "positional":
            return Frequencies(self.options, first), first
        if kind == "fourier":
            return RandomFrequencies(first), 2 * first
        return nn.Embedding(self.options.num_train_timesteps or 0, first), first

    def classes(self, sines: int, features: int) -> nn.Module | None:
        """The embedding of a class, or None."""
        kind, count = self.options.class_embed_type, self.options.num_class_embeds
        if kind == "timestep":
            return Features(sines, features)
        if kind == "identity":
            return nn.Identity()
        return None if count is None else nn.Embedding(count, features)

    def on_the_way_down(self, features: int) -> list[DownBlock]:
        """The blocks of each resolution, finest first."""
        options, blocks = self.options, list[DownBlock]()
        widths = options.block_out_channels
        for level, (a, b) in enumerate(pairwise((widths[0], *widths))):
            kind = options.down_block_types[level]
            attends = kind == "AttnDownBlock2D"
            down: nn.Module = Resample(b, options.downsample_padding)
            if kind == "ResnetDownsampleBlock2D" or (attends and options.downsample_type == "resnet"):
                down = ResnetBlock(options, b, b, features, resize="down")
            leave = ("downsamplers", down) if level < len(widths) - 1 else None
            inputs = [a, *[b] * (options.layers_per_block - 1)]
            blocks.append(DownBlock(options, inputs, b, features, attends, leave))
        return blocks

    def on_the_way_up(self, features: int) -> list[UpBlock]:
        """The blocks of each resolution, coarsest first; each layer's input includes a state of the way down."""
        options, blocks = self.options, list[UpBlock]()
        coarse = options.block_out_channels[::-1]
        for level, width in enumerate(coarse):
            below, beyond = coarse[max(level - 1, 0)], coarse[min(level + 1, len(coarse) - 1)]
            kind = options.up_block_types[level]
            attends = kind == "AttnUpBlock2D"
            up: nn.Module = Resample(width, None)
            if kind == "ResnetUpsampleBlock2D" or (attends and options.upsample_type == "resnet"):
                up = ResnetBlock(options, width, width, features, resize="up")
            leave = ("upsamplers", up) if level < len(coarse) - 1 else None
            layers = options.layers_per_block + 1
            own = [below, *[width] * (layers - 1)]
            skips = [*[width] * (layers - 1), beyond]
            inputs = [a + b for a, b in zip(own, skips, strict=True)]
            blocks.append(UpBlock(options, inputs, width, features, attends, leave))
        return blocks

    def features(self, time: Tensor, label: Tensor | None) -> Tensor:
        """The features of the time and the class, shape (B, features)."""
        whole = self.options.time_embedding_type == "learned"
        found = self.time_embedding(self.time_proj(time.round().long() if whole else time))
        if self.class_embedding is None:
            return found
        if label is None:
            assert self.label is not None
            label = torch.full((len(time),), self.label, device=time.device)
        classes = self.time_proj(label) if self.options.class_embed_type == "timestep" else label
        return found + self.class_embedding(classes)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """The output, shape (B, out_channels, H, W).

        Args:
            x: x_t on [−1, 1], shape (B, C, H, W).
            time: as in diffusers, t − 1 = 0 … T − 1, shape (B,).
            label: a class, shape (B,), or its features, shape (B, features), for a class-conditional network.
        """
        height, width = x.shape[-2:]
        multiple = 2 ** (len(self.options.block_out_channels) - 1)
        features = self.features(time, label)
        x = 2 * x - 1 if self.options.center_input_sample else x
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
        h = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        states = [h]
        for block in self.down_blocks:
            h = block(h, features, states)
        h = h if self.mid_block is None else self.mid_block(h, features)
        for block in self.up_blocks:
            h = block(h, features, states)
        h = self.conv_out(F.silu(self.conv_norm_out(h)))[..., :height, :width]
        return h / time.reshape(-1, 1, 1, 1) if self.options.time_embedding_type == "fourier" else h
