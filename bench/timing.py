"""Alternating timing: the compared calls run in turns in one process on the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]
SIDE = 2048
"""Rows and columns of the matrices whose product is a machine's peak."""


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: torch.device) -> float:
    """The duration of one call in seconds."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def by_turns(work: dict[str, Work], device: torch.device, rounds: int, warm: int) -> dict[str, float]:
    """Median seconds of each over ``rounds`` rounds, after ``warm`` calls of each for compilation and warm-up."""
    for call in work.values():
        for _ in range(warm):
            call()
    taken: dict[str, list[float]] = {key: [] for key in work}
    for _ in range(rounds):
        for key, call in work.items():
            taken[key].append(seconds(call, device))
    return {key: statistics.median(times) for key, times in taken.items()}


def product(device: torch.device, dtype: torch.dtype) -> Work:
    """A square matrix product of 2·SIDE³ operations."""
    a = torch.randn(SIDE, SIDE, device=device, dtype=dtype)
    return lambda: a @ a


def counted(work: Work) -> int:
    """Floating-point operations of one call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
