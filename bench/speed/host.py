"""Host time of a training step, an evaluation while sampling, and one while scoring, with a network that costs nothing.

make bench          (a section of bench/RESULTS.md)

An accelerator runs the arithmetic; the host only issues the operations. On a CPU, operations on images of 3×2×2 take
almost no time, so a step on them is what the host takes, whatever the size of the images. Two things depend on the
size: for CUDA a thread gathers each batch while the step before is computed, and this is measured at full size. On a
CUDA device, all is measured at full size, without waiting for the device.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nelbo import Diffusion, rng
from nelbo.diffusion.schedules import Cosine
from nelbo.options import TrainingOptions
from nelbo.training import Trainer

BATCHES = {256: (3, 32, 32), 64: (3, 256, 256)}
TARGETS = {256: 2.0, 64: 6.0}
TINY, WARM, ROUNDS, STEPS = (3, 2, 2), 5, 60, 20


class Free(nn.Module):
    """A network that costs nothing: its input times a parameter for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        """The result for z of shape (B, C, H, W) at γ of shape (B,)."""
        return z * self.gain


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that compute something; a view is none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Count one operation, and run it."""
        self.count += not func.is_view
        return func(*args, **kwargs or {})


def operations(work: Callable[[], object]) -> int:
    """The number of operations of one call."""
    with Counter() as counter:
        work()
    return counter.count


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """The median time until a call returns, without waiting for the device."""
    taken = []
    for round_ in range(WARM + ROUNDS):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if round_ >= WARM:
            taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def diffusion(shape: tuple[int, int, int], timesteps: int | None, device: torch.device) -> Diffusion:
    """A diffusion model with the free network."""
    return Diffusion(
        network=Free(shape[0]), shape=shape, levels=256, schedule=Cosine(), timesteps=timesteps, decoder="gaussian"
    ).to(device)


def trainer(shape: tuple[int, int, int], batch: int, timesteps: int | None, device: torch.device) -> Trainer:
    """A trainer of it on random images."""
    images = torch.randint(0, 256, (2 * batch, *shape), dtype=torch.uint8)
    recipe = TrainingOptions(steps=10**6, batch_size=batch, precision="fp32", optimizer="adamw", device=device.type)
    return Trainer(diffusion(shape, timesteps, device), images, recipe, Path("unused"))


def row(batch: int, device: torch.device) -> str:
    """The host times at one size."""
    full = BATCHES[batch]
    shape = full if device.type == "cuda" else TINY
    chain, continuous = (trainer(shape, batch, timesteps, device) for timesteps in (1000, None))
    model = diffusion(shape, 1000, device).eval()
    x = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, device=device)

    def sample() -> object:
        return model.sample(batch, batch=batch, steps=STEPS, sampler="ddim")

    def score() -> object:
        return model.bound(x, form="trajectory", timesteps=STEPS)

    evaluations = int(model.bound(x, form="trajectory", timesteps=STEPS).evaluations)
    times = [milliseconds(work, device) for work in (chain.advance, continuous.advance)]
    each = [milliseconds(sample, device) / STEPS, milliseconds(score, device) / evaluations]
    batches = trainer(full, batch, 1000, torch.device("cpu")).feed.batches
    thread = milliseconds(lambda: batches.gather(0, range(batch)), torch.device("cpu"))
    # A compiled kernel cannot be counted: under a dispatch mode it is not used.
    works = (chain.advance, continuous.advance)
    counts = ["" if device.type in rng.FUSED else f" ({operations(work)})" for work in works]
    return (
        f"| {batch}×{'×'.join(map(str, full))} | {times[0]:.2f} ms{counts[0]} | {times[1]:.2f} ms{counts[1]} "
        f"| {TARGETS[batch]:g} ms | {each[0]:.2f} ms | {each[1]:.2f} ms | {thread:.1f} ms |"
    )


def table(device: torch.device) -> str:
    """The section of bench/RESULTS.md."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = {}
    for kernels in (False, True):
        if kernels:
            rng.FUSED.add(device.type)
        for batch in BATCHES:
            rows[kernels, batch] = row(batch, device)
            print(rows[kernels, batch], flush=True)
    rng.FUSED.discard(device.type)
    torch.set_num_threads(threads)
    head = (
        "| batch | step, T = 1,000 (operations) | step, continuous | target | sampling, per evaluation | scoring, per "
        "evaluation | gathering, overlapped |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    where = "at full size, without waiting for the device" if device.type == "cuda" else "on images of 3×2×2"
    return (
        f"## Host time with a free network\nMedians {where}; gathering at full size, for CUDA in a thread. The "
        "host of an accelerator needs 5 to 10 µs for an operation, more than one on a tiny tensor takes here.\n\n"
        "Noise by operations:\n\n"
        + head
        + "\n".join(rows[False, batch] for batch in BATCHES)
        + "\n\nNoise in one compiled kernel, as with `--compile on`:\n\n"
        + head
        + "\n".join(rows[True, batch] for batch in BATCHES)
        + "\n"
    )
