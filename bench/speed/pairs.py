"""The same network, weights and outputs in nelbo and diffusers: time of a training and of a denoising step.

    make bench          (adds its table to bench/RESULTS.md)

Each side runs with its defaults and its fastest settings: diffusers with ``UNet2DModel`` in fp32, and with
channels_last, bf16 autocast and torch.compile; nelbo as it trains, in bf16 where that is fast, without and with
torch.compile. Steps of all sides alternate in one process, so that other load disturbs all of them equally. A training
step is the forward pass, the mean squared error to the noise, the backward pass, and fused AdamW.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.nn.unet2d import UNet2D, UNet2DOptions
from nelbo.training.machine import autocast, bf16_is_fast, keep_memory
from timing import SIDE as MATRIX
from timing import by_turns, counted, product

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    from diffusers import UNet2DModel

NETWORKS: dict[str, dict[str, Any]] = {
    "1.6 M": {"block_out_channels": (32, 64, 64), "layers_per_block": 2},
    "6.5 M": {"block_out_channels": (64, 128, 128), "layers_per_block": 2},
    "60 M": {"block_out_channels": (128, 256, 256, 512), "layers_per_block": 2},
}
SIDE, CHANNELS = 32, 3
COMPILE = True
"""Whether both sides' fastest ways are compiled, which takes minutes."""
BATCH = {"cpu": 32, "cuda": 256}
ROUNDS = 9


class Side(NamedTuple):
    """A way to run a network.

    Attributes:
        forward: (x, t) → output.
        network: the network to train.
        half: whether it runs under bf16 autocast.
    """

    forward: Callable[[Tensor, Tensor], Tensor]
    network: nn.Module
    half: bool


def settings(name: str) -> dict[str, Any]:
    """The settings of one network, with attention at the second coarsest resolution, as in DDPM at 16×16."""
    widths = NETWORKS[name]["block_out_channels"]
    down = ["DownBlock2D"] * len(widths)
    down[-2] = "AttnDownBlock2D"
    up = [kind.replace("Down", "Up") for kind in reversed(down)]
    return {
        "sample_size": SIDE,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        **NETWORKS[name],
    }


def sides_of(name: str, device: torch.device) -> dict[str, Side]:
    """The four ways, all with the same weights."""
    torch.manual_seed(0)
    theirs = UNet2DModel(**settings(name)).to(device)
    config = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    ours = UNet2D(UNet2DOptions.model_validate(config)).to(device)
    ours.load_state_dict(theirs.state_dict())
    best = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
    ours_2 = copy.deepcopy(ours)
    compiled: Any = torch.compile(best) if COMPILE else best
    ours_compiled: Any = torch.compile(ours_2) if COMPILE else ours_2
    half = bf16_is_fast(device)

    def last(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    return {
        "diffusers": Side(lambda x, t: theirs(x, t).sample, theirs, False),
        "diffusers, best": Side(lambda x, t: compiled(last(x), t).sample, best, half),
        "nelbo": Side(ours, ours, half),
        "nelbo, compiled": Side(ours_compiled, ours_2, half),
    }


def training_step(side: Side, x: Tensor, t: Tensor, noise: Tensor) -> Callable[[], object]:
    """One training step, always on the same batch."""
    optimizer = torch.optim.AdamW(side.network.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        side.network.train()
        with autocast(x.device, "bf16" if side.half else "fp32"):
            output = side.forward(x, t)
        F.mse_loss(output.float(), noise).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def denoising_step(side: Side, x: Tensor, t: Tensor) -> Callable[[], object]:
    """One evaluation without gradients."""

    @torch.no_grad()
    def step() -> Tensor:
        side.network.eval()
        with autocast(x.device, "bf16" if side.half else "fp32"):
            return side.forward(x, t)

    return step


def require_the_same(sides: dict[str, Side], x: Tensor, t: Tensor) -> None:
    """Check that both networks are equal: outputs in fp32 agree to 1e-4 of their largest value."""
    with torch.no_grad():
        expected, found = (sides[name].forward(x, t) for name in ("diffusers", "nelbo"))
    difference = float((expected - found).abs().max() / expected.abs().max())
    if difference > 1e-4:
        raise AssertionError(f"outputs differ by {difference:.1e} of the largest")


def measure(name: str, device: torch.device) -> list[str]:
    """The rows of one network: training, then denoising."""
    sides = sides_of(name, device)
    draw = torch.Generator().manual_seed(1)
    size = BATCH[device.type]
    x, noise = (torch.randn(size, CHANNELS, SIDE, SIDE, generator=draw).to(device) for _ in range(2))
    t = torch.randint(0, 1000, (size,), generator=draw).to(device)
    require_the_same(sides, x, t)
    parameters = sum(p.numel() for p in sides["nelbo"].network.parameters()) / 1e6
    rows = []
    for what in ("train", "denoise"):
        work = {
            key: training_step(side, x, t, noise) if what == "train" else denoising_step(side, x, t)
            for key, side in sides.items()
        }
        flops = counted(work["nelbo"])
        dtype = torch.bfloat16 if bf16_is_fast(device) else torch.float32
        work["peak"] = product(device, dtype)
        median = by_turns(work, device, ROUNDS, warm=2)
        peak = 2 * MATRIX**3 / median["peak"]
        base, best = median["diffusers"], median["diffusers, best"]
        ours = min(median["nelbo"], median["nelbo, compiled"])
        cells = " | ".join(f"{size / median[key]:,.1f}" for key in sides)
        shares = f"{100 * flops / best / peak:.0f}% | {100 * flops / ours / peak:.0f}%"
        rows.append(
            f"| {name} ({parameters:.2f} M) | {what} | {cells} | {base / median['nelbo']:.2f} | {base / ours:.2f} "
            f"| {best / ours:.2f} | {peak / 1e9:,.0f} | {shares} |"
        )
        print(rows[-1], flush=True)
    return rows


def table(device: torch.device, names: list[str]) -> str:
    """The section of bench/RESULTS.md."""
    keep_memory()
    head = (
        "## The same weights in diffusers\n"
        f"diffusers {diffusers.__version__}, {CHANNELS}×{SIDE}×{SIDE}, batches of {BATCH[device.type]}, images/s, "
        "medians of alternating steps. Ratios: nelbo's default to diffusers' default; nelbo's fastest to that; nelbo's "
        "fastest to diffusers' fastest (channels_last, bf16, torch.compile). Peak in GFLOP/s, and the share of it that "
        "each side's fastest reaches.\n\n"
        "| network | step | diffusers | its best | nelbo | compiled | ratio | best to default | best to best | peak "
        "| theirs | ours |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    return head + "\n".join(row for name in names for row in measure(name, device)) + "\n"
