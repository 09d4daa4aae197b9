"""Training on images of three times the memory: speed, and equality of the results.

    make bench          (a section of bench/RESULTS.md; needs the right to make control groups)

The same images as one .npy, as a folder of PNGs and as a table of ``datasets`` are trained on with and without a memory
limit of the process, in its own control group. The final weights must be equal bit by bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nelbo.files import remove
from nelbo.jobs.run import Run
from nelbo.training import read_checkpoint

LIMIT, TIMES = 3 * 2**29, 3
"""Bytes of memory, and the size of the images as a multiple of it."""
SIDE, CHANNELS, CELLS = 256, 3, 16
STEPS = 40
KINDS = {"images.npy": "one .npy", "files": "a folder of PNGs", "table": "a table of `datasets`, as Parquet"}
GROUPS = (
    (Path("/sys/fs/cgroup/memory/nelbo-large"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup/nelbo-large"), "memory.max"),
)
"""Where a control group of version 1 or 2 can be made, and the name of its limit."""


def write_images(folder: Path) -> int:
    """Write cells of random colours, as a .npy and as PNGs; returns the number of images."""
    count = TIMES * LIMIT // (CHANNELS * SIDE * SIDE)
    (folder / "files").mkdir()
    whole = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, SIDE, SIDE, CHANNELS))

    def write(index: int) -> None:
        cells = np.random.default_rng(index).integers(0, 256, (CELLS, CELLS, CHANNELS), dtype=np.uint8)
        whole[index] = cells.repeat(SIDE // CELLS, 0).repeat(SIDE // CELLS, 1)
        Image.fromarray(whole[index]).save(folder / "files" / f"{index:06d}.png", compress_level=1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(count)))
    return count


def write_table(folder: Path) -> None:
    """Write the PNGs into one Parquet file, like sets of the hub."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    files = [path.read_bytes() for path in sorted((folder / "files").iterdir())]
    table = datasets.Dataset.from_dict({"image": files}, features=datasets.Features({"image": datasets.Image()}))
    (folder / "table").mkdir()
    table.to_parquet(folder / "table" / "train.parquet")


def control_group() -> tuple[Path, str] | None:
    """A control group with the limit, if this process may make one, else None."""
    for folder, name in GROUPS:
        try:
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(str(LIMIT))
            return folder, name
        except OSError:
            continue
    return None


def trained(data: str, out: Path, group: Path | None) -> tuple[float, float]:
    """Train, in the control group if given; seconds in total, and of a step."""
    words = [
        *f"train ae --steps {STEPS} --batch-size 8 --widths 8 8 8 8".split(),
        "--data",
        data,
        "--out",
        str(out),
    ]
    into = [] if group is None else ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"']
    started = time.monotonic()
    environment = {**os.environ, "HF_DATASETS_CACHE": f"{out}-cache", "HF_HUB_OFFLINE": "1"}
    command = [*into, sys.executable, "-m", "nelbo", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    seconds = time.monotonic() - started
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return seconds, [row["seconds"] for row in rows if "seconds" in row][-1] / STEPS


def same(one: Path, other: Path) -> bool:
    """Whether two runs have equal final weights."""
    a, b = (read_checkpoint(Run(path).checkpoint).tensors["model"] for path in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


def table() -> str:
    """The section of bench/RESULTS.md."""
    made = control_group()
    title = "## Data larger than memory\n"
    if made is None:
        return f"{title}Not measured: this process may not make control groups.\n"
    group, rows = made[0], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        count = write_images(folder)
        write_table(folder)
        for name, what in KINDS.items():
            data = f"hf:{folder / name}" if name == "table" else str(folder / name)
            free = trained(data, folder / f"{name}-free", None)
            held = trained(data, folder / f"{name}-held", group)
            alike = "equal" if same(folder / f"{name}-free", folder / f"{name}-held") else "**different**"
            rows.append(
                f"| {what} | {held[0]:.0f} | {free[0]:.0f} | {1000 * held[1]:.0f} | {1000 * free[1]:.0f} | {alike} |"
            )
            remove(folder / name)
    group.rmdir()
    return (
        f"{title}{count:,} images of {CHANNELS}×{SIDE}×{SIDE}, {TIMES * LIMIT / 2**30:.1f} GiB, and a process with a "
        f"limit of {LIMIT / 2**30:.1f} GiB (a control group, which includes the system's file cache). {STEPS} steps of "
        "`train ae --batch-size 8`. Seconds with and without the limit, including reading, hashing and splitting; "
        "milliseconds of a step; the final weights.\n\n"
        "| data | seconds | without the limit | a step, ms | without the limit | weights |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    ) + "\n".join(rows)
