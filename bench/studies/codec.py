"""Sizes and speeds of the codec, beside xz, PNG, WebP and JPEG XL. Writes docs/codec.md.

make codec                                          (trains the runs that are missing, for hours; then an hour)
python bench/run.py codec --runs runs --limit 1000  (fewer images)
python bench/run.py codec vae "vdm, K = 24"         (only these rows; the page keeps the others)
python bench/run.py codec others                    (only xz, PNG, WebP and JPEG XL)

What is measured is kept in bench/codec.json, so that rows can be measured one after another on an idle machine. JPEG XL
needs the package pillow-jxl-plugin, which 'make codec' installs.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import nelbo
from nelbo.jobs.codec_plan import usable_cores
from nelbo.report.other_codecs import codecs, shown, tiled

ROOT = Path(__file__).parents[2]
PAGE, KEPT = ROOT / "docs" / "codec.md", ROOT / "bench" / "codec.json"
DATA = Path(os.environ.get("NELBO_DATA", ""))
PER_IMAGE = 1000
"""Images of the codecs that code each alone."""
OTHERS = "others"
"""In place of a row: other codecs."""


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        run: the folder of the run in ``--runs``.
        family: of the run.
        data: SPEC.
        training: options of ``nelbo.train``.
        options: of ``nelbo.compress``.
        over: the largest share of the file over its own bound that was asked for.
        rate: the least images a second, each way, that were asked for.
    """

    run: str
    family: str
    data: str
    training: dict[str, Any]
    options: dict[str, Any]
    over: float | None = None
    rate: float | None = None


ROWS = {
    "vae": Row("target-vae", "vae", "mnist", {"latent": 64, "batch_size": 64, "minutes": 9}, {}, 0.005, 200),
    "vae --each": Row(
        "target-vae", "vae", "mnist", {"latent": 64, "batch_size": 64, "minutes": 9}, {"each": True}, 0.04, 100
    ),
    "hvae": Row("target-hvae", "hvae", "mnist", {"stream": True, "batch_size": 64, "minutes": 14}, {}, 0.01, 80),
    "vdm, K = 24": Row("target-vdm", "vdm", "mnist", {"minutes": 10}, {"steps": 24}, 0.01, 15),
    "vdm, K = 96": Row("target-vdm", "vdm", "mnist", {"minutes": 10}, {"steps": 96}, 0.01, 4),
}
for folder, size in (("cifar10-jpeg", {}), ("emoji", {"size": "32x32", "fit": "resize"})):
    if (DATA / folder).is_dir():
        own = {"minutes": 20, **size}
        ROWS[f"{folder}: vdm, K = 24"] = Row(f"codec-{folder}", "vdm", str(DATA / folder), own, {"steps": 24})

TEXT = """# The codec, measured

`nelbo compress` on the test split: the whole file, with hashes, golden numbers and initial bits, and without labels.
Machine: {machine}. *Over its bound* compares the file's bits/dim with the bound of the same images in the steps of the
file, and *over own* with that of the run, of a `vdm` in continuous time; both bounds have a Monte Carlo error, ±.
Images a second are those of all cores by processor time, without the time to start; every image of a file is encoded,
and decoded again before it is written. *Trained* is the number of training steps.

| run | trained | images | bytes | bits/dim | over its bound | asked | over own | images/s encoded | decoded | asked |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

Where the bits go, in bits/dim:

| run | run's own bound | in K steps | by the model | with initial bits | whole file |
| --- | --- | --- | --- | --- | --- |
{shares}

## Beside other codecs
All test images, in bits/dim. *Each* codes every image as a file of its own ({each:,} of them are measured), *tiled*
all in one picture.

| data | {columns} |
| --- | {dashes} |
{others}

The weights are not in the file, and decoding needs them:

| run | weights | file and weights are smaller than xz from |
| --- | --- | --- |
{weights}

`make codec` writes this page.
"""


def opened(row: Row, runs: Path) -> nelbo.Run:
    """The run of a row, trained if it does not exist."""
    path = runs / row.run
    if not path.exists():
        nelbo.train(row.family, row.data, out=path, **row.training)
    return nelbo.Run(path)


def without_labels(run: nelbo.Run, limit: int | None) -> np.ndarray:
    """The test images of a run, shape (n, C, H, W)."""
    return run.dataset.split("test")[:limit].numpy()


def measured(row: Row, runs: Path, limit: int | None) -> dict[str, Any]:
    """The facts of the file of a row, which comes back."""
    run = opened(row, runs)
    images = without_labels(run, limit)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.nelbo"
        found = nelbo.compress(run, images, path, bounds=True, **row.options)
        back = nelbo.decompress(run, path)
    assert np.array_equal(back.images.numpy(), images)
    facts = found.as_dict()
    return facts | {"cores": usable_cores(), "file": "", "data_name": run.config.images.name}


def others(images: np.ndarray, levels: int) -> dict[str, float]:
    """bits/dim of the images by other codecs."""
    few, bits = images[:PER_IMAGE], 8 / images.size
    found = {"xz": bits * len(lzma.compress(images.tobytes(), preset=9 | lzma.PRESET_EXTREME))}
    for name, encode in codecs().items():
        found[f"{name}, each"] = 8 * sum(len(encode(shown(image, levels))) for image in few) / few.size
        found[f"{name}, tiled"] = bits * len(encode(shown(tiled(images), levels)))
    return found


def percent(value: float | None) -> str:
    """A share as text."""
    return "" if value is None else f"{100 * value:+.2f}%"


def table_rows(name: str, facts: dict[str, Any]) -> tuple[str, str]:
    """The rows of a run in the first two tables."""
    row, bounds, bits = ROWS[name], facts["bounds"], facts["bits_per_dim"]
    steps = bounds.get("in_steps") or bounds["own"]
    error = bounds.get("in_steps_stderr") or bounds["own_stderr"]
    rates = [facts["images"] * facts["cores"] / facts[f"{which}_seconds"] for which in ("encode", "check")]
    asked = "" if row.over is None else f"≤ {100 * row.over:g}%"
    numbers = [
        f"{facts['step']:,}",
        f"{facts['images']:,}",
        f"{facts['bytes']:,}",
        f"{bits:.4f}",
        f"{percent(bits / steps - 1)} ± {100 * error / steps:.2f}%",
        asked,
        percent(bits / bounds["own"] - 1),
        *(f"{rate:.1f}" for rate in rates),
        "" if row.rate is None else f"≥ {row.rate:g}",
    ]
    shares = [
        f"{bounds['own']:.4f} ± {bounds['own_stderr']:.4f}",
        f"{bounds['in_steps']:.4f} ± {bounds['in_steps_stderr']:.4f}" if bounds.get("in_steps") else "",
        f"{facts['model_bits_per_dim']:.4f}" if facts.get("model_bits_per_dim") else "",
        f"{bits - facts['container_bits_per_dim']:.4f}",
        f"{bits:.4f}",
    ]
    return f"| {name} | {' | '.join(numbers)} |", f"| {name} | {' | '.join(shares)} |"


def page(kept: dict[str, dict[str, Any]], by_others: dict[str, dict[str, float]]) -> str:
    """docs/codec.md.

    Args:
        kept: the name of a row → its facts.
        by_others: the name of data → bits/dim by other codecs.
    """
    rows, shares = zip(*(table_rows(name, facts) for name, facts in kept.items()), strict=True)
    columns = list(dict.fromkeys(name for sizes in by_others.values() for name in sizes))
    cells = {
        data: [f"{sizes[name]:.4f}" if name in sizes else "" for name in columns] for data, sizes in by_others.items()
    }
    weights = []
    for name, facts in kept.items():
        after = "never" if facts.get("pays_after") is None else f"{facts['pays_after']:,} images"
        weights.append(f"| {name} | {facts['weights_bytes']:,} | {after} |")
    return TEXT.format(
        machine=f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}",
        rows="\n".join(rows),
        shares="\n".join(shares),
        each=PER_IMAGE,
        columns=" | ".join(columns),
        dashes=" | ".join("---" for _ in columns),
        others="\n".join(f"| {data} | {' | '.join(each)} |" for data, each in cells.items()),
        weights="\n".join(weights),
    )


def main() -> None:
    """Measure the rows, keep them, and write the page of all kept ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *ROWS, OTHERS], default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--limit", type=int, default=None)
    asked = parser.parse_args()
    names = asked.names or [*ROWS, OTHERS]
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"rows": {}, OTHERS: {}}
    for name in names:
        if name == OTHERS:
            for row in {row.run: row for row in ROWS.values() if (asked.runs / row.run).exists()}.values():
                run = opened(row, asked.runs)
                if run.config.images.name not in kept[OTHERS]:
                    kept[OTHERS][run.config.images.name] = others(without_labels(run, None), run.config.images.levels)
        else:
            kept["rows"][name] = measured(ROWS[name], asked.runs, asked.limit)
            print("\n".join(table_rows(name, kept["rows"][name])), flush=True)
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    PAGE.write_text(page({name: kept["rows"][name] for name in ROWS if name in kept["rows"]}, kept[OTHERS]))


if __name__ == "__main__":
    main()
