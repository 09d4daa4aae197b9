"""The memory and the time of a training step: in parts (--accumulate) and with --checkpoint-activations.

make bench          (a section of bench/RESULTS.md)

Memory is what a step stores for its backward pass, as autograd counts it: the same on every device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.options import TrainingOptions
from nelbo.training import Trainer
from timing import by_turns

SHAPE, BATCH, ROUNDS = (3, 32, 32), 128, 5
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "`--accumulate 4`": {"accumulate": 4},
    "`--checkpoint-activations`": {"checkpoint_activations": True},
    "both": {"accumulate": 4, "checkpoint_activations": True},
}


class Stored:
    """While it is entered, the most bytes that autograd stores at a time, each memory once, without the weights.

    Args:
        model: its weights do not count.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.skipped = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.held: dict[int, int] = {}
        self.now = self.most = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda packed: packed.x)

    def pack(self, x: Tensor) -> Packed:
        """Count a tensor until autograd forgets it."""
        return Packed(self, x)


class Packed:
    """A stored tensor."""

    def __init__(self, counter: Stored, x: Tensor) -> None:
        self.counter, self.x, self.place = counter, x, x.untyped_storage().data_ptr()
        if self.place in counter.skipped:
            return
        counter.held[self.place] = counter.held.get(self.place, 0) + 1
        if counter.held[self.place] == 1:
            counter.now += x.untyped_storage().nbytes()
            counter.most = max(counter.most, counter.now)

    def __del__(self) -> None:
        if self.place in self.counter.skipped:
            return
        self.counter.held[self.place] -= 1
        if not self.counter.held[self.place]:
            self.counter.now -= self.x.untyped_storage().nbytes()


def trainer(options: dict[str, Any], device: torch.device) -> Trainer:
    """A trainer of the default network."""
    model = DDPM.from_options(DDPMOptions().resolved(SHAPE), SHAPE, 256).to(device)
    images = torch.randint(0, 256, (2 * BATCH, *SHAPE), dtype=torch.uint8)
    return Trainer(model, images, TrainingOptions(steps=10**6, batch_size=BATCH, **options), Path("unused"))


def table(device: torch.device) -> str:
    """The section of bench/RESULTS.md."""
    trainers = {name: trainer(options, device) for name, options in CASES.items()}
    times = by_turns({name: each.advance for name, each in trainers.items()}, device, ROUNDS, warm=2)
    most = {}
    for name, each in trainers.items():
        stored = Stored(each.model)
        with stored.hooks:
            each.advance()
        most[name] = stored.most / 2**20
    rows = [
        f"| {name} | {most[name]:,.0f} MiB | {1e3 * times[name]:,.0f} ms | {times[name] / times['default']:.2f} |"
        for name in CASES
    ]
    print("\n".join(rows), flush=True)
    size = "×".join(map(str, (BATCH, *SHAPE)))
    return (
        f"## Memory of a step\nThe default `ddpm`, {size}: the most that is stored for the backward pass at a time, "
        "and the median time of a step.\n\n"
        "| | stored | step | relative |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )
