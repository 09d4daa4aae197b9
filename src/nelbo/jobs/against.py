"""A model as an anomaly detector: its score of other images against images of its own data."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nelbo.data import Dataset
from nelbo.errors import InputError, nearest
from nelbo.jobs.run import Run
from nelbo.jobs.sharded import shared_profile
from nelbo.metrics import LikelihoodScore, ProfileDetector, auroc
from nelbo.models.base import LikelihoodModel
from nelbo.models.diffusion import Diffusion

PIECES, REFERENCE = 16, 1000
SPLITS = ("train", "val", "test")


def require_against(against: str, other: bool) -> None:
    """Check what ``against`` may get wrong, before anything is read.

    Raises:
        InputError: no other data, or no such split.
    """
    if not other:
        raise InputError("against", "compares other data with the run's own; name them with `data`")
    if against not in SPLITS:
        raise InputError("against", f"{against!r} is not a split{nearest(against, SPLITS)} (splits: train, val, test)")


def require_two_sets(others: Dataset, own: Dataset, split: str, against: str, limit: int | None) -> None:
    """Check that there are two sets to tell apart, before anything is computed.

    Raises:
        InputError: the same data twice, or a set of fewer than 2 images.
    """
    if others.sha256 == own.sha256:
        raise InputError("against", f"{others.name} is the run's own data; name others with `data`")
    for data, name in ((others, split), (own, against), (own, "val")):
        n = len(data.split(name))
        if n < 2:
            raise InputError("against", f"the {name} split of {data.name} has {n} images; it takes at least 2")
    if limit == 1:
        raise InputError("limit", "an AUROC takes at least 2 images of each set")


Scored = tuple[Tensor, LikelihoodScore]
"""Images, and their score."""


def detection(
    run: Run, model: LikelihoodModel, others: Scored, own: Scored, *, seed: int, batch: int
) -> dict[str, Any]:
    """AUROC of the total, and of the profile over t where there is one; above ½ where the others look stranger.

    Args:
        run: the run, whose ``val`` split says what profiles are usual.
        model: its model.
        others: the images that may be anomalies.
        own: images of the run's own data.
        seed, batch: of the noise, and images at a time.
    """
    (other, of_other), (normal, of_normal) = others, own
    totals = auroc(of_other.estimates().mean(1), of_normal.estimates().mean(1))
    found: dict[str, Any] = {
        "n": len(normal),
        "bits_per_dim": of_normal.bits(),
        "auroc_total": totals.value,
        "auroc_total_stderr": totals.stderr,
    }
    if isinstance(model, Diffusion) and model.timeline.has_terms:
        reference = run.dataset.split("val")[:REFERENCE]
        sets = (reference, normal, other)
        titles = (f"profile over t of {name}" for name in ("val", "the run's own images", "the others"))
        profiles = [
            shared_profile(model, images, title, pieces=PIECES, seed=seed, batch=batch).nats
            for images, title in zip(sets, titles, strict=True)
        ]
        detector = ProfileDetector(profiles[0])
        shape = auroc(detector.distance(profiles[2]), detector.distance(profiles[1]))
        found |= {"auroc_profile": shape.value, "auroc_profile_stderr": shape.stderr}
    return found
