"""Estimates of a training step on many GPUs, from counted operations and bytes, written to docs/scale.md.

    make scale
    .venv/bin/python bench/run.py scale --rate 450e12 --between 25e9      another GPU, a slower network

The model of a step is first compared with measured steps: two processes on this machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

import host
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.nn.unet2d import UNet2D, UNet2DOptions
from nelbo.options import TrainingOptions
from nelbo.processes import join, leave
from nelbo.training import Trainer
from nelbo.training.muon import ITERATIONS, is_matrix

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
SIDE, CHANNELS = 32, 3
NETWORKS = {"60 M": (128, 256, 256, 512), "1 B": (512, 1024, 1024, 2048)}
SMALL = (32, 64, 64)
GPUS = (8, 64, 1024)
LOCAL, WHOLE = 32, 8192
"""Images on each GPU, for a batch that grows with the number of GPUs; and in the whole batch, for a fixed one."""
PER_PARAMETER = {"weights": 4, "gradients": 4, "DistributedDataParallel's buckets": 4, "momentum": 4, "average": 4}
"""Bytes per parameter on a process, with Muon; AdamW stores one more number."""
BUCKET = 25 * 2**20
"""Bytes of gradients in one bucket of DistributedDataParallel."""
MEMORIES = (24, 80, 141)
MEASURED_BATCH, ROUNDS = 8, 15
WEAK, WEAK_BATCH, WEAK_STEPS, WEAK_ROUNDS = (1, 28, 28), 32, 60, 3


class Link(NamedTuple):
    """The links that carry gradients.

    Attributes:
        inside, between: bytes/s that one GPU sends, within a node and to other nodes.
        latency: seconds until the first byte of a message arrives.
        node: GPUs in a node.
    """

    inside: float
    between: float
    latency: float
    node: int

    def gather(self, size: float, count: int) -> float:
        """Seconds of an all-gather of ``size`` bytes between ``count`` GPUs.

        Each GPU first gathers from those with its index in other nodes, over its own port, then all GPUs of a node from
        each other. Latencies are those of a tree, as for short messages.
        """
        inside, nodes = min(count, self.node), math.ceil(count / self.node)
        far = (nodes - 1) / nodes * size / inside / self.between
        return far + (inside - 1) / inside * size / self.inside + math.log2(count) * self.latency


class Network(NamedTuple):
    """The cost of a step of a network.

    Attributes:
        parameters: P.
        step: operations of forward and backward per image.
        muon: operations of an optimiser's step, equal on every process.
        activations: bytes stored for the backward pass, per image, in bf16.
    """

    parameters: int
    step: float
    muon: float
    activations: float


def network(widths: tuple[int, ...]) -> UNet2D:
    """The network of bench/run.py pairs with these widths."""
    down = ["DownBlock2D"] * len(widths)
    down[-2] = "AttnDownBlock2D"
    up = [kind.replace("Down", "Up") for kind in reversed(down)]
    options = {"sample_size": SIDE, "in_channels": CHANNELS, "out_channels": CHANNELS, "layers_per_block": 2}
    blocks = {"block_out_channels": widths, "down_block_types": down, "up_block_types": up}
    return UNet2D(UNet2DOptions.model_validate(options | blocks), None)


def counted(widths: tuple[int, ...]) -> Network:
    """Count a step on the meta device, without computation."""
    with torch.device("meta"):
        model = network(widths)
        x, t = torch.empty(1, CHANNELS, SIDE, SIDE), torch.zeros(1)
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}
    held = []  # or a storage that is gone lends its name to another

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held.append(storage)
        if storage._cdata not in own:
            kept[storage._cdata] = 2 * storage.nbytes() // tensor.element_size()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        model(x, t).sum().backward()
    return Network(
        sum(p.numel() for p in model.parameters()),
        float(counter.get_total_flops()),
        sum(newton_schulz(p.shape[0], p.numel() // p.shape[0]) for p in model.parameters() if is_matrix(p)),
        float(sum(kept.values())),
    )


def newton_schulz(rows: int, columns: int) -> float:
    """Operations of Muon's orthogonalisation of a matrix: X Xᵀ, its square, and their product with X, five times."""
    n, m = min(rows, columns), max(rows, columns)
    return ITERATIONS * (2.0 * n * n * m + 2.0 * n**3 + 2.0 * n * n * m)


class Step(NamedTuple):
    """Seconds of a step: computation, the optimiser, and the exchange that is not hidden."""

    compute: float
    optimizer: float
    exposed: float

    @property
    def efficiency(self) -> float:
        """The speed of a GPU relative to its speed alone."""
        return (self.compute + self.optimizer) / sum(self)


def replicated(net: Network, images: float, count: int, rate: float, link: Link) -> Step:
    """DDP: an all-reduce of 4-byte gradients, hidden by the backward pass (2/3 of the step) but for the last bucket.

    The loss, the profile over t and the clocks are short messages, whose latency is not hidden.
    """
    compute, size = images * net.step / rate, 4.0 * net.parameters
    exchange = 2 * link.gather(size, count)
    last = 2 * link.gather(min(BUCKET, size), count)
    small = 6 * 2 * math.log2(count) * link.latency
    return Step(compute, net.muon / rate, max(last, exchange - 2 / 3 * compute) + small)


def sharded(net: Network, images: float, count: int, rate: float, link: Link) -> Step:
    """FSDP: 4-byte weights are gathered for the forward and the backward pass, and gradients scattered after it.

    Muon needs whole matrices and gathers them once more, which is not hidden.
    """
    compute, size = images * net.step / rate, 4.0 * net.parameters
    once = link.gather(size, count)
    exposed = max(0.0, once - compute / 3) + max(0.0, 2 * once - 2 / 3 * compute) + once
    return Step(compute, net.muon / rate, exposed + link.gather(min(BUCKET, size), count))


# Steps that are measured


def measure() -> dict[str, float]:
    """In one of the processes: median seconds of a step alone, of an exchange, and of a step with it, alternating."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = network(SMALL)
    both = DistributedDataParallel(model)
    gradients = torch.zeros(sum(p.numel() for p in model.parameters()))
    x, t = torch.randn(MEASURED_BATCH, CHANNELS, SIDE, SIDE), torch.zeros(MEASURED_BATCH)
    small = torch.zeros(3, dtype=torch.float64)

    def alone() -> None:
        with both.no_sync():
            both(x, t).sum().backward()

    def together() -> None:
        both(x, t).sum().backward()

    ways = {
        "alone": alone,
        "exchange": lambda: distributed.all_reduce(gradients),
        "together": together,
        "message": lambda: distributed.all_reduce(small),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            distributed.barrier()
            started = time.perf_counter()
            work()  # type: ignore[no-untyped-call]
            times[name].append(time.perf_counter() - started)
    distributed.destroy_process_group()
    return {name: statistics.median(each[2:]) for name, each in times.items()} | {"bytes": 4.0 * len(gradients)}


def measured() -> dict[str, float]:
    """The measurement of the first of two processes."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, "--measure"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def trained() -> float:
    """Median seconds of nelbo's own training step, in a process that has its share of a growing batch."""
    torch.set_num_threads(1)
    team = join()
    model = DDPM.from_options(DDPMOptions().resolved(WEAK), WEAK, 256)
    images = torch.randint(0, 256, (WEAK_BATCH * 8, *WEAK), dtype=torch.uint8)
    recipe = TrainingOptions(steps=10**6, batch_size=WEAK_BATCH * team.count, device="cpu")
    trainer = Trainer(model, images, recipe, Path("unused"), team=team)
    times = []
    for _ in range(WEAK_STEPS):
        started = time.perf_counter()
        trainer.advance()
        times.append(time.perf_counter() - started)
    leave()
    return statistics.median(times[3:])


def weak() -> dict[str, float]:
    """Median seconds of that step: of one process, of two that know nothing of each other, and of two together."""
    words, environment = [__file__, "--train"], {**os.environ, "OMP_NUM_THREADS": "1"}

    def output(process: subprocess.Popen[str]) -> float:
        text, _ = process.communicate()
        return float(text)

    def started(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment)

    taken: dict[str, list[float]] = {"one": [], "apart": [], "together": []}
    for _ in range(WEAK_ROUNDS):
        taken["one"].append(output(started(*words)))
        taken["apart"].append(statistics.mean([output(each) for each in [started(*words), started(*words)]]))
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        taken["together"].append(output(started(*launcher, *words)))
    return {name: statistics.median(each) for name, each in taken.items()}


# The page


def page(given: argparse.Namespace, here: dict[str, float], weakly: dict[str, float]) -> str:
    """The page."""
    link = Link(given.inside, given.between, given.latency, given.node)
    networks = {name: counted(widths) for name, widths in NETWORKS.items()}
    expected = here["alone"] + max(0.0, here["exchange"] - 2 / 3 * here["alone"])
    rows, shortest = [], math.inf
    for name, net in networks.items():
        for count in GPUS:
            cells = []
            for images in (LOCAL, WHOLE / count):
                for way in (replicated, sharded):
                    step = way(net, images, count, given.rate, link)
                    shortest = min(shortest, sum(step))
                    cells.append(f"{100 * step.efficiency:.1f}% ({1000 * sum(step):.0f} ms)")
            rows.append(f"| {name} | {count:,} | {' | '.join(cells)} |")
    per = sum(PER_PARAMETER.values())
    ends = []
    for size in MEMORIES:
        room = size * 1e9
        cells = [
            f"{(room - net.activations * LOCAL) / net.parameters:.1f}" if room > net.activations * LOCAL else "none"
            for net in networks.values()
        ]
        fits = ["DDP" if room > net.activations * LOCAL + per * net.parameters else "FSDP" for net in networks.values()]
        ends.append(f"| {size} GB | {(room * 0.5) / per / 1e9:.1f} B | {' | '.join(fits)} | {' | '.join(cells)} |")
    sizes = "\n".join(
        f"| {name} | {net.parameters / 1e6:,.0f} M | {net.step / 1e9:,.0f} | {net.muon / 1e9:,.0f} | "
        f"{4 * net.parameters / 1e9:.2f} | {per * net.parameters / 1e9:.1f} | {net.activations / 1e6:,.0f} |"
        for name, net in networks.items()
    )
    return TEXT.format(
        side=SIDE,
        sizes=sizes,
        rows="\n".join(rows),
        ends="\n".join(ends),
        per=per,
        parts=", ".join(f"{name} {size}" for name, size in PER_PARAMETER.items()),
        local=LOCAL,
        whole=f"{WHOLE:,}",
        rate=given.rate / 1e12,
        inside=given.inside / 1e9,
        between=given.between / 1e9,
        latency=given.latency * 1e6,
        node=given.node,
        machine=f"{os.cpu_count()} CPU cores, {platform.machine()}, torch {torch.__version__}",
        muon=networks["1 B"].muon / networks["1 B"].step / LOCAL,
        alone=f"{1000 * here['alone']:.1f}",
        exchange=f"{1000 * here['exchange']:.1f}",
        speed=f"{here['bytes'] / here['exchange'] / 1e9:.2f}",
        bytes=here["bytes"] / 1e6,
        message=f"{1e6 * here['message']:.0f}",
        together=f"{1000 * here['together']:.1f}",
        weak_batch=WEAK_BATCH,
        expected=f"{1000 * expected:.0f}",
        most=f"{1000 * (here['alone'] + here['exchange']):.0f}",
        shortest=f"{1000 * shortest:.0f}",
        **{f"weak_{name}": f"{1000 * value:.0f}" for name, value in weakly.items()},
        of_one=f"{100 * weakly['one'] / weakly['together']:.0f}",
        of_apart=f"{100 * weakly['apart'] / weakly['together']:.0f}",
        host=f"{host_milliseconds():.1f}",
    )


TEXT = """# Scale
`make scale` writes this page. Apart from the first two tables, it is a calculation and not a measurement: it counts the
operations and the communication of a step, and assumes the speed of a GPU and its links. No cluster was used.

## The calculation compared with this machine
Two processes of one thread each ({machine}), the 1.6 M network of [Speed](../bench/RESULTS.md), batches of 8 in each;
the table has medians of alternating runs. An exchange is an all-reduce of {bytes:.1f} MB of gradients (gloo).

| alone | exchange | bytes/s | 24 bytes | with exchange: predicted | measured |
| --- | --- | --- | --- | --- | --- |
| {alone} ms | {exchange} ms | {speed} GB/s | {message} µs | {expected} to {most} ms | {together} ms |

The first prediction assumes that the backward pass hides the exchange, as on GPUs. The second adds the exchange, as
for processes without a free core.

## Weak scaling of nelbo's own step
`ddpm` of the default size on 28×28, {weak_batch} images in each process of one thread; medians of runs by turns. Each
process reads and draws its share of the batch, and gradients, losses and clocks are exchanged.

| one process | two that know nothing of each other | two together | speed of each, relative to one | to two apart |
| --- | --- | --- | --- | --- |
| {weak_one} ms | {weak_apart} ms | {weak_together} ms | {of_one}% | {of_apart}% |

## Cost of a step
Networks are those of `UNet2DModel`, 3×{side}×{side}, counted by torch on the meta device.

| network | parameters | GFLOP per image | GFLOP of Muon | gradients, GB | state, GB | activations, MB per image |
| --- | --- | --- | --- | --- | --- | --- |
{sizes}

State, in bytes per parameter: {parts}; {per} in total. All activations are stored, in bf16.

## Efficiency
The efficiency is the speed of a GPU relative to its speed alone. A GPU has {rate:,.0f} TFLOP/s sustained (45% of the
dense bf16 of an H200's data sheet, 989), {inside:,.0f} GB/s within a node of {node}, {between:,.0f} GB/s to other
nodes (a port of 400 Gb/s for each GPU), and {latency:.0f} µs of latency. Exchanges go between nodes first (each GPU
with those of its index), then within a node. "Grows": {local} images on each GPU. "Fixed": {whole} in total.

| network | GPUs | grows, DDP | grows, FSDP | fixed, DDP | fixed, FSDP |
| --- | --- | --- | --- | --- | --- |
{rows}

- DDP sends 2 (N − 1)/N times the gradients; the backward pass hides this but for the last 25 MB.
- FSDP sends 3 (N − 1)/N times the weights, hidden by both passes, and once more for Muon, which is not hidden.
- Six short messages per step (loss, profile over t, clocks, used parameters) cost only latency.
- Muon orthogonalises every matrix on every process. The efficiency does not count this as a loss, but for the 1 B
  model it takes {muon:.1f} times as long as {local} images: use AdamW there, or larger batches.
- The host sends a step's operations while the device computes the step before. With a network that costs nothing this
  took {host} ms here (bench/RESULTS.md, "Host time"), and the shortest step of the table has {shortest} ms: the host's
  time is hidden, if the network's own kernels are launched as one CUDA graph.
- With a fixed batch, the work on each GPU becomes too small to hide the exchange: use a larger batch with more GPUs.

## The limit of DDP
DDP needs one process's state and the activations of {local} images to fit on one GPU.

| GPU | state of half the memory | 60 M | 1 B | bytes left per parameter, 60 M | 1 B |
| --- | --- | --- | --- | --- | --- |
{ends}

nelbo trains with DDP, or with `--shard` with FSDP: each process stores a shard of weights, moments and average, and
gathers a block while it computes. Both give the same weights. A batch that does not fit can be computed in parts
(`--accumulate`), and blocks can compute their activations again (`--checkpoint-activations`): bench/RESULTS.md has the
memory and the time of both.
"""


def host_milliseconds() -> float:
    """The host's time for a training step with a free network, as bench/run.py results measures it."""
    return host.milliseconds(host.trainer(host.TINY, 256, 1000, torch.device("cpu")).advance, torch.device("cpu"))


def main() -> None:
    """Measure, count, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=0.45 * 989e12, help="operations/s that a GPU sustains")
    parser.add_argument("--inside", type=float, default=450e9, help="bytes/s to a GPU of the same node")
    parser.add_argument("--between", type=float, default=50e9, help="bytes/s to other nodes, of each GPU")
    parser.add_argument("--latency", type=float, default=10e-6, help="seconds")
    parser.add_argument("--node", type=int, default=8, help="GPUs in a node")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        seconds = trained()
        if os.environ.get("RANK", "0") == "0":
            print(seconds)
        return
    if given.measure:
        found = measure()
        if os.environ["RANK"] == "0":
            print(json.dumps(found))
        return
    PAGE.write_text(page(given, measured(), weak()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
