"""Compare runs on one HTML page, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nelbo.config.names import METRICS
from nelbo.data import Dataset
from nelbo.errors import InputError, nearest
from nelbo.files import replace_text
from nelbo.jobs._digest import digests
from nelbo.jobs._protocol import images_of, kept_results, scores_of, unlike
from nelbo.jobs.describe import describe_run
from nelbo.jobs.kept import Answer, kept
from nelbo.jobs.resume import require_unchanged
from nelbo.jobs.run import Run
from nelbo.jobs.sample import collect, real_images
from nelbo.jobs.sharded import opened, shared_profile
from nelbo.metrics import stderr_of_mean
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.models.diffusion import Diffusion
from nelbo.models.sampling import SampleSettings
from nelbo.processes import join, rank
from nelbo.report.page import Pictures, page
from nelbo.report.paths import free, reachable
from nelbo.report.pictures import grid
from nelbo.report.progress import bar, console
from nelbo.report.results import ComparedRun, Comparison, DiffusionProfile, Evaluation, PairedDifference, Score
from nelbo.theory.likelihoods import to_levels
from nelbo.units import bits_per_dim

SAMPLES = 36
SHOWN = 8
PROFILED, PIECES = 64, 32
STRIPS, COLUMNS = 4, 8
SPLITS = ("train", "val", "test", "all")


def compare(
    paths: Sequence[str | Path | Run],
    out: str | Path = "compare",
    *,
    split: str = "test",
    score: bool = False,
    limit: int | None = None,
) -> Comparison:
    """Compare runs by their stored scores and by samples from the same seeds. A repeated call gives the same page.

    Args:
        paths: the runs, or their directories.
        out: the folder for ``index.html`` and ``compare.json``; new, or with a ``compare.json``.
        split: the split of the scores.
        score: whether to compute missing scores, so that runs of the same data are scored on the same images.
        limit: with ``score``, the number of images; None for the largest number of any earlier score.

    Returns:
        The contents of ``compare.json``.

    Raises:
        InputError: there are no runs, a run cannot be read, or the folder has other contents.
    """
    folder = Path(out)
    require_comparable(paths, folder, split)
    if limit is not None and not (score and limit >= 1):
        raise InputError("limit", "is the number of images for `score`, at least 1; add `score`, or leave it out")
    runs = [opened(path) for path in paths]
    for run in runs:
        say_what_is_missing(run)
    models = [run.model() for run in runs]
    scores = scores_of(runs, models, split, score, limit)
    found = [facts(run, model, split, own) for run, model, own in zip(runs, models, scores, strict=True)]
    whole = Comparison(runs=found, differences=differences(runs, scores), unlike=unlike(found))
    pictures = [pictures_of(run, model, split) for run, model in zip(runs, models, strict=True)]
    if rank() == 0:
        replace_text(folder / "index.html", page(whole.as_dict(), pictures))
        replace_text(folder / "compare.json", whole.to_json(indent=1))
    return whole


def require_comparable(paths: Sequence[str | Path | Run], folder: Path, split: str) -> None:
    """Check the runs and the folder before anything is read.

    Raises:
        InputError: there are no runs, the split is unknown, or the folder has other contents.
    """
    if not paths:
        raise InputError("RUN", "name at least one run")
    if split not in SPLITS:
        known = ", ".join(SPLITS)
        raise InputError("split", f"{split!r} is not a split{nearest(split, SPLITS)} (splits: {known})")
    if not (folder / "compare.json").exists():
        free(folder, "out")
        reachable(folder, "out")


def pictures_of(run: Run, model: GenerativeModel, split: str) -> Pictures:
    """Samples of a run, pictures of how it works, and images of its data, if available."""
    drawn, _ = collect(model, SAMPLES, 0, SampleSettings(), SAMPLES, keep_frames=False, of=f" of {run.path.name}")
    real = unseen(run, lambda dataset: real_images(dataset, split, SAMPLES))
    with bar(f"how {run.path.name} works", None):
        views = inside(model, None if real is None else real[:SHOWN])
    return Pictures(grid(drawn, model.levels), views, None if real is None else grid(real, model.levels))


def facts(run: Run, model: GenerativeModel, split: str, score: Score | None) -> ComparedRun:
    """The facts about one run on the page."""
    known, images = describe_run(run), run.config.images
    if isinstance(model, LikelihoodModel):
        why = None if score else f"not scored yet: use nelbo score {run.path}, or nelbo compare --score"
    else:
        why = f"no bits/dim: {model.inspector.why_no_bound}"
    evaluations = kept_results(run, split, Evaluation, "samples")
    samples = max(evaluations, key=lambda each: (each.n, each.samples), default=None)
    return ComparedRun(
        name=run.path.name,
        family=run.config.family,
        data=images.name,
        data_sha256=images.sha256,
        shape=images.shape,
        levels=images.levels,
        split=split,
        step=known["step"],
        parameters=known["parameters"],
        training_seconds=known["training_seconds"],
        score=score,
        samples=samples,
        why=why,
        sampling=model.inspector.describe_sampling(SampleSettings()),
        evaluations_per_sample=model.inspector.sample_evaluations,
        curve=curve(run),
        diffusion_profile=diffusion_profile(run, model, split),
    )


def diffusion_profile(run: Run, model: GenerativeModel, split: str) -> dict[str, list[float]] | None:
    """bits/dim of each piece of t on a few images, stored in RUN/scores; None if the bound has no t."""
    images = unseen(run, lambda dataset: dataset.split(split)[:PROFILED])
    if not isinstance(model, Diffusion) or not model.timeline.has_terms or images is None:
        return None
    asked = {
        "family": run.config.family,
        "data_sha256": run.dataset.sha256,
        "split": split,
        "n": len(images),
        "step": run.step,
        **digests(run, "ema"),
        "pieces": PIECES,
    }

    def answer() -> Answer:
        profile = shared_profile(model, images, f"profile over t of {run.path.name}", pieces=PIECES)
        bits, stderr = profile.bits()
        edges = profile.edges.tolist()
        return {"kind": "profile", "edges": edges, "bits": bits.tolist(), "stderr": stderr.tolist()}, None

    return kept(run, DiffusionProfile, asked, answer).model_dump(include={"edges", "bits", "stderr"})


def differences(runs: Sequence[Run], scores: Sequence[Score | None]) -> list[PairedDifference]:
    """run − other in bits/dim, with its error, for each pair of runs with scores of the same images.

    The error is that of a mean over distinct images, and includes the Monte Carlo error of both scores.
    """
    scored = [(run, known, totals(run, known)) for run, known in zip(runs, scores, strict=True) if known is not None]
    pairs = []
    for (one, score, a), (other, its, b) in combinations(scored, 2):
        if a is None or b is None or len(a) != len(b) or images_of(score) != images_of(its):
            continue
        difference = bits_per_dim(1.0, score.dims) * (a - b)
        stderr = stderr_over_images(runs, score, torch.from_numpy(difference).double())
        mean = float(difference.mean())
        pairs.append(PairedDifference(run=one.path.name, other=other.path.name, n=len(a), value=mean, stderr=stderr))
    return pairs


def stderr_over_images(runs: Sequence[Run], score: Score, each: Tensor) -> float | None:
    """The standard error of a mean over the images of a score; None if their copies are unknown."""
    if score.n_distinct == score.n:
        return stderr_of_mean(each)
    for run in runs:
        try:
            if run.dataset.sha256 == score.data_sha256:
                return stderr_of_mean(each, run.dataset.copies(score.split)[: score.n])
        except InputError:
            continue
    return None


def totals(run: Run, score: Score) -> np.ndarray | None:
    """The nats of each image of a score, if stored."""
    if score.bits_per_dim is None or score.file is None:
        return None
    try:
        each = np.load(run.path / "scores" / Path(score.file).with_suffix(".npy"), allow_pickle=False)
    except (OSError, ValueError):
        return None
    return each if each.shape == (score.n,) and each.dtype.kind == "f" else None


def say_what_is_missing(run: Run) -> None:
    """Print a line if the run's images cannot be read or have changed; the page then lacks pictures of them."""
    if run.changed_data is not None:
        console().print(f"{run.path}: {run.changed_data}")
    try:
        require_unchanged(run)
    except InputError as error:
        console().print(f"{run.path}: {error}")


def unseen(run: Run, choose: Callable[[Dataset], Tensor]) -> Tensor | None:
    """Images of the run's data; None if any process cannot read them, or if they have changed."""
    try:
        found: Tensor | None = choose(run.dataset) if run.dataset.sha256 == run.config.images.sha256 else None
    except InputError:
        found = None
    (missing,) = join().greatest([found is None])
    return None if missing else found


@torch.no_grad()
def inside(model: GenerativeModel, images: Tensor | None) -> list[tuple[str, Image.Image]]:
    """Pictures of how a model works: the family's own, and the states from noise to image."""
    views = [] if images is None else model.inspector.views(images)
    shown = [(title, grid(to_levels(x, model.levels).cpu(), model.levels, columns)) for title, x, columns in views]
    stages = list(model.frames(range(STRIPS), 0, model.inspector.preview_settings))
    if len(stages) > 1:
        some = [stages[round(i * (len(stages) - 1) / (COLUMNS - 1))].x_0 for i in range(COLUMNS)]
        strip = torch.stack(some, 1).flatten(0, 1)
        shown.append(("x̂_0 from noise to image", grid(to_levels(strip, model.levels).cpu(), model.levels, COLUMNS)))
    return shown


def curve(run: Run) -> list[tuple[float, float]]:
    """(seconds, bits/dim on ``val``) of each preview during training."""
    points, seconds = [], 0.0
    try:
        lines = (run.path / METRICS).read_text().splitlines()
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
