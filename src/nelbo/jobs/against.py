"""A model as an anomaly detector: its score of other images against images of its own data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nelbo.errors import InputError, nearest
from nelbo.jobs.run import Run
from nelbo.metrics import LikelihoodScore, ProfileDetector, auroc, score_profile
from nelbo.models._diffusion import DiffusionModel
from nelbo.models.base import LikelihoodModel
from nelbo.report.progress import bar

PIECES, REFERENCE = 16, 1000
SPLITS = ("train", "val", "test")


def require_against(against: str, other: bool) -> None:
    """Check what ``--against`` may get wrong, before anything is computed.

    Raises:
        InputError: no other data, or no such split.
    """
    if not other:
        raise InputError("--against", "compares other data with the run's own; name them with --data")
    if against not in SPLITS:
        raise InputError(
            "--against", f"{against!r} is not a split{nearest(against, SPLITS)} (splits: train, val, test)"
        )


def detection(
    run: Run,
    model: LikelihoodModel,
    other: Tensor,
    result: LikelihoodScore,
    against: str,
    limit: int | None,
    measure: Callable[[Tensor, str], LikelihoodScore],
) -> dict[str, Any]:
    """AUROC of the total, and of the profile over t where there is one; above ½ where the other images look stranger.

    Args:
        run: the run.
        model: its model.
        other: the other images, the anomalies.
        result: their score.
        against: the split of the run's own data that is normal.
        limit: images of that split, at most.
        measure: how a set of images is scored.
    """
    normal = run.dataset.split(against)[:limit]
    of_normal = measure(normal, f" of {against}")
    totals = auroc(result.estimates().mean(1), of_normal.estimates().mean(1))
    found: dict[str, Any] = {
        "split": against,
        "n": len(normal),
        "bits_per_dim": of_normal.bits(),
        "auroc_total": totals.value,
        "auroc_total_stderr": totals.stderr,
    }
    if isinstance(model, DiffusionModel):
        reference = run.dataset.split("val")[:REFERENCE]
        with bar("profiles over t", len(reference) + len(normal) + len(other)) as progress:
            done, profiles = 0, []
            for images in (reference, normal, other):

                def tell(count: int, before: int = done) -> None:
                    progress.update(progress.task_ids[0], completed=before + count)

                profiles.append(score_profile(model, images, pieces=PIECES, seed=1, progress=tell).nats)
                done += len(images)
        detector = ProfileDetector(profiles[0])
        shape = auroc(detector.distance(profiles[2]), detector.distance(profiles[1]))
        found |= {"auroc_profile": shape.value, "auroc_profile_stderr": shape.stderr}
    return found
