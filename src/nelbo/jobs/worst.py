"""The page of ``nelbo score RUN --worst N``: the images of the highest bits/dim, with the bits of their pixels."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nelbo.files import replace_text
from nelbo.jobs.score_request import Estimation, ScoreRequest
from nelbo.jobs.threshold import Limit
from nelbo.metrics import PixelScore, score_pixels
from nelbo.models.base import LikelihoodModel
from nelbo.processes import join
from nelbo.report.paths import unused
from nelbo.report.pictures import over_checks, picture
from nelbo.report.progress import bar
from nelbo.report.results import Score
from nelbo.report.worst import Strange, worst_page
from nelbo.units import bits_per_dim


def write_worst(
    request: ScoreRequest, model: LikelihoodModel, how: Estimation, score: Score, each: Tensor, limit: Limit
) -> str:
    """Write the page; the main process computes it. Returns its path.

    Args:
        request: the request of the score.
        model: the model, in the requested number of steps.
        how: how the bound is estimated.
        score: the score of the images.
        each: nats of each image, shape (n,).
        limit: the threshold.
    """

    def written() -> bytes:
        page = worst_page(*strangest(request, model, how, each, limit), score, limit.threshold, limit.why_none)
        out = request.options.out or unused(request.run.path / "scores", f"worst-{request.options.split}", ".html")
        replace_text(Path(out), page)
        return str(out).encode(errors="surrogateescape")

    return join().from_main(written).decode(errors="surrogateescape")


def strangest(
    request: ScoreRequest, model: LikelihoodModel, how: Estimation, each: Tensor, limit: Limit
) -> tuple[list[Strange], Strange]:
    """The images of the highest bits/dim, the highest first; and the one in the middle of the order."""
    order = each.argsort(descending=True, stable=True).tolist()
    rows = [*order[: request.options.worst], order[len(order) // 2]]
    with bar(f"bits of the pixels of {len(rows):,} images", len(rows) * how.replicates) as progress:
        found = score_pixels(
            model,
            request.images,
            rows,
            seed=request.options.seed,
            timesteps=how.timesteps or None,
            replicates=how.replicates,
            batch=request.batch,
            form=how.form,
            k=how.k or 1,
            progress=progress.move,
        )
    *first, middle = (strange(request, row, found, i, limit) for i, row in enumerate(rows))
    return first, middle


def strange(request: ScoreRequest, row: int, found: PixelScore, i: int, limit: Limit) -> Strange:
    """Image ``row`` of the split, which is number ``i`` of the pixel score, for the page."""
    source, label, split = request.dataset.origin(request.options.split, row)
    own = request.dataset.sha256 == request.run.config.images.sha256
    where = f"row {source}" if str(source).isdecimal() else str(source) or f"image {row}"
    name = ", ".join([where, *[f"class {label}"] * bool(label), *[f"{split} split"] * own])
    total, dims = found.total.mean(1)[i], request.model.dims
    return Strange(
        name=name,
        picture=over_checks(picture(request.images[row], request.dataset.levels)),
        bits=bits_per_dim(float(total), dims),
        stderr=bits_per_dim(float(found.stderr[i]), dims),
        over=None if limit.threshold is None else bool(total > limit.threshold.nats),
        pixels={name: each[i].sum(0) * bits_per_dim(1.0, 1) for name, each in found.pixels.items()},
        others={
            name: bits_per_dim(float(term[i].mean()), 1)
            for name, term in found.terms.items()
            if name not in found.pixels
        },
    )
