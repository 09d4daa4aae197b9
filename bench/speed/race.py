"""Seconds of training until the bound on ``val`` reaches a number of bits/dim. For a GPU; runs anywhere.

    python bench/run.py race --data mnist --bits 0.95 --minutes 2 --batch-size 256

The bound of the EMA weights is estimated from time to time. This time does not count in the seconds, but in --minutes,
over which the learning rate decays. Reading the data does not count either; compilation does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from nelbo.data import load
from nelbo.metrics import score_likelihood
from nelbo.models.base import LikelihoodModel
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.options import TrainingOptions
from nelbo.training import Trainer
from nelbo.training.machine import keep_memory, pick_device, usual_batch

LOOKS, IMAGES = 24, 1000


def race(given: argparse.Namespace) -> tuple[float | None, float, int]:
    """Seconds until the bound was reached, or None; the last bound, and the number of steps."""
    keep_memory()
    device, dataset = pick_device(given.device), load(given.data)
    torch.manual_seed(given.seed)
    options = VDMOptions(widths=tuple(given.widths)).resolved(dataset.shape)
    model = VDM.from_options(options, dataset.shape, dataset.levels).to(device)
    recipe = TrainingOptions(minutes=given.minutes, batch_size=given.batch_size, lr=given.lr, seed=given.seed)
    recipe = recipe.model_copy(update={"compile": "on" if given.compile else "off"})
    bits, away = float("inf"), 0.0
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, dataset.split("train"), recipe, Path(folder))
        started, looks = time.monotonic(), 1
        for step in trainer:
            seconds = time.monotonic() - started - away
            if seconds < looks * 60 * given.minutes / LOOKS and step.progress < 1.0:
                continue
            looks, before = looks + 1, time.monotonic()
            val = dataset.split("val")[:IMAGES]
            average = trainer.ema.model
            assert isinstance(average, LikelihoodModel)
            bits = score_likelihood(average, val, timesteps=2, batch=usual_batch(device)).bits()
            print(f"{seconds:7.1f} s, step {step.step:,}: {bits:.4f} bits/dim", flush=True)
            away += time.monotonic() - before
            if bits <= given.bits:
                return seconds, bits, step.step
    return None, bits, trainer.step


def main() -> None:
    """Run the race, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--bits", type=float, default=0.95)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--widths", type=int, nargs="*", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    given = parser.parse_args()
    seconds, bits, steps = race(given)
    where = torch.cuda.get_device_name() if pick_device(given.device).type == "cuda" else "CPU"
    ended = f"not reached ({bits:.4f})" if seconds is None else f"{seconds:.1f} s ({bits:.4f})"
    print(f"{given.data} to {given.bits} bits/dim on {where}: {ended}, {steps:,} steps")


if __name__ == "__main__":
    main()
