"""Training, scoring and features beside other work: busy processes on the same cores, and half a core's time.

make bench          (a section of bench/RESULTS.md)
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nelbo.cores import CHOSEN, settle_threads

SECONDS, REPEATS = 3.0, 3
BUSY = (0, 1, 2, 4)
SHAPE, BATCH = (1, 28, 28), 32
WORKS = {"train": "training step", "score": "bound, 10 t", "features": "classifier step"}
GROUPS = Path("/sys/fs/cgroup")


def unit_of(work: str) -> Callable[[], object]:
    """One unit of the work."""
    import torch

    from nelbo.data import Dataset
    from nelbo.jobs import features
    from nelbo.metrics import score_likelihood
    from nelbo.models.ddpm import DDPM, DDPMOptions
    from nelbo.options import TrainingOptions
    from nelbo.training import Trainer

    images = torch.randint(0, 256, (512, *SHAPE), dtype=torch.uint8)
    if work == "features":
        labels = torch.arange(512) % 10
        bounds = {"train": (0, features.BATCH)}
        data = Dataset("noise", "noise", images, labels, tuple("0123456789"), bounds, 256, "")
        network = features.fresh(data)
        return lambda: list(features.fit(network, data, labels, 1, 0))
    model = DDPM.from_options(DDPMOptions().resolved(SHAPE), SHAPE, 256)
    if work == "train":
        return Trainer(model, images, TrainingOptions(steps=10**6, batch_size=BATCH), Path("unused")).advance
    return lambda: score_likelihood(model, images[:BATCH], timesteps=10, batch=BATCH)


def measure(work: str, settled: bool) -> float:
    """Mean milliseconds of one unit of work in this process, which has not yet imported torch.

    Args:
        work: a key of ``WORKS``.
        settled: whether threads are settled as in nelbo's commands; else they are torch's.
    """
    if settled:
        settle_threads(os.environ)  # what follows then computes on its own cores
    from nelbo.training.machine import keep_memory

    keep_memory()
    call = unit_of(work)
    for _ in range(2):
        call()
    start, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - start < SECONDS:
        call()
        calls += 1
    return 1e3 * (time.perf_counter() - start) / calls


def measured(work: str, settled: bool, group: Path | None = None) -> float:
    """The same in a process of its own, in a control group if one is given."""

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    words = [sys.executable, __file__, work, "settled" if settled else "default"]
    clean = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    clean["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(words, env=clean, capture_output=True, text=True, check=True, preexec_fn=enter)
    return float(done.stdout)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that only count."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextlib.contextmanager
def half_a_core() -> Iterator[Path | None]:
    """A control group that may use half a core; None where none can be made."""
    old = (GROUPS / "cpu").is_dir()
    group = (GROUPS / "cpu" if old else GROUPS) / f"nelbo-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("cpu.cfs_quota_us" if old else "cpu.max")).write_text("50000" if old else "50000 100000")
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def row(name: str, group: Path | None, idle: dict[tuple[str, bool], float]) -> str:
    """One row: each work with torch's threads and with nelbo's, by turns, as multiples of torch's on idle cores."""
    cells = []
    for work in WORKS:
        taken: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(REPEATS):
            for settled in taken:
                taken[settled].append(measured(work, settled, group))
        for settled, times in taken.items():
            median = statistics.median(times)
            idle.setdefault((work, settled), median)
            cells.append(f"{median:,.0f} ms ({median / idle[work, False]:.2f})")
    print(name, *cells, flush=True)
    return f"| {name} | {' | '.join(cells)} |"


def table() -> str:
    """The section of bench/RESULTS.md."""
    rows, idle = [], {}  # type: ignore[var-annotated]
    for count in BUSY:
        with busy(count):
            rows.append(row(f"{count} busy processes" if count else "idle", None, idle))
    with half_a_core() as group:
        rows.append("| half a core | not measured: no control group can be made here |" if group is None else "")
        if group is not None:
            rows[-1] = row("half a core", group, idle)
    heads = " | ".join(f"{title}: torch's threads | nelbo's" for title in WORKS.values())
    return (
        f"## Beside other work\nMean times of one unit on MNIST's size, batches of {BATCH}: medians of {REPEATS} "
        "processes, torch's and nelbo's threads by turns. In brackets: the multiple of torch's time on idle cores.\n\n"
        f"| | {heads} |\n|{' --- |' * (1 + 2 * len(WORKS))}\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    print(measure(sys.argv[1], sys.argv[2] == "settled"))
