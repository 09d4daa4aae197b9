"""Activation checkpointing: a block's activations are computed again in the backward pass (Chen et al. 2016).

Only the inputs of blocks are stored, so that the memory of a step no longer grows with what is inside a block. The
gradients are the same. A step takes the time of one more forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nelbo.errors import InputError
from nelbo.nn.blocks import ResidualBlock, SelfAttention
from nelbo.nn.unet2d import AttentionBlock, ResnetBlock

BLOCKS = (ResidualBlock, SelfAttention, ResnetBlock, AttentionBlock)


def own_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of nelbo's U-Nets."""
    return [module for module in model.modules() if isinstance(module, BLOCKS)]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model: those of nelbo's U-Nets, or else the elements of each ``nn.ModuleList``."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return own_blocks(model) or [block for each in lists for block in each]


def require_blocks(model: nn.Module) -> None:
    """Check that a model has blocks.

    Raises:
        InputError: it has none.
    """
    if not blocks_of(model):
        raise InputError("checkpoint_activations", "finds no blocks; put those of your network in an nn.ModuleList")


def checkpoint_activations(model: nn.Module) -> None:
    """Let every block of a model compute its activations again in the backward pass; names of weights stay."""
    for block in blocks_of(model):
        block.forward = functools.partial(recomputed, block.forward)


def recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The block's result; with gradients, only its arguments are stored."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
