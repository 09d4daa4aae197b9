"""A GPU in ten minutes: speed, memory and time to a bound, into bench/GPU.md with the device's name.

make gpu                                        tests of the device first
.venv/bin/python bench/run.py gpu --small --device cpu --out page.md      every line, at small size, anywhere
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

import host
import noise
import pairs
import parts
import step
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.training.machine import pick_device
from race import race
from timing import seconds

PAGE = Path(__file__).parents[1] / "GPU.md"
SHAPE, SAMPLES, STEPS = (3, 32, 32), 256, 20


def sampling(device: torch.device, count: int) -> str:
    """Samples per second of the default network, and the memory of the device."""
    model = DDPM.from_options(DDPMOptions().resolved(SHAPE), SHAPE, 256).to(device)

    def draw() -> object:
        return model.sample(count, batch=count, sampler="unipc", steps=STEPS)

    draw()
    taken = min(seconds(draw, device) for _ in range(3))
    used = f", {torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB at most" if device.type == "cuda" else ""
    size = "×".join(map(str, SHAPE))
    return (
        f"## Samples\n{count / taken:,.0f} images of {size} per second by `unipc` in {STEPS} steps, {count} at a time, "
        f"default `ddpm`, fp32{used}.\n"
    )


def to_a_bound(device: torch.device, small: bool) -> str:
    """Seconds of training to 0.95 bits/dim on MNIST; on digits to 3.9 if ``small``."""
    data, bits, minutes = ("digits", 3.9, 0.3) if small else ("mnist", 0.95, 3.0)
    words = argparse.Namespace(data=data, bits=bits, minutes=minutes, batch_size=32 if small else 256, lr=2e-3, seed=0)
    words.widths, words.device, words.compile = [16] if small else [], str(device), device.type == "cuda"
    taken, found, steps = race(words)
    ended = f"not reached, {found:.4f}" if taken is None else f"**{taken:.1f} s**"
    how = f"{ended}, after {steps:,} steps of {minutes} minutes"
    return f"## Time to a bound\n{data} to {bits} bits/dim on `val`: {how}.\n"


def main() -> None:
    """Measure each section, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes, to try every line")
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    device, small = pick_device(given.device), given.small
    if small:
        shrink()
    sections: dict[str, Callable[[], str]] = {
        "time to a bound": lambda: to_a_bound(device, small),
        "default network": lambda: step.table(device),
        "noise": lambda: noise.table(device),
        "host": lambda: host.table(device),
        "memory": lambda: parts.table(device),
        "samples": lambda: sampling(device, 4 if small else SAMPLES),
        "diffusers": lambda: pairs.table(device, ["1.6 M"] if small else ["6.5 M", "60 M"]),
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    head = f"# {name}\n`make gpu` writes this page: {name}, {platform.machine()}, torch {torch.__version__}.\n"
    found, started = [head], time.monotonic()
    for title, measure in sections.items():
        print(f"{title} ({time.monotonic() - started:.0f} s)", flush=True)
        found.append(measure())
        given.out.write_text("\n".join(found), encoding="utf-8")  # what is measured is kept
    print(given.out)


def shrink() -> None:
    """Small sizes of every section."""
    step.CASES, step.BATCH, step.ROUNDS = {"digits, 8×8": (1, 8, 8)}, 8, 1
    noise.SHAPES, noise.ROUNDS = ((4, 3, 8, 8),), 1
    host.BATCHES, host.TARGETS, host.WARM, host.ROUNDS, host.STEPS = {4: (3, 8, 8)}, {4: 2.0}, 0, 1, 3
    parts.SHAPE, parts.BATCH, parts.ROUNDS = (1, 8, 8), 8, 1
    pairs.BATCH, pairs.ROUNDS, pairs.COMPILE = {"cpu": 2, "cuda": 2}, 1, False


if __name__ == "__main__":
    main()
