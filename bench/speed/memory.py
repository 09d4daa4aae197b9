"""Memory during training: the resident set over 10,000 steps, and the cost of the data set.

make bench          (a section of bench/RESULTS.md)
"""

from __future__ import annotations

from pathlib import Path

import torch

from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.options import TrainingOptions
from nelbo.training import Trainer
from nelbo.training.machine import keep_memory

STEPS, EVERY = 10_000, 1_000
IMAGES, SHAPE = 400_000, (1, 8, 8)


def resident() -> float:
    """The process's resident set in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmRSS")


def table() -> str:
    """The section of bench/RESULTS.md."""
    keep_memory()
    images = torch.randint(0, 256, (IMAGES, *SHAPE), dtype=torch.uint8)
    model = DDPM.from_options(DDPMOptions(widths=(16,), blocks=1).resolved(SHAPE), SHAPE, 256)
    before = resident()
    trainer = Trainer(model, images, TrainingOptions(steps=STEPS, batch_size=8), Path("unused"))
    found = {}
    for step in range(1, STEPS + 1):
        trainer.advance()
        if step in (100, EVERY) or step % EVERY == 0:
            found[step] = resident()
            print(f"step {step:,}: {found[step]:.1f} MiB", flush=True)
    size = images.numel() / 2**20
    growth = found[STEPS] - found[EVERY]
    return (
        "## Memory over 10,000 steps\n"
        f"{IMAGES:,} images of 8×8 ({size:.0f} MiB), batches of 8. Increase from before the first step to step 100: "
        f"**{found[100] - before:+.1f} MiB**, for weights, moments, activations and libraries' buffers, without a copy "
        f"of the data. From step {EVERY:,} to step {STEPS:,}: **{growth:+.1f} MiB**.\n\n"
        f"| step | {' | '.join(f'{step:,}' for step in found)} |\n|{' --- |' * (len(found) + 1)}\n"
        f"| resident, MiB | {' | '.join(f'{value:.1f}' for value in found.values())} |\n"
    )
