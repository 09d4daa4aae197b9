"""Comparable stored scores of several runs: those of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from nelbo.jobs._digest import digests
from nelbo.jobs.kept import read_kept
from nelbo.jobs.run import Run
from nelbo.jobs.score import score
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.report.results import ComparedRun, Evaluation, Score

R = TypeVar("R", Score, Evaluation)
ESTIMATE = ("data_sha256", "split", "n", "form", "timesteps", "k", "replicates", "seed")
"""The fields that distinguish scores of one model on its own data."""


def kept_results(run: Run, split: str, result: type[R], kind: str) -> list[R]:
    """The results in RUN/scores of this kind, on the run's own data, with its latest EMA weights and this code.

    Args:
        run: the run.
        split: the split of its data.
        result: the class of the results.
        kind: the value of their field ``kind``.
    """
    own = {"data_sha256": run.config.images.sha256, "weights": "ema", "kind": kind, **digests(run, "ema")}
    found = []
    for file in sorted((run.path / "scores").glob(f"{split}-*.json")):
        known = read_kept(file, result)
        if known is not None and "T" not in known.model_fields_set and known.as_dict().items() >= own.items():
            found.append(known.model_copy(update={"file": file.name}))
    return found


def widest(scores: Sequence[Score]) -> Score | None:
    """The score of the most images; among equals, the one with the most evaluations."""
    return max(scores, key=lambda each: (each.n, each.evaluations or 0), default=None)


def images_of(known: Score) -> tuple[str, str, int]:
    """The images of a score. Their hash includes shape and levels."""
    return known.data_sha256, known.split, known.n


def scores_of(
    runs: Sequence[Run], models: Sequence[GenerativeModel], split: str, compute: bool, limit: int | None
) -> list[Score | None]:
    """The score to show of each run; of the same images if possible.

    Args:
        runs, models: the runs, and their models.
        split: the split of the data.
        compute: whether to measure every bound with the same settings: the same images for runs of the same data, the
            family's first form, the default number of t and replicates, seed 0. Stored results are reused.
        limit: the number of images; None for the largest number of any earlier score on the same data, or else all.
    """
    kinds = [next(iter(m.forms.values())).kind if isinstance(m, LikelihoodModel) else "none" for m in models]
    kept = [kept_results(run, split, Score, kind) for run, kind in zip(runs, kinds, strict=True)]
    bounded = [i for i, kind in enumerate(kinds) if kind != "none"]
    if compute:
        most: dict[str, int] = {}
        for i in bounded:
            data = runs[i].config.images.sha256
            most[data] = max([most.get(data, 0), *(each.n for each in kept[i])])
        for i in bounded:
            asked = score(runs[i].path, split=split, limit=limit or most[runs[i].config.images.sha256] or None)
            own = kept_results(runs[i], split, Score, kinds[i])
            kept[i] = [each for each in own if all(getattr(each, name) == getattr(asked, name) for name in ESTIMATE)]
    scored = [{images_of(each) for each in kept[i]} for i in bounded if kept[i]]
    common = set.intersection(*scored) if scored else set()
    if common:
        best = max(common, key=lambda images: images[-1])
        for i in bounded:
            kept[i] = [each for each in kept[i] if images_of(each) == best]
    return [widest(own) for own in kept]


def unlike(runs: Sequence[ComparedRun]) -> str | None:
    """A line that explains why the runs cannot be ranked, or None if all are of the same images."""
    data = {run.data_sha256 for run in runs}
    bounds = [None if run.score is None or run.score.bits_per_dim is None else run.score for run in runs]
    if len(data) < 2 and len({images_of(known) for known in bounds if known is not None}) < 2:
        return None
    listed = "; ".join(
        f"{run.name}: {run.data} {'×'.join(map(str, run.shape))}, {run.levels} levels, {run.split}, "
        + ("not scored" if known is None else f"{known.n:,} images")
        for run, known in zip(runs, bounds, strict=True)
    )
    fix = (
        "bits/dim of different data cannot be compared"
        if len(data) > 1
        else "'nelbo compare --score' scores all on the same images"
    )
    return f"not of the same images, so there is no ranking and no difference ({listed}); {fix}"
