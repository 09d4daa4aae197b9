"""Weights, gradients, moments and averages in shares, of which each process keeps its own (FSDP, Zhao et al. 2023).

A block's weights are whole only while it computes (in bf16, what autocast made of them until the backward pass has used
it). For models that do not fit into one device's memory; others train faster as they are, see docs/scale.md. While a
run is started, and on the main process when it looks or keeps, all of a model is in the memory of the host.
"""

from __future__ import annotations

from torch import Tensor, device, nn

from nelbo.errors import InputError
from nelbo.nn.blocks import ResidualBlock, SelfAttention
from nelbo.nn.unet2d import AttentionBlock, ResnetBlock
from nelbo.processes import Team

BLOCKS = (ResidualBlock, SelfAttention, ResnetBlock, AttentionBlock)
"""What is made whole by itself; the rest of a model is whole during a step."""


def shard(losses: nn.Module, team: Team, place: device) -> nn.Module:
    """Keep a share of every parameter on this device, and let gradients be the mean over all processes.

    Raises:
        InputError: parameters of several precisions.
    """
    from torch.distributed.device_mesh import init_device_mesh  # nobody else waits for these imports
    from torch.distributed.fsdp import fully_shard

    if len({p.dtype for p in losses.parameters()}) > 1:
        raise InputError("--shard", "this model has weights in float64 beside float32 (a learned γ); leave it out")
    mesh = init_device_mesh(place.type, (team.count,))
    for p in losses.parameters():
        p.data = p.data.contiguous()
    for block in [module for module in losses.modules() if isinstance(module, BLOCKS)]:
        fully_shard(block, mesh=mesh)
    fully_shard(losses, mesh=mesh)
    return losses.to(place)


def whole(x: Tensor) -> Tensor:
    """All of a tensor; of shares, brought together from every process."""
    found: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return found


def own(x: Tensor) -> Tensor:
    """This process's share of a tensor, or a tensor that has none."""
    found: Tensor = x.to_local() if hasattr(x, "to_local") else x
    return found


def like(x: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, as ``other`` of the same shape is: whole, or this process's share of it."""
    if not hasattr(other, "to_local") or x.shape != other.shape:
        return x
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(x.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
