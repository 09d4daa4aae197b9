"""The device to compute on, and the precision that it is fast in."""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nelbo.errors import InputError
from nelbo.limits import memory
from nelbo.options import TrainingOptions
from nelbo.processes import count, place
from nelbo.torch_settings import default_dtype

ACCELERATORS = ("cuda", "mps", "xpu")
LARGE = 2**20
"""Bytes above which :class:`Sizing` gives a tensor no memory; tables of values are smaller."""
NEW = (torch.empty, torch.zeros, torch.ones, torch.randn)


def pick_device(name: str) -> torch.device:
    """The device of this name; ``auto`` is CUDA where there is one, else Metal (``mps``), else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        without_cuda = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else without_cuda
    try:
        device = torch.device(name)
        if device == torch.device("cuda") and count() > 1:  # one for each process
            device = torch.device("cuda", place(torch.cuda.device_count()))
        if device.type not in ("cpu", *ACCELERATORS):
            raise RuntimeError
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError("device", f"there is no device {name!r} here; try cpu, or leave it out") from None
    return device


def has_float64(device: torch.device) -> bool:
    """Whether this device computes in float64; Metal does not."""
    try:
        torch.empty(1, device=device, dtype=torch.float64)
    except (RuntimeError, TypeError):
        return False
    return True


def training_device(options: TrainingOptions) -> torch.device:
    """The device to train on; one without float64 trains in float32, and not compiled.

    Raises:
        InputError: there is no such device here, or it cannot do what else is asked for.
    """
    device = pick_device(options.device)
    if not has_float64(device):
        if options.precision not in ("auto", "fp32"):
            raise InputError("precision", f"{device.type} trains in fp32; leave it out, or use `device` cpu")
        if options.compile == "on":
            raise InputError("compile", f"is not used on {device.type}; leave it out")
        if count() > 1:
            raise InputError("device", f"several processes cannot share {device.type}; use cpu, or one process")
    return device


class Float32Only(TorchFunctionMode):
    """While it is entered, a tensor that would be float64 on this device is float32.

    Coefficients are computed in float64 wherever there is float64; so code need not know of devices without.

    Args:
        device: one without float64.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.kind = device.type

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Ask for float32 in the place of float64, wherever a tensor or an argument names the device."""
        kwargs = dict(kwargs or {})
        if not any(map(self.is_here, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        if func is torch.Tensor.double:
            return args[0].float()
        if func is torch.Tensor.to and args[0].dtype == torch.float64:
            args = (args[0].float(), *args[1:])
        args = tuple(map(single, args))
        return func(*args, **{name: single(value) for name, value in kwargs.items()})

    def is_here(self, value: Any) -> bool:
        """Whether this is the device, or a tensor on it."""
        if isinstance(value, torch.Tensor):
            return value.device.type == self.kind
        if isinstance(value, torch.device | str):
            return str(value).partition(":")[0] == self.kind
        return False


def single(value: Any) -> Any:
    """float32 in the place of float64; anything else as it is."""
    return torch.float32 if value is torch.float64 else value


@contextlib.contextmanager
def training_dtypes(device: torch.device, precision: str) -> Iterator[None]:
    """The dtypes of a training run: all float64 if ``precision`` says so, none on a device that has it not."""
    with dtype_of(precision), contextlib.nullcontext() if has_float64(device) else Float32Only(device):
        yield


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


class Sizing(TorchFunctionMode):
    """A mode in which large tensors have a size but no memory (device ``meta``), and their sizes are added up.

    Args:
        most: the bytes after which a model is refused, before they are allocated; None for the machine's memory.
    """

    def __init__(self, most: float | None = None) -> None:
        super().__init__()
        self.left = memory() if most is None else most

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


def conditions(training: TrainingOptions) -> dict[str, str]:
    """What of this machine decides the numbers of a run, and whether the run can be repeated with it."""
    device = training_device(training)
    cuda = device.type == "cuda"
    if cuda:
        repeatable = "not to the bit: CUDA adds gradients up in an order that differs from run to run"
    elif training.steps is None:
        repeatable = "not to the bit: the learning rate follows the clock; with `steps` it would be"
    else:
        repeatable = "to the bit, with these versions and everything that is listed here"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "processes": str(count()),
        "matrices": str(compute_dtype(device, training.precision)).removeprefix("torch."),
        "repeatable": repeatable,
    }


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
    """What matrices are multiplied in while training: bfloat16 or float64 where ``precision`` says so."""
    if precision == "fp64":
        return torch.float64
    chosen = precision == "bf16" or (precision == "auto" and bf16_is_fast(device))
    return torch.bfloat16 if chosen else torch.float32


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Run the network's matrix products in :func:`compute_dtype`; weights stay float32, or float64 if that is asked."""
    dtype = compute_dtype(device, precision)
    return torch.autocast(device.type, dtype) if dtype == torch.bfloat16 else contextlib.nullcontext()


def dtype_of(precision: str) -> contextlib.AbstractContextManager[object]:
    """Make and compute everything in float64, if ``precision`` says so."""
    return default_dtype(torch.float64) if precision == "fp64" else contextlib.nullcontext()
