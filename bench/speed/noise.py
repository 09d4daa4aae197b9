"""Drawing noise: nelbo's generator, as operations and as one compiled kernel, relative to torch.randn.

make bench          (a section of bench/RESULTS.md)
"""

from __future__ import annotations

import torch

from nelbo import rng
from nelbo.rng import Stream, normal
from timing import by_turns

SHAPES: tuple[tuple[int, ...], ...] = ((256, 3, 32, 32), (64, 3, 256, 256))
ROUNDS = 15


def row(shape: tuple[int, ...], threads: int, device: torch.device) -> str:
    """Median times at one size."""
    torch.set_num_threads(threads)

    def eager() -> object:
        rng.FUSED.discard(device.type)
        return normal(1, Stream.TRAIN_NOISE, 7, range(shape[0]), shape[1:], device=device)

    def compiled() -> object:
        rng.FUSED.add(device.type)
        return normal(1, Stream.TRAIN_NOISE, 7, range(shape[0]), shape[1:], device=device)

    work = {"torch": lambda: torch.randn(shape, device=device), "eager": eager, "compiled": compiled}
    median = by_turns(work, device, ROUNDS, warm=3)
    rng.FUSED.discard(device.type)
    cells = [f"{1e3 * median['torch']:.2f} ms"]
    cells += [f"{1e3 * median[kind]:.2f} ms ({median[kind] / median['torch']:.1f})" for kind in ("eager", "compiled")]
    return f"| {'×'.join(map(str, shape))} | {threads} | {' | '.join(cells)} |"


def table(device: torch.device) -> str:
    """The section of bench/RESULTS.md."""
    threads, rows = torch.get_num_threads(), []
    for shape in SHAPES:
        for count in {1, threads} if device.type == "cpu" else {threads}:
            rows.append(row(shape, count, device))
            print(rows[-1], flush=True)
    torch.set_num_threads(threads)
    return (
        "## Noise\nStandard normal numbers in float32, medians; in brackets relative to torch.randn. nelbo's are a "
        "function of (seed, stream, step, index, element), torch.randn's are not. Compiled: with `--compile on`.\n\n"
        "| shape | threads | torch.randn | nelbo, operations | nelbo, compiled |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n"
    )
