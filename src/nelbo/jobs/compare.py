"""Put runs side by side: one HTML page, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nelbo.errors import InputError, nearest
from nelbo.jobs.describe import describe_run
from nelbo.jobs.run import Run
from nelbo.models.base import GenerativeModel, LikelihoodModel, SampleSettings
from nelbo.report.page import page
from nelbo.report.paths import free
from nelbo.report.pictures import grid
from nelbo.report.progress import bar
from nelbo.training.checkpoint import replace_text

SAMPLES = 36
SPLITS = ("train", "val", "test", "all")


def compare(paths: Sequence[str | Path], out: str | Path = "compare", *, split: str = "test") -> dict[str, Any]:
    """Compare runs by what RUN/scores holds and by samples from the same seeds. Running it twice gives the same page.

    Args:
        paths: the run directories.
        out: the folder that gets ``index.html`` and ``compare.json``; it must not exist, or be such a folder.
        split: whose scores to show.

    Returns:
        What ``compare.json`` holds.

    Raises:
        InputError: no runs, one that cannot be read, or a folder with something else in it.
    """
    if not paths:
        raise InputError("RUN", "name at least one run")
    if split not in SPLITS:
        known = ", ".join(SPLITS)
        raise InputError("--split", f"{split!r} is not a split{nearest(split, SPLITS)} (splits: {known})")
    folder = Path(out)
    if not (folder / "compare.json").exists():
        free(folder, "--out")
    runs = [Run(path) for path in paths]
    models = [run.model() for run in runs]
    found = [facts(run, model, split) for run, model in zip(runs, models, strict=True)]
    pictures = []
    with bar("drawing samples", len(runs)) as progress:
        for model in models:
            pictures.append(grid(model.sample(SAMPLES), model.levels))
            progress.advance(progress.task_ids[0])
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "index.html", page(found, pictures))
    replace_text(folder / "compare.json", json.dumps({"runs": found}, indent=1))
    return {"runs": found}


def facts(run: Run, model: GenerativeModel, split: str) -> dict[str, Any]:
    """What the page says of one run."""
    known, score = describe_run(run), best_score(run, split)
    why = f"not scored yet: nelbo score {run.path}"
    if not isinstance(model, LikelihoodModel):
        why = f"no bits/dim: {model.why_no_bound}"
    return {
        "name": run.path.name,
        "family": run.config.family,
        "step": known["step"],
        "parameters": known["parameters"],
        "training_seconds": known["training_seconds"],
        "score": score,
        "why": why,
        "sampling": model.describe_sampling(SampleSettings()),
        "evaluations_per_sample": model.sample_evaluations,
        "curve": curve(run),
    }


def best_score(run: Run, split: str) -> dict[str, Any] | None:
    """Of the latest checkpoint's scores on the run's own data in the default form, the one on the most images."""
    found = []
    for file in sorted((run.path / "scores").glob(f"{split}-*.json")):
        try:
            score = json.loads(file.read_text())
        except ValueError:
            continue
        own = score.get("data_sha256") == run.config.images.sha256 and score.get("step") == run.step
        if own and score.get("kind") in ("bound", "none") and "T" not in score:
            found.append(score)
    return max(found, key=lambda score: (score["n"], score.get("evaluations", 0)), default=None)


def curve(run: Run) -> list[tuple[float, float]]:
    """(seconds, bits/dim on ``val``) of each look while training."""
    points, seconds = [], 0.0
    try:
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        seconds = row.get("seconds", seconds)
        if "val_bits_per_dim" in row:
            points.append((seconds, row["val_bits_per_dim"]))
    return points
