"""Sharded weights, gradients, moments and averages: each process stores its own shard (FSDP, Zhao et al. 2023).

A block's weights are gathered while it computes (in bf16, autocast's copies stay until the backward pass); all other
weights are gathered for a whole step. Sharding is for models that do not fit into one device's memory; others train
faster without it, see docs/scale.md. The host's memory holds the whole model only in the main process, and in all
processes while a checkpoint is read.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, device, nn

from nelbo.processes import Team
from nelbo.training.activations import own_blocks


def shard(losses: nn.Module, team: Team, place: device) -> nn.Module:
    """Shard every parameter over the team's devices; gradients become the mean over all processes.

    The values are those of the main process; in the others, parameters may be on the device ``meta``, without memory.
    The parameters of :func:`unsharded` are excluded, and their gradients stay local.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh  # slow imports, used only here
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(place.type, (team.count,))
    for p in losses.parameters():
        p.data = p.data.contiguous()
    whole = losses.state_dict() if team.main else {}
    for block in own_blocks(losses):
        allocate(block)
        fully_shard(block, mesh=mesh)
    allocate(losses)
    fully_shard(losses, mesh=mesh, ignored_params=set(unsharded(losses)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a group with a backend for each kind of device
        set_model_state_dict(losses, whole, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    return losses.to(place)


def allocate(module: nn.Module) -> None:
    """Give memory to the parameters that have none; their values are undefined."""
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False):
            if p.is_meta:
                setattr(part, name, nn.Parameter(torch.empty_like(p, device="cpu"), p.requires_grad))


def unsharded(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not sharded: the few in another dtype than the rest (a learned γ)."""
    precisions = Counter(p.dtype for p in module.parameters())
    usual = max(precisions, key=lambda each: precisions[each])
    return [p for p in module.parameters() if p.dtype != usual]


def clip(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale gradients so that their total norm is at most ``most``; returns the norm before."""
    given = [p for p in parameters if p.grad is not None]
    shares, rest = [p for p in given if hasattr(p, "to_local")], [p for p in given if not hasattr(p, "to_local")]
    if not (shares and rest):
        return gather(nn.utils.clip_grad_norm_(given, most))
    norms = [gather(nn.utils.get_total_norm([p.grad for p in some if p.grad is not None])) for some in (shares, rest)]
    total = torch.stack([norm.double() for norm in norms]).norm()
    for some in (shares, rest):
        nn.utils.clip_grads_with_norm_(some, most, total)
    return total


def gather(x: Tensor) -> Tensor:
    """The full tensor; a sharded one is gathered from every process."""
    full: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return full


def to_local(x: Tensor) -> Tensor:
    """This process's shard of a tensor; an unsharded tensor unchanged."""
    local: Tensor = x.to_local() if hasattr(x, "to_local") else x
    return local


def distribute_like(x: Tensor, other: Tensor) -> Tensor:
    """A full tensor, sharded like ``other`` of the same shape; unchanged if ``other`` is not sharded."""
    if not hasattr(other, "to_local") or x.shape != other.shape:
        return x
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(x.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
