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


def require_compilable(model: GenerativeModel, options: TrainingOptions, processes: int) -> None:
    """See to it that what is asked for can be done.

    Raises:
        InputError: this family cannot be compiled, or its weights are in shares.
    """
    if options.compile != "on":
        return
    if options.shard and processes > 1:
        raise InputError("compile", "cannot be on with `shard`; leave one out")
    if not model.recipe.compilable:
        raise InputError("compile", f"only the network of a ddpm or vdm can be, not of {model.family}; leave it out")


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
    """
    if not model.recipe.compilable or not wanted(options, device) or (options.shard and not alone):
        return ()
    from torch._dynamo.exc import TorchDynamoException

    graphs = device.type == "cuda" and alone  # with others, gradients are exchanged between the kernels
    for network in model.recipe.compilable:
        network.compile(mode="reduce-overhead" if graphs else "default", dynamic=False)
    return (TorchDynamoException,)


def give_up(model: GenerativeModel) -> None:
    """Go on without what could not be compiled."""
    for network in model.recipe.compilable:
        network._compiled_call_impl = None
