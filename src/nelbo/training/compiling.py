"""torch.compile, where it pays: a diffusion's network on CUDA, with its kernels launched as one graph.

On the two cores of a CPU it took more than it gave (bench/RESULTS.md), so there it has to be asked for.
"""

from __future__ import annotations

import torch

from nelbo.errors import InputError
from nelbo.models.base import GenerativeModel
from nelbo.options import TrainingOptions

LONG_MINUTES, LONG_STEPS = 2.0, 2000
"""A run of at least so many makes up for the time that compiling takes, about a minute."""


def wanted(options: TrainingOptions, device: torch.device) -> bool:
    """Whether a network that can be compiled is to be."""
    long = (options.minutes or 0.0) >= LONG_MINUTES or (options.steps or 0) >= LONG_STEPS
    return options.compile == "on" or (options.compile == "auto" and device.type == "cuda" and long)


def compile_networks(
    model: GenerativeModel, options: TrainingOptions, device: torch.device, alone: bool
) -> tuple[type[Exception], ...]:
    """Have the model's networks compiled when they are first asked; averages and what is scored are as they were.

    Args:
        model: in place; names of weights stay.
        options: the recipe.
        device: where it trains.
        alone: whether this process is the only one.

    Returns:
        The errors by which the first step may say that it cannot be done; none where nothing is compiled.

    Raises:
        InputError: it is asked for, and this family cannot be compiled or its weights are in shares.
    """
    if not wanted(options, device):
        return ()
    in_shares = options.shard and not alone
    if in_shares or not model.compilable:
        if options.compile == "on":
            why = "not with --shard" if in_shares else f"only the network of a ddpm or vdm can be, not {model.family}"
            raise InputError("--compile", f"{why}; leave it out")
        return ()
    from torch._dynamo.exc import TorchDynamoException

    graphs = device.type == "cuda" and alone  # with others, gradients are exchanged between the kernels
    for network in model.compilable:
        network.compile(mode="reduce-overhead" if graphs else "default", dynamic=False)
    return (TorchDynamoException,)


def give_up() -> None:
    """Go on without what could not be compiled."""
    torch.compiler.set_stance("force_eager")
