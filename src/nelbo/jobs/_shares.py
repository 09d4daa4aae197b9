"""Samples and scores of all images, of which each process computes its share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.jobs.run import Run
from nelbo.metrics import LikelihoodScore, Profile, score_likelihood, score_profile
from nelbo.metrics.quality import in_batches
from nelbo.models._diffusion import DiffusionModel
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.processes import join
from nelbo.report.progress import bar


def opened(path: str | Path) -> Run:
    """A run, at the checkpoint that is the main process's latest: it may be training on."""
    team, run = join(), Run(path)
    name = team.from_main(lambda: run.checkpoint.name.encode()).decode()
    run.checkpoint = run.path / "checkpoints" / name
    return run


def shared_score(model: LikelihoodModel, images: Tensor, title: str, replicates: int, **how: Any) -> LikelihoodScore:
    """The score of all images, as :func:`~nelbo.metrics.score_likelihood`, with a progress bar."""
    team, n = join(), len(images)
    rows = team.share(n)
    with bar(title, replicates * len(rows)) as progress:
        own = score_likelihood(
            model,
            images,
            rows=rows,
            replicates=replicates,
            progress=lambda done: progress.update(progress.task_ids[0], completed=done),
            **how,
        )
        terms, beside = (
            {name: team.together(values, n) for name, values in part.items()} for part in (own.terms, own.beside)
        )
    (evaluations,) = team.greatest([own.evaluations])
    return replace(own, terms=terms, beside=beside, evaluations=int(evaluations))


def shared_profile(model: DiffusionModel, images: Tensor, **how: Any) -> Profile:
    """The profile of all images, as :func:`~nelbo.metrics.score_profile`."""
    team = join()
    own = score_profile(model, images, rows=team.share(len(images)), **how)
    return replace(own, nats=team.together(own.nats, len(images)))


def shared_samples(model: GenerativeModel, n: int) -> Tensor:
    """The first n images of seed 0, integer levels, uint8, shape (n, C, H, W)."""
    team = join()
    share = team.share(n)
    return team.together(model.sample(len(share), start=share.start), n)


@torch.no_grad()
def shared_measures(model: GenerativeModel, images: Tensor) -> dict[str, Tensor]:
    """What a family without a bound measures of each image, as :meth:`GenerativeModel.measures`."""
    team, n = join(), len(images)
    share = team.share(n)
    own = model.eval().measures(images[share.start : share.stop], share.start)
    return {name: team.together(values, n) for name, values in own.items()}


def shared_rows(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What ``function`` makes of each image, as :func:`~nelbo.metrics.quality.in_batches`."""
    team = join()
    share = team.share(len(images))
    return team.together(in_batches(function, images[share.start : share.stop]), len(images))
