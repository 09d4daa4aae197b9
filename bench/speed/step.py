"""The speed of a training and a denoising step relative to the machine's matrix-multiply peak.

    make bench          (a section of bench/RESULTS.md)

The peak is the fastest of several square products in the same process. Steps and products alternate, so that other load
disturbs both. torch counts the floating-point operations of the timed step.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.options import TrainingOptions
from nelbo.theory.likelihoods import to_levels
from nelbo.training import Trainer
from nelbo.training.machine import bf16_is_fast
from timing import SIDE, by_turns, counted, product

CASES = {"digits, 8×8": (1, 8, 8), "mnist, 28×28": (1, 28, 28), "3×32×32": (3, 32, 32)}
BATCH, ROUNDS = 128, 6


def measure(name: str, shape: tuple[int, int, int], device: torch.device) -> str:
    """One row of the table."""
    options = DDPMOptions().resolved(shape)
    model = DDPM.from_options(options, shape, 256).to(device)
    images = to_levels(torch.randn(1024, *shape), 256)
    recipe = TrainingOptions(batch_size=BATCH, steps=10**6)
    trainer = Trainer(model, images, recipe, Path("unused"))
    # What the network takes: Muon's own products are time, and no work done.
    of_network = Trainer(model, images, recipe.model_copy(update={"optimizer": "adamw"}), Path("unused"))
    dtype = torch.bfloat16 if bf16_is_fast(device) else torch.float32
    x = torch.randn(BATCH, *shape, device=device)
    gamma = model.timeline.chain()[500].expand(BATCH).to(device)

    @torch.no_grad()
    def denoise() -> object:
        return model.denoiser(x, gamma)

    work = {"train": trainer.advance, "denoise": denoise, "peak": product(device, dtype)}
    work["peak32"] = product(device, torch.float32)
    flops = {
        "train": counted(of_network.advance),
        "denoise": counted(denoise),
        "peak": 2 * SIDE**3,
        "peak32": 2 * SIDE**3,
    }
    median = by_turns(work, device, ROUNDS, warm=1)
    rate = {key: flops[key] / each / 1e9 for key, each in median.items()}
    speed = {key: BATCH / median[key] for key in ("train", "denoise")}
    size = sum(p.numel() for p in model.parameters()) / 1e6
    return (
        f"| {name} | {size:.2f} M | {speed['train']:,.0f} | {rate['train']:,.0f} | {rate['peak']:,.0f} | "
        f"{100 * rate['train'] / rate['peak']:.0f}% | {speed['denoise']:,.0f} | {rate['denoise']:,.0f} | "
        f"{rate['peak32']:,.0f} | {100 * rate['denoise'] / rate['peak32']:.0f}% |"
    )


def table(device: torch.device) -> str:
    """The section of bench/RESULTS.md."""
    half = "bf16" if bf16_is_fast(device) else "fp32"
    head = (
        f"## The default network\nDefault `ddpm`, batches of {BATCH}, medians; training in {half}, denoising in fp32. "
        f"Rates in GFLOP/s; peak: a {SIDE}×{SIDE} matrix product in the same precision, alternating with the steps. "
        "If fp32 convolutions are better optimised than that product, their share can exceed 100%.\n\n"
        "| data | parameters | train: images/s | rate | peak | share | denoise: images/s | rate | peak | share |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    rows = []
    for name, shape in CASES.items():
        rows.append(measure(name, shape, device))
        print(rows[-1], flush=True)
    return head + "\n".join(rows) + "\n"
