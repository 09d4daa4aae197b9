"""Samples and scores of all images, divided between the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.cores import on_own_cores
from nelbo.jobs.run import Run
from nelbo.metrics import LikelihoodScore, Profile, score_likelihood, score_profile
from nelbo.metrics.quality import in_batches
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.models.diffusion import Diffusion
from nelbo.processes import join
from nelbo.report.progress import Bar, bar

ROWS = 512
"""Images per batch of features."""


def opened(path: str | Path | Run) -> Run:
    """A run at the main process's latest checkpoint, since its training may continue."""
    team, run = join(), Run(path) if isinstance(path, str | Path) else path.reopened()
    name = team.from_main(lambda: run.checkpoint.name.encode()).decode()
    run.checkpoint = run.path / "checkpoints" / name
    return run


def shared_score(model: LikelihoodModel, images: Tensor, title: str, replicates: int, **how: Any) -> LikelihoodScore:
    """The score of all images, like :func:`~nelbo.metrics.score_likelihood`, with a progress bar."""
    team, n = join(), len(images)
    rows = team.share(n)
    with bar(title, replicates * len(rows)) as progress, inside_batches(model, progress, len(rows), how) as move:
        own = score_likelihood(model, images, rows=rows, replicates=replicates, progress=move, **how)
        terms, extras = (
            {name: team.together(values, n) for name, values in part.items()} for part in (own.terms, own.extras)
        )
    (evaluations,) = team.greatest([own.evaluations])
    return replace(own, terms=terms, extras=extras, evaluations=int(evaluations))


@contextmanager
def inside_batches(
    model: LikelihoodModel, progress: Bar, n: int, how: Mapping[str, Any]
) -> Iterator[Callable[[int], None]]:
    """Move the bar also within a batch, which may take minutes, by the images that have passed through the network.

    Args:
        model: the model; its compilable networks are observed.
        progress: the bar, in images, the replicates one after another.
        n: images of a replicate.
        how: form, timesteps, k and batch of :func:`shared_score`.

    Yields:
        A function to call with the number of images done.
    """
    form = model.forms[how["form"]]
    steps = model.forms.count(form, how["timesteps"], how["k"])
    each = float(steps if form.counts == "timesteps" else max(1, steps) * (model.forms.all_timesteps or 1))
    done = seen = 0

    def see(network: nn.Module, given: Any, found: Tensor) -> None:
        nonlocal seen
        seen += len(found)
        progress.move(done + min(seen / each, 0.95 * min(how["batch"], n - done % n)))

    def move(now: int) -> None:
        nonlocal done, seen, each
        if seen:
            each = seen / (now - done)
        done, seen = now, 0
        progress.move(done)

    hooks = [network.register_forward_hook(see) for network in model.recipe.compilable]
    try:
        yield move
    finally:
        for hook in hooks:
            hook.remove()


def shared_profile(model: Diffusion, images: Tensor, title: str, **how: Any) -> Profile:
    """The profile of all images, like :func:`~nelbo.metrics.score_profile`, with a progress bar."""
    team = join()
    rows = team.share(len(images))
    with bar(title, len(rows)) as progress:
        own = score_profile(model, images, rows=rows, progress=progress.move, **how)
    return replace(own, nats=team.together(own.nats, len(images)))


@on_own_cores()
@torch.no_grad()
def shared_measures(model: GenerativeModel, images: Tensor) -> dict[str, Tensor]:
    """The measures of each image for a family without a bound, like :meth:`GenerativeModel.measures`."""
    team, n = join(), len(images)
    share = team.share(n)
    with bar(f"measuring {n:,} images", None):
        own = model.eval().inspector.measures(images[share.start : share.stop], share.start)
    return {name: team.together(values, n) for name, values in own.items()}


def shared_rows(function: Callable[[Tensor], Tensor], images: Tensor, title: str) -> Tensor:
    """``function`` of each image, like :func:`~nelbo.metrics.quality.in_batches`, with a progress bar."""
    team = join()
    share, parts = team.share(len(images)), []
    with bar(title, len(share)) as progress:
        for part in torch.split(images[share.start : share.stop], ROWS):
            parts.append(in_batches(function, part))
            progress.move(sum(map(len, parts)))
    return team.together(torch.cat(parts), len(images))
