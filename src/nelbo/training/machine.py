"""The device to compute on, and the precision that it is fast in."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nelbo.errors import InputError

LARGE = 2**20
"""Bytes above which :class:`Sizing` gives a tensor no memory; tables of values are smaller."""
NEW = (torch.empty, torch.zeros, torch.ones, torch.randn)


def pick_device(name: str) -> torch.device:
    """The device of this name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        InputError: no such device here, or one without float64, which likelihoods are computed in.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError("--device", f"there is no device {name!r} here; try cpu, or leave it out") from None
    try:
        torch.empty(1, device=device, dtype=torch.float64)
    except (RuntimeError, TypeError):
        raise InputError("--device", f"{name!r} has no float64, which likelihoods need; use cpu") from None
    return device


def keep_memory() -> None:
    """Let the C library keep the memory that tensors free, where it is glibc's.

    By default it gives large blocks back to the system at once and has them cleared again for the next tensor, which
    took a tenth of a training step on two cores, and a third of a score.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 64 << 20)


def memory() -> int:
    """Bytes of memory that this process may have: the machine's, or its container's."""
    sizes = [2**40]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ValueError, OSError):
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes)


class Sizing(TorchFunctionMode):
    """While it is entered, large tensors have a size and no memory, and their sizes are added up.

    Settings from a stranger can describe a network of any size: so it is refused before it is allocated.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left = memory()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what a new tensor would take.

        Raises:
            InputError: all together it is more than there is.
        """
        kwargs = dict(kwargs or {})
        if func in NEW:
            shape = args[0] if args and not isinstance(args[0], int) else args
            size = math.prod(shape) * (kwargs.get("dtype") or torch.get_default_dtype()).itemsize
            self.left -= size
            if self.left < 0:
                raise InputError("[model]", "asks for a network that is larger than this machine's memory")
            if size > LARGE:
                kwargs["device"] = torch.device("meta")
        return func(*args, **kwargs)


def usual_batch(device: torch.device) -> int:
    """How many images at a time are quickest without gradients: on a CPU as many as its cache holds."""
    return 32 if device.type == "cpu" else 256


def bf16_is_fast(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def compute_dtype(device: torch.device, precision: str) -> torch.dtype:
    """What matrices are multiplied in while training: bfloat16 where ``precision`` says so."""
    chosen = precision == "bf16" or (precision == "auto" and bf16_is_fast(device))
    return torch.bfloat16 if chosen else torch.float32


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Run the network's matrix products in :func:`compute_dtype`; weights stay float32."""
    dtype = compute_dtype(device, precision)
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
