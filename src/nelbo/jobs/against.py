"""A model as an anomaly detector: scores of other images against scores of its own data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nelbo.errors import InputError
from nelbo.jobs.chosen_data import chosen_data
from nelbo.jobs.score_request import ScoreRequest
from nelbo.jobs.sharded import shared_profile
from nelbo.metrics import LikelihoodScore, ProfileDetector, auroc
from nelbo.models.base import LikelihoodModel
from nelbo.models.diffusion import Diffusion
from nelbo.report.results import Detection

PIECES, REFERENCE = 16, 1000


def against_key(request: ScoreRequest) -> dict[str, Any]:
    """The fields of a score that name the run's own images for the comparison.

    Raises:
        InputError: both data are the same, or a set has fewer than 2 images.
    """
    split, others = request.options.against, request.dataset
    if split is None:
        return {}
    own = chosen_data(request.run, None)
    if others.sha256 == own.sha256:
        raise InputError("against", f"{others.name} is the run's own data; choose other images with `data`")
    for data, name in ((others, request.options.split), (own, split), (own, "val")):
        n = len(data.split(name))
        if n < 2:
            raise InputError("against", f"the {name} split of {data.name} has {n} images, but at least 2 are needed")
    if request.options.limit == 1:
        raise InputError("limit", "an AUROC needs at least 2 images of each set")
    return {"against_split": split, "against_sha256": own.sha256}


def compared(
    request: ScoreRequest,
    model: LikelihoodModel,
    of_others: LikelihoodScore,
    measure: Callable[[LikelihoodModel, Tensor, str], LikelihoodScore],
) -> Detection:
    """AUROC of the total, and of the profile over t if there is one; above ½ if the others are more unusual.

    Args:
        request: the possible anomalies, and the run, whose ``val`` split defines normal profiles.
        model: the run's model, in the requested number of steps.
        of_others: the score of the possible anomalies.
        measure: scores images, with a label for the progress bar.
    """
    run, options = request.run, request.options
    split = str(options.against)
    normal = run.dataset.split(split)[: options.limit]
    of_normal = measure(model, normal, f" of {split}")
    totals = auroc(of_others.estimates().mean(1), of_normal.estimates().mean(1))
    found: dict[str, Any] = {
        "split": split,
        "n": len(normal),
        "bits_per_dim": of_normal.bits(),
        "auroc_total": totals.value,
        "auroc_total_stderr": totals.stderr,
    }
    if isinstance(model, Diffusion) and model.timeline.has_terms:
        sets = {
            "val": run.dataset.split("val")[:REFERENCE],
            "the run's own images": normal,
            "the others": request.images,
        }
        usual, own, other = (
            shared_profile(
                model, images, f"profile over t of {name}", pieces=PIECES, seed=options.seed, batch=request.batch
            ).nats
            for name, images in sets.items()
        )
        detector = ProfileDetector(usual)
        shape = auroc(detector.distance(other), detector.distance(own))
        found |= {"auroc_profile": shape.value, "auroc_profile_stderr": shape.stderr}
    return Detection(**found)
