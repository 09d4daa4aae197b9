"""Train and measure every family, and write docs/targets.md. At most half an hour each on two cores.

python bench/run.py targets [NAME …] [--runs runs] [--write docs/targets.md]

Every result is kept in bench/targets.json with the code, the machine and the day that made it, and the page is written
anew from all of them after each. Without names, what the present code has measured is left as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

import nelbo
from nelbo.files import replace_text
from nelbo.nn import UNetOptions

MNIST = ("--data", "mnist")
BINARY, LABELLED = (*MNIST, "--binarize"), (*MNIST, "--labels")
BATCH = ("--batch-size", "64")
FEW = ("--limit", "500", "--batch-size", "250")
IMAGES = Path(__file__).parents[2] / "docs" / "images"
KEPT = Path(__file__).parents[1] / "targets.json"
CODE = f"{nelbo.__version__}, {max(get_args(UNetOptions.model_fields['revision'].annotation))}"
"""The version of nelbo and the revision of the diffusion networks of a new run."""
FEW_SAMPLES = 64
"""Samples that are timed."""
REMARKS = "\n## Remarks\n"
"""The page below this line is hand-written, and kept."""


class Measure(NamedTuple):
    """A command that measures a run, and its target.

    Attributes:
        words: of the command, without RUN.
        asked: the target, as text; "" for none.
        found: the command's JSON → the result, as text, and whether the target is reached.
    """

    words: tuple[str, ...]
    asked: str
    found: Callable[[dict[str, Any]], tuple[str, bool]]


class Target(NamedTuple):
    """A run, and what is measured of it.

    Attributes:
        minutes: of training.
        train: words of the command, without RUN.
        measures: each is a row of the table.
        drawn: whether the page shows samples beside real images.
        teacher: the name of the target whose run is distilled; then ``train`` has the options of that.
        timed: whether the time of 64 samples is a row.
    """

    minutes: float
    train: tuple[str, ...]
    measures: tuple[Measure, ...]
    drawn: bool = False
    teacher: str = ""
    timed: bool = False

    def made(self, out: str, runs: str) -> list[str]:
        """The words of the command that makes the run."""
        words = ["distill", f"{runs}/target-{self.teacher}"] if self.teacher else ["train"]
        return [*words, *self.train, "--minutes", f"{self.minutes:g}", "--out", out]


def at_most(most: float, unit: str) -> Callable[[dict[str, Any]], tuple[str, bool]]:
    """The score's total, in ``nats`` or ``bits_per_dim``, with its error."""

    def found(score: dict[str, Any]) -> tuple[str, bool]:
        value, scale = score[unit], score["nats"] / score["bits_per_dim"] if unit == "nats" else 1.0
        digits = 2 if unit == "nats" else 4
        error = score["stderr"] * scale
        return f"{value:.{digits}f} ± {error:.{digits}f} ({score['kind']}, {score['n']:,} images)", value <= most

    return found


def bits(most: float, *words: str) -> Measure:
    """The bound, in bits/dim."""
    return Measure(("score", *words), f"≤ {most} bits/dim" if most < 99 else "", at_most(most, "bits_per_dim"))


def nats(most: float, how: str, *words: str) -> Measure:
    """The bound, in nats."""
    return Measure(("score", *words), f"≤ {most} nats{how}", at_most(most, "nats"))


def readable(least: float, recall: float, *words: str) -> Measure:
    """Readable samples relative to readable images, the χ² test of their classes, and recall; of 2,000 samples."""

    def found(result: dict[str, Any]) -> tuple[str, bool]:
        modes, quality = result["modes"], result["quality"]
        share, near = modes["readable"] / modes["readable_images"], quality["recall"]["value"]
        shown = f"{share:.3f} as readable, p = {modes['p_value']:.3g}, recall {near:.3f}"
        distance = quality[f"FD-{result['features']}"]["value"]
        return f"{shown}, FD {distance:.2f}", share >= least and modes["p_value"] >= 0.01 and near >= recall

    asked = f"≥ {least} as readable as images, p ≥ 0.01, recall ≥ {recall}"
    return Measure(("evaluate", "--samples", "2000", *words), asked, found)


def distance(result: dict[str, Any]) -> tuple[str, bool]:
    """The Fréchet distance in the set's own features, recall, and memorisation."""
    quality = result["quality"]
    value, copies = quality[f"FD-{result['features']}"], quality["memorisation"]["value"]
    return f"FD {value['value']:.2f}, recall {quality['recall']['value']:.3f}, memorisation {copies:.3f}", True


def classified(result: dict[str, Any]) -> tuple[str, bool]:
    """The share of labels that are right, and the time of an image."""
    right, each = result["right"], 1000 * result["seconds"] / result["n"]
    shown = f"{right['value']:.4f} ± {right['stderr']:.4f} right, {result['undecided']:.3f} undecided, {each:.0f} ms"
    return f"{shown} an image, {result['n']:,} images", right["value"] >= 0.985 and each <= 20


CLASSIFIED = Measure(("classify",), "≥ 0.985 right, ≤ 20 ms an image", classified)
DRAWN = Measure(("evaluate", "--samples", "2000"), "", distance)
NELBO_DATA = Path(os.environ.get("NELBO_DATA", "."))
CIFAR, EMOJI = NELBO_DATA / "cifar10-jpeg", NELBO_DATA / "emoji"
"""Folders of colour photographs of 32×32, and of colour pictures of 64×64 with alpha; without them no such rows."""
TARGETS = {
    "ddpm": Target(10, ("ddpm", *MNIST), (readable(0.95, 0.75), bits(1.05, "--limit", "2000")), drawn=True),
    "ddpm-30": Target(30, ("ddpm", *MNIST), (readable(0.98, 0.75), bits(1.05, "--limit", "2000"))),
    "vdm": Target(10, ("vdm", *MNIST), (bits(0.95, "--limit", "2000"), readable(0.65, 0.75)), drawn=True),
    "ddpm-labels": Target(
        10,
        ("ddpm", *LABELLED),
        (readable(0.98, 0.0, "--label", "all"), bits(1.05, "--limit", "2000"), CLASSIFIED),
        drawn=True,
    ),
    "ddpm-labels-4": Target(
        5, ("--steps", "4"), (readable(0.98, 0.75),), drawn=True, teacher="ddpm-labels", timed=True
    ),
    "vdm-labels": Target(10, ("vdm", *LABELLED), (CLASSIFIED, bits(100, "--limit", "2000"))),
    "vae-binary": Target(
        22,
        ("vae", *BINARY, "--latent", "50", *BATCH),
        (nats(86.0, " by 5,000 importance samples", "--form", "iw", "--k", "5000", *FEW),),
    ),
    "hvae-binary": Target(
        25, ("hvae", *BINARY, "--stream", "--depth", "10", *BATCH, "--weight-decay", "0.1"), (nats(82.0, ""),)
    ),
    "vae": Target(9, ("vae", *MNIST, "--latent", "64", *BATCH), (bits(1.35),)),
    "hvae": Target(14, ("hvae", *MNIST, "--stream", *BATCH), (bits(1.25),)),
    "gan": Target(14, ("gan", *MNIST), (readable(0.98, 0.0, "--temperature", "0.7"),), drawn=True),
}
if CIFAR.is_dir():
    TARGETS["cifar10-jpeg"] = Target(30, ("ddpm", "--data", str(CIFAR)), (DRAWN, bits(100)), drawn=True)
if EMOJI.is_dir():
    SMALLER = ("--size", "32x32", "--fit", "resize")
    TARGETS["emoji-32"] = Target(30, ("ddpm", "--data", str(EMOJI), *SMALLER), (DRAWN, bits(100)), drawn=True)
    TARGETS["emoji-64"] = Target(30, ("ddpm", "--data", str(EMOJI)), (DRAWN, bits(100)), drawn=True)


def command(*words: str) -> str:
    """Run a command of nelbo; returns what it printed."""
    done = subprocess.run([sys.executable, "-m", "nelbo", *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def measured(name: str, target: Target, runs: Path) -> list[dict[str, Any]]:
    """Train the run if it does not exist, draw, measure, and return the rows of the table."""
    run = runs / f"target-{name}"
    if not run.exists():
        command(*target.made(str(run), str(runs)))
    if target.drawn:
        picture = IMAGES / f"target-{name}.png"
        picture.unlink(missing_ok=True)
        command("sample", str(run), "-n", "64", "--real", "--out", str(picture))
    facts = json.loads(command("info", str(run), "--json"))
    rows: list[tuple[tuple[str, ...], dict[str, Any]]] = []
    for measure, asked, found in target.measures:
        if measure[0] == "evaluate" and not target.teacher:  # the features of these images, if they are not there yet
            command("features", *(word for word in target.train[1:] if word != "--labels"))
        words, reached = found(json.loads(command(measure[0], str(run), *measure[1:], "--json")))
        rows.append((measure, {"asked": asked, "found": words, "reached": reached if asked else None}))
    if target.timed:
        seconds = timed(run)
        taken = f"{seconds:.2f} s, with the model in memory"
        row = {"asked": f"{FEW_SAMPLES} samples in ≤ 1 s", "found": taken, "reached": seconds <= 1}
        rows.append((("sample", "-n", str(FEW_SAMPLES)), row))
    common = {
        "name": name,
        "parameters": facts["parameters"],
        "steps": facts["step"],
        "minutes": facts["training_seconds"] / 60,
        "picture": target.drawn,
        "code": CODE,
        "day": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} {processor()} cores",
    }
    made = shown(" ".join(("nelbo", *target.made("RUN", "runs"))))
    return [common | row | {"commands": [made, told(words)]} for words, row in rows]


def told(words: tuple[str, ...]) -> str:
    """The command that measures a run, for the page."""
    return " ".join(("nelbo", words[0], "RUN", *words[1:]))


def timed(run: Path) -> float:
    """The median of the seconds of a few samples in a process that has loaded the run and drawn before."""
    model, seconds = nelbo.load(run), []
    for seed in range(6):
        start = time.perf_counter()
        model.sample(FEW_SAMPLES, seed=seed)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def shown(command: str) -> str:
    """The command with folders of this machine as placeholders."""
    return command.replace(f"{NELBO_DATA}/", "")


def processor() -> str:
    """The maker of the processor, and bf16 if it computes with it."""
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    maker = next((name for name in ("AMD", "Intel") if name in described), platform.machine())
    return f"{maker}{' bf16' if 'avx512_bf16' in described else ''}"


def document(rows: list[dict[str, Any]]) -> str:
    """docs/targets.md."""
    whole = {row["name"] for row in rows if row["code"] == CODE} >= set(TARGETS)
    lines = [
        f"# Targets{'' if whole else ': some rows are to be measured again (history)'}",
        "Results of each family on two cores, by `make targets`; nothing was tuned on the test split. Training lasts",
        f"for minutes, so that the machine matters; torch is {torch.__version__}. *Code* is nelbo's version, and the",
        f"revision of its diffusion networks; the present ones are {CODE}. Static and dynamic binarisation are not",
        "mixed: nats are for images binarised once with a fixed seed; training images are binarised at every step.",
        "",
        "| run | asked | found | reached | parameters | steps | minutes | machine | code | day |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        reached = {None: "", True: "yes", False: "**no**"}[row["reached"]]
        lines.append(
            f"| {row['name']} | {row['asked']} | {row['found']} | {reached} | {row['parameters'] / 1e6:.2f} M "
            f"| {row['steps']:,} | {row['minutes']:.0f} | {row['machine']} | {row['code']} | {row['day']} |"
        )
    lines += ["", "| run | commands |", "| --- | --- |"]
    lines += [f"| {row['name']} | `{'`, `'.join(row['commands'])}` |" for row in rows]
    for name in dict.fromkeys(row["name"] for row in rows if row["picture"]):
        lines += ["", f"`{name}`, real images beside it:", "", f"![samples of {name}](images/target-{name}.png)"]
    return "\n".join(lines) + "\n"


def kept() -> list[dict[str, Any]]:
    """The results of earlier calls."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []


def keep(name: str, found: list[dict[str, Any]], page: Path) -> None:
    """Put a run's results in place of its earlier ones, in the order of TARGETS, and write the page."""
    order = list(TARGETS)
    rows = [row for row in kept() if row["name"] != name and row["name"] in order] + found
    rows.sort(key=lambda row: order.index(row["name"]))
    replace_text(KEPT, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    remarks = page.read_text(encoding="utf-8").partition(REMARKS)[2] if page.exists() else ""
    page.write_text(document(rows) + (REMARKS + remarks if remarks else ""), encoding="utf-8")


def main() -> None:
    """Measure the named targets, or all that the present code has not measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS], default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--write", type=Path, default=Path("docs/targets.md"))
    given = parser.parse_args()
    done = {row["name"] for row in kept() if row["code"] == CODE}
    for name in given.names or [name for name in TARGETS if name not in done]:
        keep(name, measured(name, TARGETS[name], given.runs), given.write)
    print(document(kept()))


if __name__ == "__main__":
    main()
