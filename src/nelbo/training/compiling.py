"""torch.compile, where it is faster: on CUDA, a diffusion model's network, as one CUDA graph, and noise, as one kernel.

On a CPU with two cores it was slower (bench/RESULTS.md), so there it is off by default.
"""

from __future__ import annotations

import torch

from nelbo.errors import InputError
from nelbo.models.base import GenerativeModel
from nelbo.options import TrainingOptions
from nelbo.rng import FUSED

LONG_MINUTES, LONG_STEPS = 2.0, 2000
"""Minutes or steps from which a run is long enough to compile, which takes about a minute."""


def wanted(options: TrainingOptions, device: torch.device) -> bool:
    """Whether to compile a compilable network."""
    long = (options.minutes or 0.0) >= LONG_MINUTES or (options.steps or 0) >= LONG_STEPS
    return options.compile == "on" or (options.compile == "auto" and device.type == "cuda" and long)


def require_compilable(model: GenerativeModel, options: TrainingOptions, processes: int) -> None:
    """Check that compilation is possible if requested.

    Raises:
        InputError: the family cannot be compiled, or its weights are sharded.
    """
    if options.compile != "on":
        return
    if options.shard and processes > 1:
        raise InputError("compile", "cannot be on with `shard`; leave one out")
    if not model.recipe.compilable:
        raise InputError("compile", f"supports only the network of a ddpm or vdm, not {model.family}; leave it out")


def compile_networks(
    model: GenerativeModel, options: TrainingOptions, device: torch.device, alone: bool
) -> tuple[type[Exception], ...]:
    """Compile the model's networks and the noise at their first call; the EMA model stays uncompiled.

    Args:
        model: changed in place; the names of weights stay.
        options: the training options.
        device: the device of the training.
        alone: whether this process is the only one.

    Returns:
        The exceptions of a failed compilation in the first step; empty if nothing is compiled.
    """
    if not model.recipe.compilable or not wanted(options, device) or (options.shard and not alone):
        return ()
    from torch._dynamo.exc import TorchDynamoException

    graphs = device.type == "cuda" and alone  # several processes exchange gradients between the kernels
    for network in model.recipe.compilable:
        network.compile(mode="reduce-overhead" if graphs else "default", dynamic=False)
    FUSED.add(device.type)
    return (TorchDynamoException,)


def give_up(model: GenerativeModel) -> None:
    """Continue without compilation."""
    for network in model.recipe.compilable:
        network._compiled_call_impl = None
    FUSED.clear()
